"""How a picture is placed in the frames that a model samples, and how these are cut back to it. All values in pixels.

A checkpoint supports only some sizes. By default (`pad`) a picture is scaled uniformly to the largest size at which the
whole of it fits into a supported one, the canvas; the rest of the canvas repeats the picture's edge pixels, and is cut
off the generated frames. Repeated edges continue what is at the edge, so that motion there continues too; black bars
would be a part of the scene to a model, which draws them into the picture.
"""

from dataclasses import dataclass

import numpy as np

from services.frames import JsonValue, Pixels
from services.limits import PictureFit


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle within a picture."""

    left: int
    top: int
    width: int
    height: int

    def cut(self, pixels: Pixels) -> Pixels:
        """Return this part of (n, h, w, 3) pixels, as a copy unless it is the whole."""
        part = pixels[:, self.top : self.top + self.height, self.left : self.left + self.width]
        return part if part.shape == pixels.shape else np.ascontiguousarray(part)

    def surround(self, pixels: Pixels, width: int, height: int) -> Pixels:
        """Return (n, h, w, 3) pixels, which fill this part, as `width` x `height`: the rest repeats their edges."""
        below, right = height - self.top - self.height, width - self.left - self.width
        return np.pad(pixels, ((0, 0), (self.top, below), (self.left, right), (0, 0)), mode="edge")


@dataclass(frozen=True, slots=True)
class Framing:
    """The canvas that a model samples, and the part of it that is returned."""

    fit: PictureFit
    width: int
    """Width of the canvas."""
    height: int
    """Height of the canvas."""
    kept: Box
    """The part of the canvas that is returned: all of it, except with `pad`."""

    def place(self, width: int, height: int) -> Box:
        """Return where a picture of this size is shown on the canvas with `pad`: in the middle of the part kept."""
        inside = place_picture(width, height, self.kept.width, self.kept.height)
        return Box(self.kept.left + inside.left, self.kept.top + inside.top, inside.width, inside.height)

    def list_facts(self) -> dict[str, JsonValue]:
        """Return the facts of a job: `size` of the frames, and `canvas`, which the model sampled, if that differs."""
        size, canvas = f"{self.kept.width}x{self.kept.height}", f"{self.width}x{self.height}"
        return {"size": size} if size == canvas else {"size": size, "canvas": canvas}


def pad_canvas(content: tuple[int, int], canvas: tuple[int, int]) -> Framing:
    """Return the framing with `pad` that returns the (width, height) `content` from the middle of `canvas`."""
    return Framing("pad", *canvas, _center(*content, *canvas))


def place_picture(width: int, height: int, across: int, down: int) -> Box:
    """Return where a picture of `width` x `height` is in the middle of `across` x `down`, scaled uniformly to fit.

    It is the whole area if this has the picture's aspect ratio after rounding one side to whole pixels, so that no
    strip of one pixel remains.
    """
    difference = 2 * abs(width * down - height * across)
    if difference <= max(width, height):
        return Box(0, 0, across, down)
    if width * down < height * across:
        return _center(scale_side(width, down, height), down, across, down)
    return _center(across, scale_side(height, across, width), across, down)


def scale_side(side: int, numerator: int, denominator: int) -> int:
    """Return `side` * `numerator` / `denominator`, rounded to the nearest integer, halves up, and at least 1."""
    return max(1, (2 * side * numerator + denominator) // (2 * denominator))


def _center(width: int, height: int, across: int, down: int) -> Box:
    return Box((across - width) // 2, (down - height) // 2, width, height)
