"""The deployment that hosts one or more graphs."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from composition.configuration.registry import Registry
from composition.configuration.served import Assignment
from composition.configuration.settings import StateSettings
from composition.graphs.calls import Transport
from composition.graphs.request import GraphRequest, apply_background
from composition.graphs.run import NOTHING_KNOWN, GraphSettings, Known
from services.errors import ModelFailed
from services.frames import Item


class GraphHost:
    """Runs graphs with the deployed models.

    Args:
        state: settings of the database, the artifact store and media limits.
        served: registry of the deployed models.
        transport: exceptions of calls between deployments.
    """

    def __init__(self, state: StateSettings, served: Registry, transport: Transport) -> None:
        self._state = state
        self._served = served
        self._transport = transport

    async def stream(
        self, name: str, method: str, request: GraphRequest, known: Known = NOTHING_KNOWN
    ) -> AsyncGenerator[Item]:
        """Run a graph and yield its items. Closing the stream cancels the work.

        Args:
            name: a graph's name, or a model's id or alias for a single-model job.
            method: must be `run`.
            request: the request.
            known: results of earlier attempts.

        Raises:
            InvalidParameter: a model of the request is not deployed.
            ServiceBusy: a model is still being started.
            ReelError: as raised by the graph.
        """
        if method != "run":
            raise ModelFailed(f"method: must be run, got {method}")
        graph, resolved = await asyncio.to_thread(self._build_graph, name, request)
        async with aclosing(graph.run(resolved, known)) as items:
            async for item in items:
                yield item

    def _build_graph(self, name: str, request: GraphRequest) -> tuple[Any, GraphRequest]:
        """Return the graph with its models, and the request with their ids. Blocks."""
        assignment = self._served.read_snapshot().assign_models(name, request.models)
        models = self._served.open_models(assignment)
        graph = assignment.graph.make(models, self._build_settings(assignment, request), self._transport)
        return graph, request.model_copy(update={"models": assignment.ids})

    def _build_settings(self, assignment: Assignment, request: GraphRequest) -> GraphSettings:
        return GraphSettings(
            artifacts=self._state.artifact_store,
            media=apply_background(self._state.media, request),
            defaults=assignment.complete_fields(request.model_dump(exclude_unset=True)),
            database=self._state.database_url,
            role_defaults={role: dict(served.defaults) for role, served in assignment.models.items()},
            role_kinds={role: served.model.kind for role, served in assignment.models.items()},
            role_rates={role: served.rate for role, served in assignment.models.items()},
        )
