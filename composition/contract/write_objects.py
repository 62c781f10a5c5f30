"""`objects.py` of the client: a frozen class for everything that the server answers with, and for every event."""

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
"""Class of the server's → the client's, where that is not its name without `Object`."""
BY_HAND = {"b64_json": "Picture", "status": "Ending"}
"""Field → the class of the client, written by hand, that has it, with what helps to read it."""
TAG = "object"
"""OpenAI's field that repeats what kind of object it is."""
_HEAD = f'''{HEAD}# ruff: noqa: RUF012 (pydantic copies defaults)
"""What the API answers. Unknown fields are kept, so that an older client reads a newer server."""

from typing import Any, Generic, Literal, TypeAlias

from {PACKAGE}.answers import Answer, Ending, JobEvent, Picture, T
'''


def write_objects(_: Sequence[Definition] = ()) -> str:
    """Return the source of the file, not formatted. What is answered is the same whatever is asked for."""
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
    """Return the name of the client's class."""
    return NAMES.get(kind) or kind.__name__.removesuffix("Object")


def list_object_fields(kind: type[BaseModel]) -> list[Field]:
    """Return the fields that the client's class adds to those it inherits from other classes of answers."""
    return [field for field in list_own_fields(kind) if field.name != TAG]


def _add(kind: type[BaseModel], done: dict[type[BaseModel], str]) -> None:
    """Write a class behind those it inherits from, each once."""
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
    """Whether a class written by hand has it. Another `status` is that of an upload."""
    return field.name in BY_HAND and not _is_constant(field)


def _is_constant(field: Field) -> bool:
    return get_origin(field.info.annotation) is Literal and len(get_args(field.info.annotation)) == 1


def _write_field(field: Field) -> list[str]:
    """The field, and its text under it. What is one of one choice now may be another in time."""
    hint = "str" if _is_constant(field) else write_type(field.info.annotation, name_object, frozen=True)
    default = _write_default(field, hint)
    return [f"    {field.name}: {hint}{default}", write_docstring(field.text)]


def _write_default(field: Field, hint: str) -> str:
    """What holds where an older server says nothing of the field; nothing where every server has said it."""
    default = field.info.default
    if default is PydanticUndefined:
        return " = None" if hint.endswith("None") else ""
    return f" = {write_text(default) if isinstance(default, str) else repr(default)}"


def _write_events(union: str, table: str, kinds: Any) -> str:
    names = [name_object(kind) for kind in kinds]
    rows = "".join(f"{write_text(kind.KIND)}: {name}, " for kind, name in zip(kinds, names, strict=True))
    return f"{union}: TypeAlias = ({' | '.join(names)})\n\n{table}: dict[str, type[{union}]] = {{{rows}}}\n"
