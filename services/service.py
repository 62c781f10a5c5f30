"""What every service does alike: a thread for its model, streams that end with StageDone, stop, info, check_health."""

import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel

from services.frames import Fact, Item, JsonValue, StageDone, Stream
from services.levers import ModelSettings
from services.limits import check_limits
from services.plan import Plan
from services.worker import Outlet, ServiceInfo, Worker

Settings = TypeVar("Settings", bound=ModelSettings)
Loaded = TypeVar("Loaded")
AnyPlan = TypeVar("AnyPlan", bound=Plan[Any])


class Service(Generic[Settings, Loaded]):
    """A loaded model that answers one request at a time.

    A model's service adds the methods of the roles that it offers (`services.roles`). Each checks its request, makes a
    plan of it, and returns the stream of the model's work: an error of the request is raised before the stream begins.

    Args:
        settings: what the configuration says.
        home: REELGRAPH_HOME, where downloads lie.
        replica: returns the name of this replica and its devices.

    Raises:
        ConfigError: weights, the device or another setting cannot be had.
    """

    kind: ClassVar[str]
    """The model's kind, e.g. `wan`."""
    load: Callable[[Settings, Path], Loaded]
    """Loads the weights of `settings`; blocks until they are on the device. The path is `home`."""

    def __init__(self, settings: Settings, home: Path, replica: Callable[[], str]) -> None:
        self._settings = settings
        self._replica = replica
        self._worker = Worker(self.kind)
        self._model = self.load(settings, home)

    @property
    def rate(self) -> Fraction | None:
        """Frames per second of its videos, where the checkpoint decides and not the request."""
        return None

    async def stop(self, key: str) -> None:
        """Cancel the stream that was opened with `key`, if it still runs."""
        self._worker.stop(key)

    async def info(self) -> ServiceInfo:
        """Return what is loaded here, and whether it is at work."""
        source, revision = self._settings.source, self._settings.revision
        return ServiceInfo(self.kind, source, revision, self._replica(), self._worker.busy, self.rate)

    def check_health(self) -> None:
        """Raise DeviceFailed when an earlier request left the device unusable."""
        self._worker.check()

    def _sample(
        self,
        stage: str,
        plan: AnyPlan,
        sample: Callable[[AnyPlan, Outlet[Item]], None],
        key: str,
        facts: Mapping[str, JsonValue] | None = None,
    ) -> Stream:
        """Stream the facts `seed` and `size`, then `facts`, what `sample` puts out for the plan, and StageDone."""
        decided: dict[str, JsonValue] = {"seed": plan.seed, "size": f"{plan.width}x{plan.height}", **(facts or {})}

        def work(outlet: Outlet[Item]) -> None:
            for name, value in decided.items():
                outlet.put(Fact(name, value))
            sample(plan, outlet)

        return self._stream(stage, work, key, plan.request)

    def _stream(
        self, stage: str, work: Callable[[Outlet[Item]], None], key: str, request: BaseModel | None = None
    ) -> Stream:
        """Stream what `work` puts out on the model's thread, and StageDone.

        Raises:
            LimitExceeded: at once, when a field of the request, sizes left aside, is beyond this deployment's limit.
        """
        if request is not None:
            check_limits(request, self._settings.limits)
        return self._run(stage, work, key)

    async def _run(self, stage: str, work: Callable[[Outlet[Item]], None], key: str) -> Stream:
        """Run `work` on the model's thread and stream what it puts out, and StageDone."""

        def timed_work(outlet: Outlet[Item]) -> None:
            began = time.perf_counter()
            work(outlet)
            seconds = time.perf_counter() - began
            source, revision = self._settings.source, self._settings.revision
            outlet.put(StageDone(stage, self.kind, source, revision, self._replica(), seconds))

        async with aclosing(self._worker.stream(timed_work, key)) as items:
            async for item in items:
                yield item
