"""The fields of requests: defaults behind them, and those that two requests share."""

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from pydantic import BaseModel

from composition.graphs.request import GraphRequest

MAX_RATE = 60

Request = TypeVar("Request", bound=GraphRequest)


def complete_request(request: Request, defaults: Mapping[str, Any]) -> Request:
    """Return the request with the configuration's defaults in the fields that were left out."""
    behind = type(request).expand_shorthands(defaults)
    return type(request).model_validate(merge_fields(behind, request.model_dump(exclude_unset=True)))


def merge_fields(behind: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return `given` with what is left out taken from `behind`, also inside of fields that are objects.

    What is only turned on (`true`) is as `behind` has it.
    """
    merged = dict(behind)
    for name, value in given.items():
        older = merged.get(name)
        if isinstance(older, Mapping) and isinstance(value, Mapping):
            merged[name] = merge_fields(cast("Mapping[str, Any]", older), cast("Mapping[str, Any]", value))
        elif not (isinstance(older, Mapping) and value is True):
            merged[name] = value
    return merged


Selected = TypeVar("Selected", bound=BaseModel)


def select_fields(wanted: type[Selected], request: BaseModel, **more: Any) -> Selected:
    """Return a `wanted` of the fields that it shares with `request`, and of `more`."""
    shared = {name: getattr(request, name) for name in wanted.model_fields if name in type(request).model_fields}
    return wanted.model_validate({**shared, **more})


def read_fps(fields: Mapping[str, Any], model: type[BaseModel]) -> float:
    """Frames per second as `fps` says it, or else the model's default; what is none is refused later."""
    default = float(model.model_fields["fps"].default)
    try:
        told = float(fields.get("fps", default))
    except (TypeError, ValueError, OverflowError):
        return default
    return told if 1 <= told <= MAX_RATE else default
