"""Finding the deployed models and graphs, and opening their handles."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from composition.configuration.served import HEALTHY, Assignment, ServedModel
from composition.configuration.snapshot import Snapshot, build_snapshot
from composition.graphs.calls import Handle, Models, Transport, ask
from composition.graphs.graph import Graph, Runnable
from composition.records.store import Store
from composition.records.tables import Job
from services.errors import InvalidParameter, ModelFailed, ServiceBusy
from services.roles import Informative

log = logging.getLogger("ray.serve.reelgraph.served")

FetchStates = Callable[[], Mapping[str, str]]
"""Requests the states of all applications from Serve: name → state of its deployment, in configuration order."""


@dataclass(frozen=True)
class Timeouts:
    """Timeouts of a Registry, in seconds."""

    cache_s: float = 1.0
    """Time for which a snapshot is cached."""
    answer_s: float = 10.0
    """Time for a model to answer."""


TIMEOUTS = Timeouts()


class Registry:
    """Finds the deployed models and graphs, and opens their handles.

    Args:
        store: the store, where applications register what they host.
        fetch_states: requests the states of applications from Serve.
        open_handle: returns the handle of an application's deployment; blocks, and raises ServiceBusy if the
            application is still being built.
        transport: exceptions of calls between deployments.
        timeouts: timeouts of requests and of the cache.
    """

    def __init__(
        self,
        store: Store,
        fetch_states: FetchStates,
        open_handle: Callable[[str], Any],
        transport: Transport,
        timeouts: Timeouts = TIMEOUTS,
    ) -> None:
        self._store = store
        self._fetch_states = fetch_states
        self._open_handle = open_handle
        self._transport = transport
        self._timeouts = timeouts
        self._read_at: float | None = None
        self._snapshot = Snapshot({}, {})
        self._rates: dict[tuple[str, float], float] = {}

    def read_snapshot(self) -> Snapshot:
        """Return the current snapshot, cached for `Timeouts.cache_s`. Blocks.

        While the database or Serve's controller is unavailable, returns the last snapshot. Raises ServiceBusy if there
        is none.
        """
        if self._read_at is not None and time.monotonic() - self._read_at < self._timeouts.cache_s:
            return self._snapshot
        try:
            self._snapshot = build_snapshot(self._store.list_deployed(), self._fetch_states())
        except (SQLAlchemyError, *self._transport.lost) as error:
            if self._read_at is None:
                raise ServiceBusy("the list of deployed models is not available yet; try again later") from error
            log.warning("the deployed models could not be read; the last list is used", exc_info=True)
        self._read_at = time.monotonic()
        return self._snapshot

    def open_model(self, served: ServedModel) -> Handle[Any]:
        """Open the handle of a model. Blocks; raises ServiceBusy."""
        return Handle(self._open_handle(served.application), served.id)

    def open_models(self, assignment: Assignment) -> Models:
        """Open the handles of an assignment's models, by role. Blocks; raises ServiceBusy."""
        return Models({role: self.open_model(served) for role, served in assignment.models.items()})

    def open_graph(self, assignment: Assignment) -> Handle[Runnable]:
        """Open the handle of an assignment's graph. Blocks; raises ServiceBusy."""
        return Handle(self._open_handle(assignment.application), assignment.name)

    def find_graph(self, job: Job) -> tuple[Handle[Runnable], Graph]:
        """Open the graph of a stored job, and return its handle and the graph. Blocks.

        Raises ModelFailed if the graph, or a model of the job, is no longer deployed; and ServiceBusy.
        """
        try:
            assignment = self.read_snapshot().assign_models(job.model, job.params.get("models") or {})
        except InvalidParameter as error:
            raise ModelFailed(f"the job can no longer be run: {error.message}", param=error.param) from error
        return self.open_graph(assignment), assignment.graph

    async def find_rate(self, assignment: Assignment) -> float:
        """Return the default frame rate of an assignment's video in frames per second; 0 if it has none.

        Raises ServiceBusy if only the loaded model knows its rate, and does not answer.
        """
        for served in assignment.models.values():
            if served.model.rate is not None:
                return served.rate or await self._fetch_rate(served)
        return 0.0

    async def _fetch_rate(self, served: ServedModel) -> float:
        """Return the rate of the loaded checkpoint in frames per second, cached until the model is deployed again."""
        key = served.id, served.built_at
        if key not in self._rates or served.state != HEALTHY:
            model = await asyncio.to_thread(self.open_model, served)
            try:
                async with asyncio.timeout(self._timeouts.answer_s):
                    info = await ask(model, Informative.info)
            except (TimeoutError, *self._transport.lost, *self._transport.busy) as error:
                raise ServiceBusy(
                    f"seconds: the frame rate of {served.id} is not known yet, its state is {served.state}; give "
                    "num_frames, or try again later",
                    param="seconds",
                ) from error
            if info.rate is None:
                raise ServiceBusy(f"seconds: {served.id} has no frame rate; give num_frames", param="seconds")
            self._rates[key] = float(info.rate)
        return self._rates[key]
