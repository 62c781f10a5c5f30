"""The description of a graph, which its package exports as `GRAPH`."""

import pkgutil
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

from pydantic import BaseModel

from composition.graphs.branching import Branching
from composition.graphs.request import GraphRequest
from composition.variants import VIDEO
from services.model import Model, Offer, Role

if TYPE_CHECKING:  # importing these loads database drivers and decoders, which requests do not need
    from composition.graphs.calls import Models, Transport
    from composition.graphs.run import GraphSettings, Known
    from services.frames import Item

DEFAULT_SEGMENTS = (8, 32)
"""Number of frames in the first segment, short so that playback can start early, and in each later one."""


class Runnable(Protocol):
    """A graph with the models that it calls."""

    def run(self, request: Any, known: "Known" = ...) -> "AsyncIterator[Item]":
        """Yield the results of the request, except those that are `known`. Closing the stream stops the work."""
        ...


class GraphClass(Protocol):
    """The class of a graph."""

    def __call__(self, models: "Models", settings: "GraphSettings", transport: "Transport") -> Runnable:
        """Create the graph.

        Args:
            models: handles of the models, by role.
            settings: the graph's configuration.
            transport: the exceptions of the calls.
        """
        ...


@dataclass(frozen=True)
class Need:
    """A role for which a graph uses a model."""

    role: Role
    request: type[BaseModel] | None = None
    """The class of the requests that the graph sends; only models that accept it can take the role."""
    at: str | None = None
    """The field of the graph's request that holds the model's request, or an empty string if the model's fields are
    fields of the graph's request. The model's limits and defaults apply to them. None if the graph sets them."""
    others: tuple[type[BaseModel], ...] = ()
    """Other classes of requests that the graph can send instead."""

    def find_offer(self, model: Model[Any]) -> Offer | None:
        """Return the offer by which a kind of model can take the role, or None if it cannot."""
        offers = (model.find_offer(self.role, request) for request in (self.request, *self.others))
        return next((offer for offer in offers if offer is not None), None)


@dataclass(frozen=True, eq=False)
class Graph:
    """A composition of models."""

    name: str
    request: type[GraphRequest]
    path: str
    """The class that runs it, as `module:class`. It is imported when a request runs."""
    needs: tuple[Need, ...] = ()
    """Required roles: the graph is available only if a model is served for each."""
    wants: tuple[Need, ...] = ()
    """Optional roles: used if a model is served."""
    parts: frozenset[str] = frozenset()
    """Names of the graphs that run its child jobs. The graph is available only if they are served."""
    stages: Mapping[str, float] = field(default_factory=dict[str, float])
    """The stages of a run in order, each with its estimated share of the run time; the shares add up to 1."""
    outputs: tuple[str, ...] = (VIDEO,)
    """Variants of the videos that a run can produce."""
    keeps_frames: bool = False
    """Whether each frame is stored lossless as soon as it exists: frames that are costly or depend on each other."""
    segments: tuple[int, int] = DEFAULT_SEGMENTS
    """Number of frames in the first segment of a video, and in each later one."""
    waits: bool = False
    """Whether a run mostly waits for child jobs. Such runs have separate slots in a runner."""
    branching: Branching | None = None
    """How a job continues an older one; None if it cannot."""
    alternatives: Mapping[str, "Graph"] = field(default_factory=dict[str, "Graph"])
    """Value of `scenes_by` in the configuration → the graph that replaces this one."""
    command: str = ""
    """Name of its command on the command line; empty if it is the graph's name."""

    @property
    def roles(self) -> tuple[Need, ...]:
        """All roles, required ones first."""
        return (*self.needs, *self.wants)

    @property
    def make(self) -> GraphClass:
        """The class that runs it."""
        return cast("GraphClass", pkgutil.resolve_name(self.path))
