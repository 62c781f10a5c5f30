"""Base class of services: the model's thread, streams that end with StageDone, stop, info and check_health."""

import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel

from services.cost import Job
from services.frames import Fact, Item, JsonValue, StageDone, Stream
from services.levers import ModelSettings
from services.limits import check_limits
from services.plan import Plan
from services.worker import Outlet, ServiceInfo, Worker

Settings = TypeVar("Settings", bound=ModelSettings)
Loaded = TypeVar("Loaded")
AnyPlan = TypeVar("AnyPlan", bound=Plan[Any])


class Service(Generic[Settings, Loaded]):
    """A loaded model that processes one request at a time.

    A model's service adds the methods of the roles that it offers (`services.roles`). Each method validates its
    request, creates a plan and returns the model's stream: an invalid request raises before the stream begins.

    Args:
        settings: settings from the configuration.
        home: REELGRAPH_HOME, the folder of downloads.
        replica: returns the name of this replica and its devices.

    Raises:
        ConfigError: weights, the device or another setting are not available.
    """

    kind: ClassVar[str]
    """Kind of the model, e.g. `wan`."""
    load: Callable[[Settings, Path], Loaded]
    """Loads the weights, given the settings and `home`; blocks until they are on the device."""
    limit: Callable[[Settings, Path], Callable[[Job[Any]], None]] | None = None
    """Given the settings and `home`, returns a check of requests that raises LimitExceeded if one costs too much; None
    if the kind has no limit of cost."""

    def __init__(self, settings: Settings, home: Path, replica: Callable[[], str]) -> None:
        self._settings = settings
        self._replica = replica
        self._worker = Worker(self.kind)
        self._model = self.load(settings, home)
        self._check_job = None if self.limit is None else self.limit(settings, home)

    @property
    def rate(self) -> Fraction | None:
        """Frames per second of the videos, if the checkpoint determines it, not the request."""
        return None

    async def stop(self, key: str) -> None:
        """Cancel the stream that was opened with `key`, if it is still running."""
        self._worker.stop(key)

    async def info(self) -> ServiceInfo:
        """Return the loaded model and whether it is busy."""
        source, revision = self._settings.source, self._settings.revision
        return ServiceInfo(self.kind, source, revision, self._replica(), self._worker.busy, self.rate)

    def check_health(self) -> None:
        """Raise DeviceFailed if an earlier request left the device unusable."""
        self._worker.check()

    def _sample(
        self,
        stage: str,
        plan: AnyPlan,
        sample: Callable[[AnyPlan, Outlet[Item]], None],
        key: str,
        facts: Mapping[str, JsonValue] | None = None,
    ) -> Stream:
        """Stream the facts `seed` and `size`, then `facts`, the items of `sample`, and StageDone.

        Raises:
            LimitExceeded: before the stream begins, if the request costs more than `max_pflop`.
        """
        if self._check_job is not None:
            self._check_job(self._describe_job(plan))
        decided: dict[str, JsonValue] = {"seed": plan.seed, "size": f"{plan.width}x{plan.height}", **(facts or {})}

        def work(outlet: Outlet[Item]) -> None:
            for name, value in decided.items():
                outlet.put(Fact(name, value))
            sample(plan, outlet)

        return self._stream(stage, work, key, plan.request)

    def _describe_job(self, plan: Plan[Any]) -> Job[Any]:
        """Return what the cost of a plan depends on."""
        return Job(plan.request, plan.width * plan.height)

    def _stream(
        self, stage: str, work: Callable[[Outlet[Item]], None], key: str, request: BaseModel | None = None
    ) -> Stream:
        """Run `work` on the model's thread and stream its items, then StageDone.

        Raises:
            LimitExceeded: before the stream begins, if a field of the request other than a size is above its limit.
        """
        if request is not None:
            check_limits(request, self._settings.limits)
        return self._run(stage, work, key)

    async def _run(self, stage: str, work: Callable[[Outlet[Item]], None], key: str) -> Stream:
        """Run `work` on the model's thread and stream its items, then StageDone."""

        def timed_work(outlet: Outlet[Item]) -> None:
            began = time.perf_counter()
            work(outlet)
            seconds = time.perf_counter() - began
            source, revision = self._settings.source, self._settings.revision
            outlet.put(StageDone(stage, self.kind, source, revision, self._replica(), seconds))

        async with aclosing(self._worker.stream(timed_work, key)) as items:
            async for item in items:
                yield item
