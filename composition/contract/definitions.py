"""What can be asked for by name, and what is answered: read off the catalogues and the classes of requests."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from composition.graphs.catalogue import GRAPHS
from composition.graphs.graph import Graph, GraphRequest
from composition.graphs.single.graph import SINGLES
from composition.http.bodies import REFERENCE_NAME, VideoBody
from composition.http.descriptions import describe_fields, input_type, wire_name
from composition.http.faces import FaceObject
from composition.http.listing import ANSWERED_AT_ONCE
from composition.http.schemas import (
    IMAGE_EVENTS,
    Deleted,
    FileObject,
    ImagesObject,
    ListPage,
    ModelObject,
    VideoObject,
)
from composition.media.decode import MediaKind
from composition.records.events import JOB_EVENTS
from composition.records.store import VIDEO
from services.catalogue import KINDS
from services.model import Model

SECONDS = "seconds"
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
    """One field of a request."""

    name: str
    """In requests."""
    info: FieldInfo
    text: str
    """What it means."""
    media: MediaKind | None = None
    """What it holds, where that is a medium."""

    @property
    def type(self) -> object:
        """Of what may be given."""
        return input_type(self.info)


@dataclass(frozen=True)
class Definition:
    """What can be asked for: a graph, a kind of model alone, or what a model answers at once."""

    name: str
    """Graph, kind, or path."""
    request: type[BaseModel]
    text: str
    """What it does, in a sentence."""
    names: tuple[str, ...] = ()
    """What a request may say for `model`."""
    command: str = ""
    """Name of its command; empty where a command is written for it."""
    roles: tuple[str, ...] = ()
    """Of the models of a graph; a model alone has none."""
    result: Literal["video", "image"] = "video"
    """What it makes, if nothing else is asked for."""

    @property
    def is_job(self) -> bool:
        """Whether it is a job, and not answered at once."""
        return issubclass(self.request, GraphRequest)

    @property
    def fields(self) -> list[Field]:
        """All fields of its requests but `model`."""
        return [*list_fields(self.request), *self.extra]

    @property
    def extra(self) -> list[Field]:
        """The fields that every video may be asked for with, as far as this one can."""
        request = self.request
        if not issubclass(request, GraphRequest):
            return []
        texts = describe_fields(VideoBody)
        found: list[Field] = []
        if request.REFERENCE:
            kind = request.MEDIA[request.REFERENCE]
            found.append(Field(REFERENCE_NAME, VideoBody.model_fields[REFERENCE_NAME], texts[REFERENCE_NAME], kind))
        if request.takes_seconds():
            found.append(Field(SECONDS, VideoBody.model_fields[SECONDS], texts[SECONDS]))
        return found

    def must_have(self, field: Field) -> bool:
        """Whether a request cannot do without the field. What OpenAI's `input_reference` may stand for, it can."""
        return field.info.is_required() and field.name != getattr(self.request, "REFERENCE", "")


def list_definitions() -> list[Definition]:
    """Return the graphs, the kinds of models alone, and what is answered at once."""
    alone = [_define_single(KINDS[kind], graph) for kind, graph in SINGLES.items()]
    at_once = [Definition(path, request, summarize(request)) for path, (_, request) in ANSWERED_AT_ONCE.items()]
    return [*map(_define_graph, GRAPHS), *alone, *at_once]


def list_fields(kind: type[BaseModel]) -> list[Field]:
    """Return the fields of a class of requests, or of an object within one."""
    media: dict[str, MediaKind] = dict(getattr(kind, "MEDIA", {}))
    texts = describe_fields(kind)
    return [
        Field(wire_name(name, info), info, texts.get(name, ""), media.get(name))
        for name, info in kind.model_fields.items()
    ]


def own_names(kind: type[BaseModel]) -> set[str]:
    """Return the names, in requests, of the fields that a class adds to those it inherits."""
    added = vars(kind).get("__annotations__", {})
    return {wire_name(name, info) for name, info in kind.model_fields.items() if name in added}


def summarize(kind: type[BaseModel]) -> str:
    """Return the first paragraph of a class's docstring."""
    return " ".join((kind.__doc__ or "").strip().partition("\n\n")[0].split())


def _define_graph(graph: Graph) -> Definition:
    roles = tuple(need.role for need in graph.roles)
    command = graph.command or graph.name
    return Definition(
        graph.name, graph.request, summarize(graph.request), (graph.name,), command, roles, _result(graph.request)
    )


def _define_single(model: Model[Any], graph: Graph) -> Definition:
    asked = model.offers[0].request or graph.request
    folder = sys.modules[asked.__module__.rpartition(".")[0]]
    text = f"{summarize(graph.request)} {' '.join((folder.__doc__ or '').split())}"
    names = (*model.aliases, model.kind)
    command = model.command or model.kind
    return Definition(model.kind, graph.request, text, names, command, result=_result(graph.request))


def _result(request: type[GraphRequest]) -> Literal["video", "image"]:
    fields: Sequence[tuple[str, FieldInfo]] = list(request.model_fields.items())
    defaults = {name: info.default for name, info in fields if not info.is_required()}
    return "video" if VIDEO in request.makes(defaults) else "image"
