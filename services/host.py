"""The deployment of models: one process with one or more models, each on its own thread."""

import os
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import ray
from ray import serve

from services.catalogue import KINDS
from services.errors import ModelFailed, ServiceBusy
from services.frames import Item, StageDone
from services.loading import Loading, State, write_loading
from services.roles import find_method
from services.service import Service
from services.worker import ServiceInfo

REMEMBERED = 8
"""Number of recent LoRA sets that Serve remembers for each replica."""


@dataclass(frozen=True)
class Hosted:
    """Configuration of a model of a host."""

    kind: str
    settings: Any
    """Settings of the model's kind."""


def name_replica() -> str:
    """Return the name of this replica, its node and its GPUs."""
    me = serve.get_replica_context().replica_id
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    node = cast("Any", ray).util.get_node_ip_address()
    return f"{me.deployment_id.name}#{me.unique_id} node={node} gpu={devices or 'none'}"


@contextmanager
def _reported(name: str, home: Path) -> Generator[None]:
    """Record that a model is being loaded, and whether that succeeded, for processes that wait for the server."""
    state: State = "failed"
    _report(name, "loading", home)
    try:
        yield
        state = "ready"
    finally:
        _report(name, state, home)


def _report(name: str, state: State, home: Path) -> None:
    with suppress(OSError):  # the state is for display only
        write_loading(home, Loading(name, state))


class Host:
    """Loads models and forwards calls to them.

    Args:
        models: id → model to load, in loading order.
        home: REELGRAPH_HOME, the folder of downloads.
        replica: returns the name of this replica and its devices.

    Raises:
        ConfigError: weights, a device or another setting are not available.
    """

    def __init__(self, models: Mapping[str, Hosted], home: Path, replica: Callable[[], str] = name_replica) -> None:
        self._services: dict[str, Service[Any, Any]] = {}
        self._methods = {
            name: {find_method(offer.role) for offer in KINDS[hosted.kind].offers} for name, hosted in models.items()
        }
        for name, hosted in models.items():
            with _reported(name, home):
                self._services[name] = KINDS[hosted.kind].load(hosted.settings, home, replica)

    async def stream(self, name: str, method: str, *args: object, **options: object) -> AsyncGenerator[Item]:
        """Call a streaming method of the model `name` and yield its items. Closing the stream stops the work.

        Raises the errors of the method, and:
            ModelFailed: no role of the model has this method.
            ServiceBusy: this host does not have the model; a host that has it is about to replace this one.
        """
        service, methods = self._service(name), self._methods[name]
        if method not in methods:
            raise ModelFailed(f"method: {name} has {', '.join(sorted(methods))}, got {method}")
        routed = serve.get_multiplexed_model_id()
        if routed:
            await self._remember(routed)
        async with aclosing(getattr(service, method)(*args, **options)) as items:
            async for item in items:
                yield replace(item, model=name) if isinstance(item, StageDone) else item

    async def stop(self, name: str, key: str) -> None:
        """Cancel the stream of the model `name` that was opened with `key`, if it is still running."""
        await self._service(name).stop(key)

    async def info(self, name: str) -> ServiceInfo:
        """Return the state of the model `name`."""
        return replace(await self._service(name).info(), name=name)

    def check_health(self) -> None:
        """Raise DeviceFailed if an earlier request left a device unusable."""
        for service in self._services.values():
            service.check_health()

    @cast("Any", serve).multiplexed(max_num_models_per_replica=REMEMBERED)
    async def _remember(self, names: str) -> str:
        """Register the LoRAs of this replica with Serve, so that it routes requests for them here."""
        return names

    def _service(self, name: str) -> Service[Any, Any]:
        service = self._services.get(name)
        if service is None:
            raise ServiceBusy(f"{name} is not on this replica, which has {', '.join(self._services)}; try again later")
        return service
