"""The deployment of graphs: one process that runs one or more of them."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from composition.calls import Transport
from composition.graph import NOTHING_KNOWN, GraphRequest, GraphSettings, Known
from composition.served import Assignment, Served
from composition.settings import StateSettings
from services.errors import ModelFailed
from services.frames import Item


class GraphHost:
    """Runs graphs with the models that take their roles.

    Args:
        state: where media and jobs are.
        served: what is served.
        transport: the exceptions of the calls.
    """

    def __init__(self, state: StateSettings, served: Served, transport: Transport) -> None:
        self._state = state
        self._served = served
        self._transport = transport

    async def stream(
        self, name: str, method: str, request: GraphRequest, known: Known = NOTHING_KNOWN
    ) -> AsyncGenerator[Item]:
        """Run what is asked for by `name`, a graph or a model alone, and yield what it yields.

        Closing it stops the work. Raises what the graph raises, and InvalidParameter where a model is not served.
        """
        if method != "run":
            raise ModelFailed(f"method: a graph has only run, got {method}")
        snapshot = await asyncio.to_thread(self._served.read)
        assignment = snapshot.assign(name, request.models)
        settings = self._settings(assignment, request)
        graph = assignment.graph.make(self._served.open_models(assignment), settings, self._transport)
        async with aclosing(graph.run(request.model_copy(update={"models": assignment.ids}), known)) as items:
            async for item in items:
                yield item

    def _settings(self, assignment: Assignment, request: GraphRequest) -> GraphSettings:
        return GraphSettings(
            artifacts=self._state.artifact_store,
            media=self._state.media,
            defaults=assignment.complete(request.model_dump(exclude_unset=True)),
            database=self._state.database_url,
            role_defaults={role: dict(served.defaults) for role, served in assignment.models.items()},
        )
