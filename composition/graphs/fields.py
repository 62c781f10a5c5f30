"""Fields of requests: merging in defaults, and copying fields from one request to another."""

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from pydantic import BaseModel

from composition.graphs.request import GraphRequest
from composition.media.encoding import complete_encoding

MAX_FPS = 60
ENCODING = "encoding"
"""The field whose values exclude each other, so that it has its own way to be completed."""

Request = TypeVar("Request", bound=GraphRequest)


def complete_request(request: Request, defaults: Mapping[str, Any]) -> Request:
    """Return the request with `defaults` in the fields that it does not set."""
    expanded = type(request).expand_shorthands(defaults)
    return type(request).model_validate(merge_fields(expanded, request.model_dump(exclude_unset=True)))


def merge_fields(defaults: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return `fields` with missing ones taken from `defaults`, recursively for fields that are objects.

    `true` selects the default object.
    """
    merged = dict(defaults)
    for name, value in fields.items():
        default = merged.get(name)
        if name == ENCODING and isinstance(default, Mapping):
            merged[name] = complete_encoding(cast("Mapping[str, Any]", default), value)
        elif isinstance(default, Mapping) and isinstance(value, Mapping):
            merged[name] = merge_fields(cast("Mapping[str, Any]", default), cast("Mapping[str, Any]", value))
        elif not (isinstance(default, Mapping) and value is True):
            merged[name] = value
    return merged


def drop_refinements(defaults: Mapping[str, Any], given: object, paired: Mapping[str, str]) -> dict[str, Any]:
    """Return `defaults` without those that refine another field whose value `given` sets.

    Args:
        defaults: default values.
        given: the fields of a request or a configuration; anything else sets no field.
        paired: field → the field that it refines, e.g. `guidance_scale_2` → `guidance_scale`.
    """
    fields: Mapping[str, Any] = cast("Mapping[str, Any]", given) if isinstance(given, Mapping) else {}
    return {name: value for name, value in defaults.items() if name not in paired or paired[name] not in fields}


Selected = TypeVar("Selected", bound=BaseModel)


def select_fields(target: type[Selected], request: BaseModel, **more: Any) -> Selected:
    """Return a `target` with the fields that it shares with `request`, and with `more`."""
    shared = {name: getattr(request, name) for name in target.model_fields if name in type(request).model_fields}
    return target.model_validate({**shared, **more})


def read_fps(fields: Mapping[str, Any], model: type[BaseModel]) -> float:
    """Return `fps` in frames per second, or the default of `model`; an invalid value is rejected during validation."""
    default = float(model.model_fields["fps"].default)
    try:
        fps = float(fields.get("fps", default))
    except (TypeError, ValueError, OverflowError):
        return default
    return fps if 1 <= fps <= MAX_FPS else default
