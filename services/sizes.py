"""Sizes of pictures and frames: parsing, and rounding to sizes that a checkpoint supports. All values in pixels."""

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import Protocol

from services.errors import InvalidParameter
from services.framing import Box, Framing, pad_canvas, scale_side
from services.limits import PictureFit, check_limit


@dataclass(frozen=True, slots=True)
class Sides:
    """The widths and heights that a checkpoint supports."""

    multiple: int
    """Width and height must be multiples of this."""
    longest: int | None = None
    """Maximum of the longer side; None if there is no limit."""


class SizedRequest(Protocol):
    """A request with a size, or with a maximum number of pixels and an aspect ratio from elsewhere."""

    @property
    def size(self) -> str | None: ...
    @property
    def max_area(self) -> int: ...


class FittedRequest(SizedRequest, Protocol):
    """A request with a picture, whose aspect ratio is kept unless the request has a size."""

    @property
    def fit(self) -> PictureFit: ...


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


def choose_size(request: SizedRequest, shape: tuple[int, int], max_area: int, sides: Sides) -> tuple[int, int]:
    """Return the (width, height) of `size`, rounded down, or without it the largest that is near the shape.

    Args:
        request: the request.
        shape: (width, height) of the same aspect ratio.
        max_area: maximum number of pixels that this deployment accepts.
        sides: the sizes that the checkpoint supports.

    Raises:
        InvalidParameter: a side is too short or too long.
        LimitExceeded: the request has more than `max_area` pixels.
    """
    if request.size is not None:
        return round_size(request.size, max_area, sides)
    check_limit("max_area", request.max_area, max_area, "pixels")
    if sides.multiple**2 > request.max_area:
        raise _refuse_small("max_area", str(request.max_area), sides)
    return fit_canvas(*shape, request.max_area, sides)


def choose_framing(request: FittedRequest, picture: tuple[int, int], max_area: int, sides: Sides) -> Framing:
    """Return the size at which to animate a picture, and how the picture is fitted into it.

    The frames have the aspect ratio of `size`, or without it that of the picture. With `pad` this holds exactly: what
    a canvas of supported size has in addition is cut off. With `crop` and `stretch` the frames are the whole canvas.

    Args:
        request: the request.
        picture: (width, height) of the picture.
        max_area: maximum number of pixels that this deployment accepts.
        sides: the sizes that the checkpoint supports.

    Raises:
        InvalidParameter: a side is too short or too long.
        LimitExceeded: the request has more than `max_area` pixels.
    """
    canvas = choose_size(request, picture, max_area, sides)
    if request.size is not None:
        shape = parse_size(request.size)
        area = min(max_area, shape[0] * shape[1])
    else:
        shape, area = picture, request.max_area
    if request.fit != "pad":
        return Framing(request.fit, *canvas, Box(0, 0, *canvas))
    content = fit_content(*shape, area, sides)
    return pad_canvas(content, _round_up(content, sides.multiple))


def fit_canvas(width: int, height: int, max_area: int, sides: Sides) -> tuple[int, int]:
    """Return the (width, height) of the supported size that shows a picture as large as possible with least padding.

    Args:
        width: of the picture.
        height: of the picture.
        max_area: maximum number of pixels, at least `sides.multiple` squared.
        sides: the sizes that the checkpoint supports.
    """
    return _round_up(fit_content(width, height, max_area, sides), sides.multiple)


def fit_content(width: int, height: int, max_area: int, sides: Sides) -> tuple[int, int]:
    """Return the (width, height) to which a picture is scaled, so that it is as large as possible on its canvas.

    One side is a supported one, the other is rounded to a whole pixel. The arguments are those of `fit_canvas`.
    """
    across = _scale_to_multiple(width, height, max_area, sides)
    upright = _scale_to_multiple(height, width, max_area, sides)
    found = [across] if across else []
    if upright:
        found.append((upright[1], upright[0]))
    return max(found, key=lambda content: (math.prod(content), -math.prod(_round_up(content, sides.multiple))))


def _scale_to_multiple(width: int, height: int, max_area: int, sides: Sides) -> tuple[int, int] | None:
    """Return the largest size of the picture whose width is a multiple and whose canvas is supported, or None."""
    multiple = sides.multiple
    longest = max_area // multiple if sides.longest is None else min(sides.longest, max_area // multiple)

    def scale(count: int) -> tuple[int, int]:
        return count * multiple, scale_side(height, count * multiple, width)

    def is_too_large(count: int) -> bool:
        canvas = _round_up(scale(count), multiple)
        return max(canvas) > longest or math.prod(canvas) > max_area

    # The canvas grows with the count.
    count = bisect_left(range(1, longest // multiple + 1), True, key=is_too_large)
    return scale(count) if count else None


def _round_up(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    width, height = (-(-side // multiple) * multiple for side in size)
    return width, height


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
