"""The deployment of graphs: one process that runs one or more of them."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from composition.configuration.served import Assignment, Registry
from composition.configuration.settings import StateSettings
from composition.graphs.calls import Transport
from composition.graphs.request import GraphRequest
from composition.graphs.run import NOTHING_KNOWN, GraphSettings, Known
from services.errors import ModelFailed
from services.frames import Item


class GraphHost:
    """Runs graphs with the models that take their roles.

    Args:
        state: where media and jobs are.
        served: what is served.
        transport: the exceptions of the calls.
    """

    def __init__(self, state: StateSettings, served: Registry, transport: Transport) -> None:
        self._state = state
        self._served = served
        self._transport = transport

    async def stream(
        self, name: str, method: str, request: GraphRequest, known: Known = NOTHING_KNOWN
    ) -> AsyncGenerator[Item]:
        """Run what is asked for by `name`, a graph or a model alone, and yield what it yields.

        Closing it stops the work. Raises what the graph raises, InvalidParameter where a model is not served, and
        ServiceBusy.
        """
        if method != "run":
            raise ModelFailed(f"method: a graph has only run, got {method}")
        graph, asked = await asyncio.to_thread(self._build_graph, name, request)
        async with aclosing(graph.run(asked, known)) as items:
            async for item in items:
                yield item

    def _build_graph(self, name: str, request: GraphRequest) -> tuple[Any, GraphRequest]:
        """Make the graph, and the request with the models that take its roles. Blocks."""
        assignment = self._served.read_snapshot().assign_models(name, request.models)
        models = self._served.open_models(assignment)
        graph = assignment.graph.make(models, self._build_settings(assignment, request), self._transport)
        return graph, request.model_copy(update={"models": assignment.ids})

    def _build_settings(self, assignment: Assignment, request: GraphRequest) -> GraphSettings:
        return GraphSettings(
            artifacts=self._state.artifact_store,
            media=self._state.media,
            defaults=assignment.complete_fields(request.model_dump(exclude_unset=True)),
            database=self._state.database_url,
            role_defaults={role: dict(served.defaults) for role, served in assignment.models.items()},
        )
