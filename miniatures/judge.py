"""Recognises colours, shapes, positions and motion in pictures and clips of the shape world.

It knows the palette and the shapes but none of the models, so it can judge their results independently.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from miniatures.world import COLOURS, HEADINGS, SHAPES, STAR_WAIST, SYMMETRY, Figure, Pixels

ndimage: Any = scipy.ndimage  # the stubs return a union of all possible results
Picture = NDArray[np.uint8]
"""(height, width, 3), RGB."""

LEAST_AREA = 40
"""Smallest area of a shape, in pixels."""
APART = 60.0
"""Smallest distance of a shape's pixel from the background colour, in RGB levels."""
RIM = 0.6
"""Smallest share of an outlined shape's rim that differs in colour from its middle (flat ones in Wan: up to 0.59)."""
AREA = {"circle": np.pi, "square": 4.0, "triangle": 3 * 3**0.5 / 4, "star": 5 * STAR_WAIST * np.sin(np.pi / 5)}
"""Area of each shape with a radius of 1."""
ANGLES = 12
"""Number of angles at which a shape is matched."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A recognised shape."""

    shape: str
    colour: str
    x: float
    """Centre, in pixels from the left."""
    y: float
    area: float
    """In pixels."""
    likeness: float
    """Intersection over union with the matched shape."""
    angle: float
    """In radians, up to the symmetry of the shape."""


def colour_of(pixel: Sequence[float] | NDArray[np.float64]) -> str:
    """Return the name of the nearest colour of the palette."""
    return min(COLOURS, key=lambda name: float(np.linalg.norm(np.asarray(COLOURS[name], float) - np.asarray(pixel))))


def background_of(picture: Picture) -> tuple[str, ...]:
    """Return the colours of the background: one, or two with the upper or left one first."""
    above, below, left, right = _sides(picture)
    if colour_of(above) != colour_of(below):
        return colour_of(above), colour_of(below)
    if colour_of(left) != colour_of(right):
        return colour_of(left), colour_of(right)
    return (colour_of(_corner_medians(picture).mean(axis=0)),)


def shapes_in(picture: Picture, most: int = 2) -> list[Seen]:
    """Return the shapes in a picture, largest first."""
    apart = np.linalg.norm(picture.astype(float) - _ground(picture), axis=-1)
    labels, count = ndimage.label(ndimage.binary_fill_holes(apart > APART))
    masks = sorted((labels == index + 1 for index in range(count)), key=np.count_nonzero, reverse=True)
    return [_recognise_shape(picture, mask) for mask in masks[:most] if np.count_nonzero(mask) >= LEAST_AREA]


def path_of(clip: Pixels) -> NDArray[np.float64]:
    """Return the centre of the largest shape in each frame: (frames, 2), x and y; NaN in frames without a shape."""
    masks = [_mask_of(frame) for frame in clip]
    middles = [ndimage.center_of_mass(mask)[::-1] if mask.any() else (np.nan, np.nan) for mask in masks]
    return np.array(middles) + 0.5


def heading_of(clip: Pixels) -> str | None:
    """Return the heading of the largest shape, from its start to its farthest point, or None if it stays in place."""
    path = path_of(clip)
    moved = path - path[0]
    length = np.linalg.norm(moved, axis=1)
    if np.isnan(length).any() or length.max() < 2:
        return None
    return max(HEADINGS, key=lambda name: float(moved[length.argmax()] @ np.array(HEADINGS[name])))


def turn_of(clip: Pixels) -> str | None:
    """Return the direction in which the largest shape turns, or None."""
    seen = shapes_in(clip[0], 1)
    if not seen or seen[0].shape == "circle":
        return None
    shape = seen[0].shape
    angles = [_match_shape(_mask_of(frame), shape, 2 * ANGLES)[1] for frame in clip]
    period = _period(shape)
    steps = (np.diff(angles) + period / 2) % period - period / 2
    total = float(steps.sum())
    return None if abs(total) < 0.3 else "clockwise" if total > 0 else "anticlockwise"


def style_of(picture: Picture) -> str:
    """Return the style of the largest shape: flat, outlined or stippled."""
    inside, rim = _unlike_the_middle(picture)
    if inside > 0.12:
        return "stippled"
    return "outlined" if rim > RIM else "flat"


def has_outline(picture: Picture) -> bool:
    """Return whether the rim of the largest shape differs in colour from its middle. It must not be stippled."""
    return _unlike_the_middle(picture)[1] > RIM


def psnr(one: Pixels, other: Pixels) -> float:
    """Return the peak signal-to-noise ratio in decibels; infinite for equal pictures."""
    error = float(np.mean((one.astype(float) - other.astype(float)) ** 2))
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def _unlike_the_middle(picture: Picture) -> tuple[float, float]:
    """Return the shares of the largest shape's inside and of its rim that differ from the main colour of the inside."""
    mask = _mask_of(picture)
    depth = ndimage.distance_transform_edt(mask)
    inside, rim = depth > min(5, depth.max() - 1), mask & (depth <= 3)
    if not inside.any():
        return 0.0, 0.0
    fill = np.median(picture[inside], axis=0)
    other = np.linalg.norm(picture.astype(float) - fill, axis=-1) > 80
    return float(other[inside].mean()), float(other[rim].mean())


def _corner_medians(picture: Picture) -> NDArray[np.float64]:
    """Return the median colours of the corners, (4, 3): upper left, upper right, lower left, lower right."""
    side = max(2, min(picture.shape[:2]) // 10)
    corners = (picture[:side, :side], picture[:side, -side:], picture[-side:, :side], picture[-side:, -side:])
    return np.array([np.median(corner.reshape(-1, 3), axis=0) for corner in corners])


def _sides(picture: Picture) -> tuple[NDArray[np.float64], ...]:
    """Return the colours above, below, left and right, from the corners."""
    a, b, c, d = _corner_medians(picture)
    return (a + b) / 2, (c + d) / 2, (a + c) / 2, (b + d) / 2


def _ground(picture: Picture) -> NDArray[np.float64]:
    """Return the picture without its shapes."""
    above, below, left, right = _sides(picture)
    height, width = picture.shape[:2]
    rows, columns = np.arange(height)[:, None, None] + 0.5, np.arange(width)[None, :, None] + 0.5
    if np.linalg.norm(above - below) >= np.linalg.norm(left - right):
        return np.where(rows < height / 2, above, below) + 0 * columns
    return np.where(columns < width / 2, left, right) + 0 * rows


def _mask_of(picture: Picture) -> NDArray[np.bool_]:
    apart = np.linalg.norm(picture.astype(float) - _ground(picture), axis=-1)
    labels, count = ndimage.label(ndimage.binary_fill_holes(apart > APART))
    if count == 0:
        return np.zeros(picture.shape[:2], bool)
    return labels == 1 + max(range(count), key=lambda index: np.count_nonzero(labels == index + 1))


def _recognise_shape(picture: Picture, mask: NDArray[np.bool_]) -> Seen:
    y, x = ndimage.center_of_mass(mask)
    inner = ndimage.binary_erosion(mask, iterations=4 if np.count_nonzero(mask) > 200 else 1)
    pixels = picture[inner if inner.any() else mask]
    best = max(SHAPES, key=lambda shape: _match_shape(mask, shape, ANGLES)[0])
    likeness, angle = _match_shape(mask, best, ANGLES)
    ((colour, _),) = Counter(colour_of(pixel) for pixel in pixels).most_common(1)
    return Seen(best, colour, float(x) + 0.5, float(y) + 0.5, float(np.count_nonzero(mask)), likeness, angle)


def _match_shape(mask: NDArray[np.bool_], shape: str, angles: int) -> tuple[float, float]:
    """Return the best overlap (intersection over union) of a shape of equal area with `mask`, and its angle."""
    if not mask.any():
        return 0.0, 0.0
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    mask = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 4)
    y, x = ndimage.center_of_mass(mask)
    radius = float((np.count_nonzero(mask) / AREA[shape]) ** 0.5)
    figure = Figure(shape, "red", 1.0, 0, 0, None, None, 0, (0, 0, 0, 0))
    across = ((np.arange(mask.shape[1], dtype=np.float32) - np.float32(x)) / np.float32(radius) * figure.reach)[None]
    down = ((np.arange(mask.shape[0], dtype=np.float32) - np.float32(y)) / np.float32(radius) * figure.reach)[:, None]
    best = (0.0, 0.0)
    for angle in np.arange(1 if shape == "circle" else angles) / angles * _period(shape):
        inside = figure.distance(across, down, np.asarray(angle, np.float32)) < 0
        overlap = np.count_nonzero(inside & mask) / max(1, np.count_nonzero(inside | mask))
        best = max(best, (overlap, float(angle)))
    return best


def _period(shape: str) -> float:
    """Return the smallest rotation that maps a shape onto itself, in radians."""
    return 2 * np.pi / SYMMETRY[shape]
