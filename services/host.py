"""The deployment of models: one process that holds one or more of them, each with a thread of its own."""

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
"""How many recent LoRA sets Serve remembers for each replica."""


@dataclass(frozen=True)
class Hosted:
    """A model of a host."""

    kind: str
    settings: Any
    """Of that kind."""


def name_replica() -> str:
    """Return the name of this replica, with its node and its GPUs."""
    me = serve.get_replica_context().replica_id
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    node = cast("Any", ray).util.get_node_ip_address()
    return f"{me.deployment_id.name}#{me.unique_id} node={node} gpu={devices or 'none'}"


@contextmanager
def _reported(name: str, home: Path) -> Generator[None]:
    """Write that a model is being loaded, and how that ended, for whoever waits for the server."""
    state: State = "failed"
    _report(name, "loading", home)
    try:
        yield
        state = "ready"
    finally:
        _report(name, state, home)


def _report(name: str, state: State, home: Path) -> None:
    with suppress(OSError):  # only a display misses it
        write_loading(home, Loading(name, state))


class Host:
    """Loads models and forwards calls to them.

    Args:
        models: id → what to load, in this order.
        home: REELGRAPH_HOME, where downloads lie.
        replica: says which replica this is, and on which devices.

    Raises:
        ConfigError: weights, a device or a lever cannot be had.
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
        """Call a streaming method of the model `name`, and yield what it yields. Closing it stops the work.

        Raises what the method raises, ModelFailed where no role that the model offers has such a method, and
        ServiceBusy where this host has no such model: it is about to be replaced by one that has, or nobody would have
        asked it.
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
        """Cancel the stream of a model that was opened with `key`, if it still runs."""
        await self._service(name).stop(key)

    async def info(self, name: str) -> ServiceInfo:
        """Return what is loaded as the model `name`, and whether it is busy."""
        return replace(await self._service(name).info(), name=name)

    def check_health(self) -> None:
        """Raise DeviceFailed when an earlier request has left a device unusable."""
        for service in self._services.values():
            service.check_health()

    @cast("Any", serve).multiplexed(max_num_models_per_replica=REMEMBERED)
    async def _remember(self, names: str) -> str:
        """Let Serve know which LoRAs this replica holds, so that it routes requests for them here."""
        return names

    def _service(self, name: str) -> Service[Any, Any]:
        service = self._services.get(name)
        if service is None:
            raise ServiceBusy(f"{name} is not on this replica, which has {', '.join(self._services)}; try again later")
        return service
