"""Validation of request fields, with one sentence for each error."""

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from services.errors import InvalidParameter, LimitExceeded
from services.limits import MAX_QUOTED, draw_seed, shorten

RequestT = TypeVar("RequestT", bound=BaseModel)


def parse_fields(request_type: type[RequestT], fields: Mapping[str, Any], limits: Mapping[str, float]) -> RequestT:
    """Validate the fields of a request. The seed -1 is replaced by a random one.

    Args:
        request_type: the class of the request.
        fields: field → value; values from a form are strings.
        limits: field, or `field.field` → the largest value that the configuration allows. `max_area` limits the number
            of pixels in `size`.

    Raises:
        InvalidParameter: a field is unknown, missing or invalid.
        LimitExceeded: a value is above its limit.
    """
    try:
        request = request_type.model_validate(fields)
    except ValidationError as error:
        raise _explain_error(error.errors()[0], request_type) from error
    for name, limit in limits.items():
        value = _get_value(request, name)
        if value is not None and value > limit:
            raise LimitExceeded(f"{name}: {value} is more than the limit of {limit}", param=name)
    size: str | None = getattr(request, "size") if "size" in request_type.model_fields else None  # noqa: B009
    if size is not None and "max_area" in limits:
        width, height = map(int, size.split("x"))
        if width * height > limits["max_area"]:
            limit = limits["max_area"]
            raise LimitExceeded(f"size: {size} has {width * height} pixels, and the limit is {limit}", param="size")
    if "seed" in request_type.model_fields and getattr(request, "seed") == -1:  # noqa: B009
        request = request.model_copy(update={"seed": draw_seed(-1)})
    return request


def _get_value(request: BaseModel, path: str) -> Any:
    """Return the value of `field` or `field.field`, or None if the request has no such field."""
    value: Any = request
    for name in path.split("."):
        value = getattr(value, name) if isinstance(value, BaseModel) and name in type(value).model_fields else None
    return value


def _explain_error(detail: ErrorDetails, request_type: type[BaseModel]) -> InvalidParameter:
    """Return the error for pydantic's description of an invalid field."""
    path = [str(part) for part in detail["loc"] if part != "[key]"]  # pydantic's marker after an invalid key
    name = ".".join(path) or "body"
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path[-1][:MAX_QUOTED], request_type.model_fields, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        return InvalidParameter(f"{name[:MAX_QUOTED]}: there is no such field{hint}", param=name[:MAX_QUOTED])
    message = detail["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if detail["type"] == "missing":
        return InvalidParameter(f"{name}: {message}", param=name)
    got = shorten(detail["input"])
    return InvalidParameter(f"{name}: {message}, got {got}", param=name)
