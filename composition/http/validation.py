"""Reading the fields of a request as its class, and saying in one sentence what is wrong with them."""

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from services.errors import InvalidParameter, LimitExceeded
from services.limits import SHOWN, draw_seed, shown

Asked = TypeVar("Asked", bound=BaseModel)


def parsed(request_type: type[Asked], fields: Mapping[str, Any], limits: Mapping[str, float]) -> Asked:
    """Return the request that `fields` make, its seed draw_seed.

    Args:
        request_type: the model's.
        fields: as they came; strings where they came from a form.
        limits: field → the most that the operator allows.

    Raises:
        InvalidParameter, LimitExceeded: naming the field, what it may be and what it was.
    """
    try:
        request = request_type.model_validate(fields)
    except ValidationError as error:
        raise _explained(error.errors()[0], request_type) from error
    for name, limit in limits.items():
        value = _at(request, name)
        if value is not None and value > limit:
            raise LimitExceeded(f"{name}: {value} is more than the limit of {limit}", param=name)
    size: str | None = getattr(request, "size") if "size" in request_type.model_fields else None  # noqa: B009
    if size is not None and "max_area" in limits:
        width, height = map(int, size.split("x"))
        if width * height > limits["max_area"]:
            most = limits["max_area"]
            raise LimitExceeded(f"size: {size} has {width * height} pixels, and the limit is {most}", param="size")
    if "seed" in request_type.model_fields and getattr(request, "seed") == -1:  # noqa: B009
        request = request.model_copy(update={"seed": draw_seed(-1)})
    return request


def _at(request: BaseModel, path: str) -> Any:
    """The value of `field` or `field.field`; None where there is none."""
    value: Any = request
    for name in path.split("."):
        value = getattr(value, name) if isinstance(value, BaseModel) and name in type(value).model_fields else None
    return value


def _explained(detail: ErrorDetails, request_type: type[BaseModel]) -> InvalidParameter:
    path = [str(part) for part in detail["loc"] if part != "[key]"]  # which is pydantic's mark behind a bad key
    name = ".".join(path) or "body"
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path[-1][:SHOWN], request_type.model_fields, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        return InvalidParameter(f"{name[:SHOWN]}: there is no such field{hint}", param=name[:SHOWN])
    message = detail["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if detail["type"] == "missing":
        return InvalidParameter(f"{name}: {message}", param=name)
    got = shown(detail["input"])
    return InvalidParameter(f"{name}: {message}, got {got}", param=name)
