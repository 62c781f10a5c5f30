"""Traversal of nested settings: pydantic models, mappings, lists, tuples and sets."""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from copy import deepcopy
from enum import Enum
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from pydantic import BaseModel

from services.weights.web_file import WebFile
from services.weights.weights import Weights

Settings = TypeVar("Settings", bound=BaseModel)

Place = tuple[Any, ...]
"""Path of a part: field names, mapping keys and list indices; for a member of a set, the member itself."""


class Deeper(Enum):
    """Return value of a callback that leaves a part unchanged and continues with its children."""

    DEEPER = "deeper"


DEEPER: Final = Deeper.DEEPER


def change_parts(value: Any, change: Callable[[Place, Any], Any], place: Place = ()) -> Any:
    """Return a copy of `value` with its parts replaced, at any depth; the same object if no part changes.

    Args:
        value: settings, or a part of them.
        change: called with the path and the value of each part, outermost first; returns the new value, or DEEPER to
            keep the part and continue with its children.
        place: path of `value`.
    """
    changed = change(place, value)
    if changed is not DEEPER:
        return changed
    parts = _part(value)
    made = {key: change_parts(part, change, (*place, key)) for key, part in parts.items()}
    news = {key: part for key, part in made.items() if part is not parts[key]}
    return _put_together(value, made, news) if news else value


def _part(value: Any) -> dict[Any, Any]:
    """Return the children of a value by their last path element; empty for a leaf."""
    if isinstance(value, BaseModel):
        return dict(value)
    if isinstance(value, Mapping):
        return dict(cast("Mapping[Any, Any]", value))
    if isinstance(value, list | tuple):
        return dict(enumerate(cast("list[Any]", value)))
    if isinstance(value, AbstractSet):
        return {part: part for part in cast("AbstractSet[Any]", value)}
    return {}


def _put_together(value: Any, parts: Mapping[Any, Any], news: Mapping[Any, Any]) -> Any:
    """Return a value of the type of `value` with the children `parts`, of which `news` have changed."""
    if isinstance(value, BaseModel):
        return value.model_copy(update=news)
    if isinstance(value, Mapping):
        return dict(parts)
    return cast("type[Any]", type(value))(parts.values())


def take_offline(settings: Settings) -> Settings:
    """Return a copy of the settings with `offline` set in all weights."""

    def change(_: Place, part: Any) -> Any:
        return part.model_copy(update={"offline": True}) if isinstance(part, Weights | WebFile) else DEEPER

    return change_parts(settings, change)


def root_paths(args: Mapping[str, Any], settings: BaseModel, folder: Path) -> dict[str, Any]:
    """Return a copy of `args` with relative paths resolved against `folder`; paths that start with `~` are kept.

    Other values stay as in the configuration file, without the defaults that a dump of the settings would add.

    Args:
        args: arguments from a configuration file.
        settings: the settings parsed from `args`; their types determine which values are paths.
        folder: an absolute path.
    """
    found: list[Place] = []

    def change(place: Place, part: Any) -> Any:
        if isinstance(part, Path) and part.parts[:1] != ("~",):
            found.append(place)
        return DEEPER

    change_parts(settings, change)
    rooted = deepcopy(dict(args))
    for place in found:
        _root_path(rooted, place, folder)
    return rooted


def _root_path(raw: Any, place: Place, folder: Path) -> None:
    """Resolve the path at `place` of `raw` against `folder`, in place; skip a default, which `raw` does not contain."""
    *way, last = place
    for key in way:
        if not _has(raw, key):
            return
        raw = raw[key]
    if isinstance(last, Path) and isinstance(raw, list):  # a set, which the file has as a list
        raw[:] = [str(folder / each) if Path(str(each)) == last else each for each in cast("list[Any]", raw)]
    elif _has(raw, last):
        raw[last] = str(folder / raw[last])


def _has(raw: Any, key: Any) -> bool:
    return key in raw if isinstance(raw, Mapping) else isinstance(raw, list) and isinstance(key, int)
