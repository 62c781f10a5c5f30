"""What the definitions of requests and answers say of their fields: names, types as they are asked for, and texts."""

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, get_args

from pydantic import AliasChoices, BaseModel, BeforeValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined


@cache
def describe_fields(kind: type[BaseModel]) -> Mapping[str, str]:
    """Return field → the text under it, in the class or the nearest one that it inherits from; else its `description`.

    A field without a text is left out.
    """
    found = {name: field.description for name, field in kind.model_fields.items() if field.description}
    for parent in reversed(kind.__mro__):
        found |= _read_texts(parent.__module__).get(parent.__name__, {})
    return {name: found[name] for name in kind.model_fields if name in found}


def wire_name(name: str, field: FieldInfo) -> str:
    """Return what a field is called in requests and answers."""
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        return str(alias.choices[0])
    return alias if isinstance(alias, str) else name


def input_type(field: FieldInfo) -> Any:
    """Return the type of what may be given for a field, also where that is read into another one."""
    for note in field.metadata:
        if isinstance(note, BeforeValidator) and note.json_schema_input_type is not PydanticUndefined:
            return note.json_schema_input_type
    return field.annotation


def find_classes(kind: type[BaseModel]) -> list[type[BaseModel]]:
    """Return the classes of the objects within an object, the innermost first, each once, and at last the class."""
    found: dict[type[BaseModel], None] = {}
    for field in kind.model_fields.values():
        for inner in _classes_in(input_type(field)):
            found |= dict.fromkeys(find_classes(inner))
    return [*found, kind]


def _classes_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _classes_in(inner)


@cache
def _read_texts(module: str) -> Mapping[str, Mapping[str, str]]:
    """Class of a module → attribute → the text under it."""
    found = sys.modules.get(module)
    if found is None or not getattr(found, "__file__", None):
        return {}
    tree = ast.parse(inspect.getsource(found))
    return {node.name: dict(_texts(node)) for node in tree.body if isinstance(node, ast.ClassDef)}


def _texts(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for attribute, text in zip(node.body, node.body[1:], strict=False):
        match attribute, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                yield name, " ".join(words.split())
            case _:
                pass
