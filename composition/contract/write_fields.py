"""Generation of the client's `fields.py`: a TypedDict for each request class, and one with all fields of videos."""

import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from composition.contract.definitions import (
    QUERIES,
    Definition,
    Field,
    list_fields,
    list_own_fields,
    summarize,
)
from composition.contract.source import HEAD, PACKAGE, join_types, split_types, write_docstring, write_text, write_type
from composition.contract.words import describe_default, describe_limits
from composition.graphs.identity import Identity
from composition.graphs.request import GraphRequest
from composition.http.descriptions import find_classes
from composition.http.faces import FaceRequest
from composition.http.provenance import ProvenanceRequest
from composition.media.limits import MediaKind
from services.errors import ConfigError

NAMES: dict[str, str] = {
    "ContentQuery": "ContentOptions",
    "PageQuery": "ListOptions",
    "Branch": "BranchFrom",
    "Lora": "Lora",
    "WanLora": "WanLora",
}
"""Request class → name of its TypedDict, if it differs from the default name."""
ARGUMENTS = (FaceRequest, ProvenanceRequest)
"""Request classes whose fields are arguments of a client method."""
_HEAD = f'''{HEAD}"""Fields of requests, with the same names in HTTP, in Python and (with dashes) on the command line.

A field that is None is not sent, and the server uses its default. The server validates the values. The limits and
defaults here are those of the models; `models.list` returns those of a server.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Required, TypedDict

from {PACKAGE}.about import About, Media
from {PACKAGE}.objects import Identity
'''


def write_fields(definitions: Sequence[Definition]) -> str:
    """Return the source of the file, unformatted."""
    definitions = [each for each in definitions if each.request not in ARGUMENTS]
    leaves = {each.request: each for each in definitions}
    done: dict[type[BaseModel], str] = {}
    for request in (*(each.request for each in definitions), *QUERIES):
        for kind in find_classes(request):
            _add(kind, leaves, done)
    videos = [each for each in definitions if issubclass(each.request, GraphRequest)]
    pictures = sorted({field.name for each in videos for field in each.fields if field.media == "pictures"})
    constant = f"PICTURES: frozenset[str] = frozenset({{{', '.join(map(write_text, pictures))}}})"
    text = write_docstring(
        "Media fields that take several pictures: a list, a zip, or a folder, which is sent as a zip.", 0
    )
    return "\n\n".join([_HEAD, *done.values(), _write_union(videos), f"{constant}\n{text}\n"])


def name_fields(kind: type[BaseModel]) -> str:
    """Return the name of the TypedDict of a request class."""
    plain = kind.__name__.removesuffix("Request")
    return NAMES.get(kind.__name__) or f"{plain}Fields"


def _add(kind: type[BaseModel], leaves: dict[type[BaseModel], Definition], done: dict[type[BaseModel], str]) -> None:
    """Add the source of a class after those of its base classes, once each."""
    if kind in done or kind is Identity:
        return
    parents = _find_parents(kind, leaves)
    for parent in parents:
        _add(parent, leaves, done)
    leaf = leaves.get(kind)
    fields = [*list_own_fields(kind), *(leaf.extra if leaf else [])]
    if not (fields or leaf):
        return
    name = name_fields(kind)
    if any(name == name_fields(other) for other in done):
        raise ConfigError(f"generate: two request classes would have the name {name} in the client")
    bases = ", ".join([*map(name_fields, parents)] or ["TypedDict"])
    media = {name: held for each in leaves if issubclass(each, kind) for name, held in _read_media(each).items()}
    fields = [replace(field, media=field.media or media.get(field.name)) for field in fields]
    rows = [f"    {field.name}: {_write_hint(field, kind, leaf)}" for field in fields]
    text = write_docstring(summarize(kind))
    done[kind] = "\n".join([f"class {name}({bases}, total=False):", text, "", *rows, ""])


def _read_media(request: type[BaseModel]) -> Mapping[str, MediaKind]:
    return getattr(request, "MEDIA", {})


def _find_parents(kind: type[BaseModel], leaves: dict[type[BaseModel], Definition]) -> list[type[BaseModel]]:
    """Return the nearest base classes that define fields."""
    found: dict[type[BaseModel], None] = {}
    for base in kind.__bases__:
        if issubclass(base, BaseModel) and base is not BaseModel:
            own = base in leaves or list_own_fields(base)
            found |= dict.fromkeys([base] if own else _find_parents(base, leaves))
    return [each for each in found if not any(issubclass(other, each) for other in found if other is not each)]


def _write_hint(field: Field, kind: type[BaseModel], leaf: Definition | None) -> str:
    needed = leaf.needs(field) if leaf else field.info.is_required() and not _may_stand(field, kind)
    hint = f"Annotated[{_write_type(field, needed=needed)}, {_write_about(field)}]"
    return f"Required[{hint}]" if needed else hint


def _may_stand(field: Field, kind: type[BaseModel]) -> bool:
    """Return whether OpenAI's `input_reference` is an alternative to the field."""
    return getattr(kind, "REFERENCE", "") == field.name


def _write_type(field: Field, *, needed: bool) -> str:
    if field.media is not None:
        hint = "Media | Sequence[Media]" if field.media == "pictures" else "Media"
    else:
        hint = write_type(field.type, _name_type, frozen=False)
    return hint if needed or hint.endswith("None") else f"{hint} | None"


def _name_type(kind: type[BaseModel]) -> str:
    """Return the type of a nested object; any mapping is also accepted if it is usually read from a JSON file."""
    name = kind.__name__ if kind is Identity else name_fields(kind)
    return name if is_flat(kind) else f"{name} | Mapping[str, object]"


def is_flat(kind: type[BaseModel]) -> bool:
    """Return whether an object has no lists or nested objects, so that each field can be a command-line option."""
    return not any(get_origin(part) for field in list_fields(kind) for part in _parts(field.type))


def _parts(annotation: Any) -> list[Any]:
    """Return the members of a union, without annotations and literals."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return [part for each in inner for part in _parts(each)]
    return _parts(inner[0]) if origin is Annotated else [] if origin is Literal else [annotation]


def _write_about(field: Field) -> str:
    notes = {"limits": describe_limits(field), "default": describe_default(field), "media": field.media or ""}
    more = "".join(f", {name}={write_text(note)}" for name, note in notes.items() if note)
    needed = ", needed=True" if field.info.is_required() else ""
    return f"About({write_text(field.text)}{more}{needed})"


def _write_union(videos: list[Definition]) -> str:
    rows = "\n".join(f"    {name}: {hint}" for name, hint in _join_fields(videos))
    text = "The fields of all requests for a video. The server checks which of them a model accepts."
    return f"class VideoFields(TypedDict, total=False):\n{write_docstring(text)}\n\n{rows}\n"


def _join_fields(videos: list[Definition]) -> Iterator[tuple[str, str]]:
    """Yield each field name with the union of its types in all requests."""
    hints: dict[str, dict[str, None]] = {}
    for video in videos:
        for field in video.fields:
            parts = split_types(_write_type(field, needed=True))
            hints[field.name] = {**hints.get(field.name, {}), **dict.fromkeys(parts)}
    for name, parts in hints.items():
        yield name, join_types([*(part for part in parts if part != "None"), "None"])
