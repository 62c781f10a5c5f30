"""What a graph is to everybody else: one value, which its folder exports as `GRAPH`."""

import pkgutil
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

from pydantic import BaseModel

from composition.graphs.request import GraphRequest
from services.model import Role

if TYPE_CHECKING:  # what runs a graph loads databases and decoders, which a request needs none of
    from composition.graphs.calls import Models, Transport
    from composition.graphs.run import GraphSettings, Known
    from services.frames import Item


class Runnable(Protocol):
    """A graph with the models that it calls."""

    def run(self, request: Any, known: "Known" = ...) -> "AsyncIterator[Item]":
        """Yield what the request asks for, without what is `known`. Closing it stops the work."""
        ...


class GraphClass(Protocol):
    """The class of a graph."""

    def __call__(self, models: "Models", settings: "GraphSettings", transport: "Transport") -> Runnable:
        """Make the graph.

        Args:
            models: the models that take its roles.
            settings: what the configuration says.
            transport: the exceptions of the calls.
        """
        ...


@dataclass(frozen=True)
class Need:
    """A role that a graph needs a model for."""

    role: Role
    request: type[BaseModel] | None = None
    """What the graph asks the model with: models that are asked otherwise cannot take the role in this graph."""
    at: str | None = None
    """The field of the graph's request whose fields are those of `request`; empty where they stand beside the graph's
    own. The model's limits and defaults hold for them. None where a request says nothing of them."""


@dataclass(frozen=True, eq=False)
class Graph:
    """A composition of models."""

    name: str
    request: type[GraphRequest]
    path: str
    """Where its class is, as `module:class`. It is imported when a request runs."""
    needs: tuple[Need, ...] = ()
    """It is not served without these."""
    wants: tuple[Need, ...] = ()
    """It uses these where they are served."""
    parts: frozenset[str] = frozenset()
    """Names of the graphs that run the jobs that it makes. It is not served without these."""
    alternatives: Mapping[str, "Graph"] = field(default_factory=dict[str, "Graph"])
    """Its other forms, by the configuration's `scenes_by`."""
    command: str = ""
    """Name of the command for it; empty where it is the graph's name."""

    @property
    def roles(self) -> tuple[Need, ...]:
        """All that it can use a model for."""
        return (*self.needs, *self.wants)

    @property
    def make(self) -> GraphClass:
        """Import the class."""
        return cast("GraphClass", pkgutil.resolve_name(self.path))
