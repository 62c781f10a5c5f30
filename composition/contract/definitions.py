"""What can be asked for by name, and what is answered: read off the catalogues and the classes of requests."""

import sys
from collections.abc import Mapping
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
from composition.http.listing import ANSWERED_AT_ONCE, Paging
from composition.http.schemas import IMAGE_EVENTS, Deleted, FileObject, ImagesObject, ListPage, ModelObject, VideoObject
from composition.media.limits import MediaKind
from composition.records.events import JOB_EVENTS
from composition.variants import VIDEO
from services.catalogue import KINDS
from services.model import Model

SECONDS = "seconds"
QUERIES: tuple[type[BaseModel], ...] = (ContentQuery, Paging)
"""Queries of URLs."""
ANSWERS: tuple[type[BaseModel], ...] = (
    FileObject,
    VideoObject,
    ImagesObject,
    FaceObject,
    ModelObject,
    Deleted,
    ListPage,
    *JOB_EVENTS,
    *IMAGE_EVENTS,
)
"""What the server answers with, but for errors."""


@dataclass(frozen=True)
class Field:
    """One field of a request or an answer."""

    name: str
    """In requests and answers."""
    info: FieldInfo
    text: str
    """What it means."""
    schema: Mapping[str, Any]
    """JSON schema of what may be given, with references to other parts of the whole."""
    media: MediaKind | None = None
    """What it holds, where that is a medium."""

    @property
    def type(self) -> Any:
        """Of what may be given."""
        return input_type(self.info)


@dataclass(frozen=True)
class Definition:
    """What can be asked for: a graph, a kind of model alone, or what a model answers at once."""

    name: str
    """Graph, kind, or path."""
    request: type[BaseModel]
    text: str
    """What it does, in a sentence or two."""
    names: tuple[str, ...] = ()
    """What a request for a video may say for `model`, the one that the command says at first."""
    command: str = ""
    """Name of the command of a job."""
    roles: tuple[str, ...] = ()
    """Of the models of a graph; a model alone has none."""
    result: Literal["video", "image"] = "video"
    """What it makes, if nothing else is asked for."""

    @property
    def fields(self) -> list[Field]:
        """All fields of its requests, but for the `model` of a video."""
        return [*list_fields(self.request), *self.extra]

    @property
    def extra(self) -> list[Field]:
        """The fields that every video may be asked for with, as far as this one may be."""
        request = self.request
        if not issubclass(request, GraphRequest):
            return []
        shared = {field.name: field for field in list_fields(VideoBody)}
        found: list[Field] = []
        if request.REFERENCE:
            found.append(replace(shared[REFERENCE_NAME], media=request.MEDIA[request.REFERENCE]))
        return [*found, shared[SECONDS]] if request.takes_seconds() else found

    def needs(self, field: Field) -> bool:
        """Whether a request cannot do without a field. It can where OpenAI's `input_reference` may stand for it."""
        return field.info.is_required() and field.name != getattr(self.request, "REFERENCE", "")


def list_definitions() -> list[Definition]:
    """Return the graphs, the kinds of models alone, and what is answered at once."""
    alone = [define_single(KINDS[kind], graph) for kind, graph in SINGLES.items()]
    at_once = [Definition(path, request, summarize(request)) for path, (_, request) in ANSWERED_AT_ONCE.items()]
    return [*map(define_graph, GRAPHS), *alone, *at_once]


def list_fields(kind: type[BaseModel]) -> list[Field]:
    """Return the fields of a class of requests or answers, or of an object within one."""
    media: dict[str, MediaKind] = dict(getattr(kind, "MEDIA", {}))
    texts = describe_fields(kind)
    schemas: dict[str, Any] = kind.model_json_schema().get("properties", {})
    return [
        Field(called, info, texts.get(name, ""), schemas[called], media.get(name))
        for name, info in kind.model_fields.items()
        for called in [wire_name(name, info)]
    ]


def list_own_fields(kind: type[BaseModel]) -> list[Field]:
    """Return the fields that a class adds to those it inherits."""
    added = vars(kind).get("__annotations__", {})
    own = {wire_name(name, info) for name, info in kind.model_fields.items() if name in added}
    return [field for field in list_fields(kind) if field.name in own]


def summarize(kind: type[BaseModel]) -> str:
    """Return the first paragraph of a class's docstring."""
    return " ".join((kind.__doc__ or "").strip().partition("\n\n")[0].split())


def define_graph(graph: Graph) -> Definition:
    """Return what there is to know of a graph."""
    return Definition(
        name=graph.name,
        request=graph.request,
        text=summarize(graph.request),
        names=(graph.name,),
        command=graph.command or graph.name,
        roles=tuple(need.role for need in graph.roles),
        result=_find_result(graph.request),
    )


def define_single(model: Model[Any], graph: Graph) -> Definition:
    """Return what there is to know of a kind of models.

    Args:
        model: the kind.
        graph: of the jobs of one such model alone.
    """
    asked = graph.needs[0].request or graph.request
    folder = sys.modules[asked.__module__.rpartition(".")[0]]
    return Definition(
        name=model.kind,
        request=graph.request,
        text=f"{summarize(graph.request)} {' '.join((folder.__doc__ or '').split())}",
        names=(*model.aliases, model.kind),
        command=model.command or model.kind,
        result=_find_result(graph.request),
    )


def _find_result(request: type[GraphRequest]) -> Literal["video", "image"]:
    defaults = {name: info.default for name, info in request.model_fields.items() if not info.is_required()}
    return "video" if VIDEO in request.makes(defaults) else "image"
