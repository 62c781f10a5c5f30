"""Sizes of pictures and frames: parsing, and rounding to sizes that a checkpoint supports. All values in pixels."""

import math
from dataclasses import dataclass
from typing import Protocol

from services.errors import InvalidParameter
from services.limits import check_limit


@dataclass(frozen=True, slots=True)
class Sides:
    """The widths and heights that a checkpoint supports."""

    multiple: int
    """Width and height must be multiples of this."""
    longest: int | None = None
    """Maximum of the longer side; None if there is no limit."""


class SizedRequest(Protocol):
    """A request with a size, or with a maximum number of pixels for a picture whose aspect ratio is kept."""

    @property
    def size(self) -> str | None: ...
    @property
    def max_area(self) -> int: ...


def parse_size(size: str) -> tuple[int, int]:
    """Return (width, height) of `WIDTHxHEIGHT`, which `services.limits.Size` has validated."""
    width, height = size.split("x")
    return int(width), int(height)


def round_size(size: str, max_area: int, sides: Sides) -> tuple[int, int]:
    """Return the (width, height) of `size`, rounded down to a size that the checkpoint supports.

    Raises:
        InvalidParameter: a side is too short or too long.
        LimitExceeded: the size has more than `max_area` pixels.
    """
    width, height = (side // sides.multiple * sides.multiple for side in parse_size(size))
    if min(width, height) == 0:
        raise _refuse_small("size", size, sides)
    check_limit("size", width * height, max_area, "pixels")
    _check_longest("size", width, height, sides)
    return width, height


def choose_size(request: SizedRequest, picture: tuple[int, int], max_area: int, sides: Sides) -> tuple[int, int]:
    """Return the (width, height) for a request: its `size`, or the picture's aspect ratio within its `max_area`.

    Args:
        request: the request.
        picture: (width, height) of the picture whose aspect ratio is kept.
        max_area: maximum number of pixels that this deployment accepts.
        sides: the sizes that the checkpoint supports.

    Raises:
        InvalidParameter: a side is too short or too long.
        LimitExceeded: the request has more than `max_area` pixels.
    """
    if request.size is not None:
        return round_size(request.size, max_area, sides)
    check_limit("max_area", request.max_area, max_area, "pixels")
    width, height = fit_size(*picture, request.max_area, sides.multiple)
    if width * height > request.max_area:
        raise _refuse_small("max_area", str(request.max_area), sides)
    _check_longest("max_area", width, height, sides)
    return width, height


def fit_size(width: int, height: int, max_area: int, multiple: int) -> tuple[int, int]:
    """Return the (width, height) with the nearest aspect ratio and at most `max_area` pixels, multiples of `multiple`.

    A side that would be rounded to 0 is set to `multiple`.
    """
    longest = max(multiple, max_area // multiple // multiple * multiple)

    def round_side(side: int) -> int:
        return min(longest, max(multiple, side // multiple * multiple))

    return round_side(math.isqrt(max_area * width // height)), round_side(math.isqrt(max_area * height // width))


def choose_working_size(width: int, height: int, max_area: int) -> tuple[int, int]:
    """Return the (width, height) at which to sample a picture: the nearest multiples of 16 within `max_area`."""
    scale = min(1.0, (max_area / (width * height)) ** 0.5)
    across, down = (max(32, round(side / 16) * 16) for side in (width, height))
    if scale == 1.0 and across * down <= max_area:
        return across, down
    return max(32, int(width * scale / 16) * 16), max(32, int(height * scale / 16) * 16)


def _refuse_small(field: str, value: str, sides: Sides) -> InvalidParameter:
    least = f"{sides.multiple}x{sides.multiple}"
    return InvalidParameter(f"{field}: the smallest size is {least} pixels, got {value}", param=field)


def _check_longest(field: str, width: int, height: int, sides: Sides) -> None:
    if sides.longest is not None and max(width, height) > sides.longest:
        raise InvalidParameter(
            f"{field}: no side may be longer than {sides.longest} pixels, got {width}x{height}", param=field
        )
