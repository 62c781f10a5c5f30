"""Settings as a tree: fields of models, mappings, lists, tuples and sets in one another."""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from copy import deepcopy
from enum import Enum
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from pydantic import BaseModel

from services.weights.weights import Weights

Settings = TypeVar("Settings", bound=BaseModel)

Place = tuple[Any, ...]
"""Where a part is: names of fields, keys of mappings, indices; of a set, the member itself."""


class Deeper(Enum):
    """Says that a part stays what it is, and that its own parts are to be looked at."""

    DEEPER = "deeper"


DEEPER: Final = Deeper.DEEPER


def change_parts(value: Any, change: Callable[[Place, Any], Any], place: Place = ()) -> Any:
    """Return `value` with its parts changed, however deep; the same object where none is.

    Args:
        value: settings, or a part of them.
        change: gets each part, from the outside in, with its place; returns what is to stand there, or DEEPER.
        place: of `value`.
    """
    changed = change(place, value)
    if changed is not DEEPER:
        return changed
    parts = _part(value)
    made = {key: change_parts(part, change, (*place, key)) for key, part in parts.items()}
    news = {key: part for key, part in made.items() if part is not parts[key]}
    return _put_together(value, made, news) if news else value


def _part(value: Any) -> dict[Any, Any]:
    """Return the parts of a value by what is said of them in a place; none where it has none."""
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
    """Return a value like `value` of `parts`, of which `news` are other than before."""
    if isinstance(value, BaseModel):
        return value.model_copy(update=news)
    if isinstance(value, Mapping):
        return dict(parts)
    return cast("type[Any]", type(value))(parts.values())


def take_offline(settings: Settings) -> Settings:
    """Return the same settings with `offline` in all weights that they name."""

    def change(_: Place, part: Any) -> Any:
        return part.model_copy(update={"offline": True}) if isinstance(part, Weights) else DEEPER

    return change_parts(settings, change)


def root_paths(args: Mapping[str, Any], settings: BaseModel, folder: Path) -> dict[str, Any]:
    """Return `args` with each relative path in them taken from `folder`; `~` stays what it is.

    The rest is as it was written, without the defaults that a dump of the settings would spell out.

    Args:
        args: as a configuration file has them.
        settings: what was made of them; it says what is a path.
        folder: absolute.
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
    """Take the path at a place of `raw` from `folder`. What is not written there is a default, and stays out."""
    *way, last = place
    for key in way:
        if not _has(raw, key):
            return
        raw = raw[key]
    if isinstance(last, Path) and isinstance(raw, list):  # of a set, which is written as a list
        raw[:] = [str(folder / each) if Path(str(each)) == last else each for each in cast("list[Any]", raw)]
    elif _has(raw, last):
        raw[last] = str(folder / raw[last])


def _has(raw: Any, key: Any) -> bool:
    return key in raw if isinstance(raw, Mapping) else isinstance(raw, list) and isinstance(key, int)
