"""Generation of the client's `objects.py`: a frozen class for each response object and each event."""

from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from composition.contract.definitions import ANSWERS, Definition, Field, list_own_fields, summarize
from composition.contract.source import HEAD, PACKAGE, write_docstring, write_text, write_type
from composition.http.descriptions import find_classes
from composition.http.schemas import IMAGE_EVENTS, ImageObject, ImagesObject, ListPage
from composition.records.events import JOB_EVENTS, JobEvent, StageObject

NAMES: dict[type[BaseModel], str] = {
    StageObject: "StageRecord",
    ImageObject: "EditedImage",
    ImagesObject: "ImagesResponse",
    ListPage: "Page",
}
"""Server class → name of the client class, if it is not the name without `Object`."""
BY_HAND = {"b64_json": "Picture", "status": "Ending"}
"""Field → handwritten client class that defines the field, with methods to read it."""
TAG = "object"
"""OpenAI's field with the type of an object."""
_HEAD = f'''{HEAD}# ruff: noqa: RUF012 (pydantic copies defaults)
"""Response objects and events of the API. Unknown fields are kept, so an older client works with a newer server."""

from typing import Any, Generic, Literal, TypeAlias

from {PACKAGE}.answers import Answer, Ending, JobEvent, Picture, T
'''


def write_objects(_: Sequence[Definition] = ()) -> str:
    """Return the source of the file, unformatted. It does not depend on the definitions of requests."""
    done: dict[type[BaseModel], str] = {JobEvent: ""}
    for answer in ANSWERS:
        for kind in find_classes(answer):
            _add(kind, done)
    return "\n\n".join(
        [
            _HEAD,
            *filter(None, done.values()),
            _write_events("Event", "EVENTS", JOB_EVENTS),
            _write_events("ImageEvent", "IMAGE_EVENTS", IMAGE_EVENTS),
        ]
    )


def name_object(kind: type[BaseModel]) -> str:
    """Return the name of the client class."""
    return NAMES.get(kind) or kind.__name__.removesuffix("Object")


def list_object_fields(kind: type[BaseModel]) -> list[Field]:
    """Return the fields that the client class defines itself."""
    return [field for field in list_own_fields(kind) if field.name != TAG]


def _add(kind: type[BaseModel], done: dict[type[BaseModel], str]) -> None:
    """Add the source of a class after those of its base classes, once each."""
    if kind in done:
        return
    parents = [base for base in kind.__bases__ if issubclass(base, BaseModel) and base is not BaseModel]
    for parent in parents:
        _add(parent, done)
    fields = list_object_fields(kind)
    by_hand = [BY_HAND[field.name] for field in fields if _is_by_hand(field)]
    bases = [*map(name_object, parents), *by_hand] or ["Answer"]
    if kind is ListPage:
        bases.append("Generic[T]")
    rows = [line for field in fields if not _is_by_hand(field) for line in _write_field(field)]
    head = f"class {name_object(kind)}({', '.join(bases)}):"
    done[kind] = "\n".join([head, write_docstring(summarize(kind)), "", *rows, ""])


def _is_by_hand(field: Field) -> bool:
    """Return whether a handwritten class defines the field. A constant `status` is that of an uploaded file."""
    return field.name in BY_HAND and not _is_constant(field)


def _is_constant(field: Field) -> bool:
    return get_origin(field.info.annotation) is Literal and len(get_args(field.info.annotation)) == 1


def _write_field(field: Field) -> list[str]:
    """Return the source of a field and its docstring. A literal with one value becomes `str`: more may be added."""
    hint = "str" if _is_constant(field) else write_type(field.info.annotation, name_object, frozen=True)
    default = _write_default(field, hint)
    return [f"    {field.name}: {hint}{default}", write_docstring(field.text)]


def _write_default(field: Field, hint: str) -> str:
    """Return the default for a response without the field, from an older server; empty if the field is required."""
    default = field.info.default
    if default is PydanticUndefined:
        return " = None" if hint.endswith("None") else ""
    return f" = {write_text(default) if isinstance(default, str) else repr(default)}"


def _write_events(union: str, table: str, kinds: Any) -> str:
    names = [name_object(kind) for kind in kinds]
    rows = "".join(f"{write_text(kind.KIND)}: {name}, " for kind, name in zip(kinds, names, strict=True))
    return f"{union}: TypeAlias = ({' | '.join(names)})\n\n{table}: dict[str, type[{union}]] = {{{rows}}}\n"
