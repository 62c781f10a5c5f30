"""Definitions of requests and responses, read from the catalogues and the request classes."""

import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from composition.graphs.catalogue import GRAPHS
from composition.graphs.graph import Graph
from composition.graphs.request import GraphRequest
from composition.graphs.single import SINGLES
from composition.http.bodies import REFERENCE_NAME, VideoBody
from composition.http.content import ContentQuery
from composition.http.descriptions import describe_fields, input_type, wire_name
from composition.http.faces import FaceObject
from composition.http.listing import ANSWERED_AT_ONCE, PageQuery
from composition.http.provenance import ContentProvenanceCheckObject, ProvenanceRequest
from composition.http.schemas import IMAGE_EVENTS, Deleted, FileObject, ImagesObject, ListPage, ModelObject, VideoObject
from composition.media.limits import MediaKind
from composition.records.events import JOB_EVENTS
from composition.variants import VIDEO
from services.catalogue import KINDS
from services.model import Model

SECONDS = "seconds"
QUERIES: tuple[type[BaseModel], ...] = (ContentQuery, PageQuery)
"""Classes of URL query parameters."""
ANSWERS: tuple[type[BaseModel], ...] = (
    FileObject,
    VideoObject,
    ImagesObject,
    FaceObject,
    ContentProvenanceCheckObject,
    ModelObject,
    Deleted,
    ListPage,
    *JOB_EVENTS,
    *IMAGE_EVENTS,
)
"""Classes of responses and events, without errors."""


@dataclass(frozen=True)
class Field:
    """One field of a request or a response."""

    name: str
    """Name of the field in JSON."""
    info: FieldInfo
    text: str
    """Description of the field."""
    schema: Mapping[str, Any]
    """JSON schema of the values, with references to the definitions of the class's schema."""
    media: MediaKind | None = None
    """Kind of medium, if the field is one."""
    words: tuple[str, ...] = ()
    """What a media field accepts instead of a medium."""

    @property
    def type(self) -> Any:
        """Type of the values that a request may contain."""
        return input_type(self.info)


@dataclass(frozen=True)
class RoleCommand:
    """A further command of a kind of model, for one of its roles."""

    name: str
    model: str
    """Name of the model in its requests."""
    text: str
    """Description in one or two sentences."""
    without: frozenset[str]
    """Fields that it has no options for."""


@dataclass(frozen=True)
class Definition:
    """The definition of a request: to a graph, to a single model, or to a model that responds without a job."""

    name: str
    """Name of the graph, kind of the model, or path of the URL."""
    request: type[BaseModel]
    text: str
    """Description in one or two sentences."""
    names: tuple[str, ...] = ()
    """Values of `model` in a request for a video; the command uses the first."""
    command: str = ""
    """Name of the command-line command that creates a job."""
    role_commands: tuple[RoleCommand, ...] = ()
    """Further commands."""
    roles: tuple[str, ...] = ()
    """Roles of the models of a graph; empty for a single model."""
    result: Literal["video", "image"] = "video"
    """Type of the result with the default fields."""

    @property
    def fields(self) -> list[Field]:
        """All fields of the requests, except the `model` of a video."""
        return [*list_fields(self.request), *self.extra]

    @property
    def extra(self) -> list[Field]:
        """The common fields of requests for videos that this one supports."""
        request = self.request
        if not issubclass(request, GraphRequest):
            return []
        shared = {field.name: field for field in list_fields(VideoBody)}
        found: list[Field] = []
        if request.REFERENCE:
            found.append(replace(shared[REFERENCE_NAME], media=request.MEDIA[request.REFERENCE]))
        return [*found, shared[SECONDS]] if request.takes_seconds() else found

    def needs(self, field: Field) -> bool:
        """Return whether a field is required, and OpenAI's `input_reference` is not an alternative to it."""
        return field.info.is_required() and field.name != getattr(self.request, "REFERENCE", "")


def list_definitions() -> list[Definition]:
    """Return the definitions of graphs, of single models, and of requests that are answered without a job."""
    alone = [define_single(KINDS[kind], graph) for kind, graph in SINGLES.items()]
    at_once = [Definition(path, request, summarize(request)) for path, (_, request) in ANSWERED_AT_ONCE.items()]
    check = Definition("/v1/content_provenance_checks", ProvenanceRequest, summarize(ProvenanceRequest))
    return [*map(define_graph, GRAPHS), *alone, *at_once, check]


def list_fields(kind: type[BaseModel]) -> list[Field]:
    """Return the fields of a class of requests or responses, or of a nested object."""
    media: dict[str, MediaKind] = dict(getattr(kind, "MEDIA", {}))
    words: dict[str, Collection[str]] = dict(getattr(kind, "WORDS", {}))
    texts = describe_fields(kind)
    schemas: dict[str, Any] = kind.model_json_schema().get("properties", {})
    return [
        Field(called, info, texts.get(name, ""), schemas[called], media.get(name), tuple(words.get(name, ())))
        for name, info in kind.model_fields.items()
        for called in [wire_name(name, info)]
    ]


def list_own_fields(kind: type[BaseModel]) -> list[Field]:
    """Return the fields that a class defines itself, without inherited fields."""
    added = vars(kind).get("__annotations__", {})
    own = {wire_name(name, info) for name, info in kind.model_fields.items() if name in added}
    return [field for field in list_fields(kind) if field.name in own]


def summarize(kind: type[BaseModel]) -> str:
    """Return the first paragraph of a class's docstring."""
    return " ".join((kind.__doc__ or "").strip().partition("\n\n")[0].split())


def define_graph(graph: Graph) -> Definition:
    """Return the definition of requests to a graph."""
    return Definition(
        name=graph.name,
        request=graph.request,
        text=summarize(graph.request),
        names=(graph.name,),
        command=graph.command or graph.name,
        roles=tuple(need.role for need in graph.roles),
        result=_find_result(graph),
    )


def define_single(model: Model[Any], graph: Graph) -> Definition:
    """Return the definition of requests to a single model.

    Args:
        model: the kind of the model.
        graph: the graph of jobs with this model only.
    """
    request = graph.needs[0].request or graph.request
    folder = sys.modules[request.__module__.rpartition(".")[0]]
    about = " ".join((folder.__doc__ or "").split())
    requests = {need.role: need.request for need in graph.needs}
    more = [
        RoleCommand(
            name=name,
            model=next((alias for alias, other in model.aliases.items() if other == role), model.kind),
            text=f"{summarize(requests[role] or graph.request)} {about}",
            without=frozenset(graph.request.list_unused({role})),
        )
        for name, role in model.role_commands.items()
    ]
    return Definition(
        name=model.kind,
        request=graph.request,
        text=f"{summarize(graph.request)} {about}",
        role_commands=tuple(more),
        names=(*model.aliases, model.kind),
        command=model.command or model.kind,
        result=_find_result(graph),
    )


def _find_result(graph: Graph) -> Literal["video", "image"]:
    defaults = {name: info.default for name, info in graph.request.model_fields.items() if not info.is_required()}
    return "video" if VIDEO in graph.request.list_videos(defaults, graph.outputs) else "image"
