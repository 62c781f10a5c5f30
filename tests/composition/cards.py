"""Test cards: pictures whose colours and number can be read from what a decoder or a model made of them."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from services.frames import Pixels

Values: TypeAlias = NDArray[Any]
"""(height, width, 3) of any type."""

QUARTERS = ((200, 30, 30), (30, 180, 40), (40, 50, 210), (220, 210, 40))
"""Colours of the quarters, RGB: top left, top right, bottom left, bottom right."""
BLOCKS = 6
"""Number of blocks across the middle; each is one bit of the number, the lowest on the left, white for 1."""


def draw_card(index: int, width: int = 64, height: int = 48) -> Pixels:
    """Return a card as (height, width, 3) uint8 RGB: four coloured quarters, and `index` (0 to 63) in the blocks."""
    card = np.empty((height, width, 3), np.uint8)
    middle, centre = height // 2, width // 2
    card[:middle, :centre], card[:middle, centre:], card[middle:, :centre], card[middle:, centre:] = QUARTERS
    for bit in range(BLOCKS):
        left, right = bit * width // BLOCKS, (bit + 1) * width // BLOCKS
        card[height * 3 // 8 : height * 5 // 8, left:right] = 255 * (index >> bit & 1)
    return card


def read_code(pixels: Pixels) -> int:
    """Return the number in the blocks of a card of any size, (height, width, 3)."""
    bits = (_average(pixels, (bit + 0.5) / BLOCKS, 0.5).mean() > 127 for bit in range(BLOCKS))
    return sum(bool(is_white) << bit for bit, is_white in enumerate(bits))


def read_quarters(pixels: Values) -> NDArray[np.float64]:
    """Return the mean colour around the middle of each quarter of a card of any size, (4, 3), ordered as QUARTERS."""
    return np.stack([_average(pixels, x, y) for y in (0.19, 0.81) for x in (0.25, 0.75)])


def _average(pixels: Values, x: float, y: float) -> NDArray[np.float64]:
    """Return the mean colour, (3,), of the surroundings of a place; `x` and `y` are shares of the sides."""
    height, width = pixels.shape[:2]
    top, left = int(height * y), int(width * x)
    rows, columns = max(1, height // 20), max(1, width // 40)
    place = pixels[max(0, top - rows) : top + rows, max(0, left - columns) : left + columns]
    return place.reshape(-1, 3).mean(0, dtype=np.float64)
