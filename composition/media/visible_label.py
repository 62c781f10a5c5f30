"""The label that people see, drawn into a corner of videos and pictures."""

from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from composition.media.fonts import has_glyph, load_font
from composition.media.marks.settings import VisibleLabel
from services.errors import ConfigError
from services.frames import Pixels

PLATE, LETTERS = (0, 0, 0), (255, 255, 255)
"""Colours of the plate and of the text on it, RGB. The plate is opaque, so that the label is legible on any picture."""
MIN_FONT_SIZE = 6
"""Smallest font size in pixels."""
OPAQUE = 255


def draw_label(pixels: Pixels, label: VisibleLabel) -> Pixels:
    """Return a copy of frames or pictures, (…, h, w, 3) uint8 RGB, with a label in its corner.

    The text has the label's height as a share of the shorter side, or less if it would be wider than the picture.
    """
    height, width = pixels.shape[-3:-1]
    plate = _draw_plate(label.text, label.height, label.font, width, height)
    labelled = pixels.copy()
    labelled[(..., *_find_place(label, plate, width, height), slice(None))] = plate
    return labelled


def uncover_label(alpha: Pixels, label: VisibleLabel) -> Pixels:
    """Return a copy of the opacity of a picture, (h, w) uint8, that is opaque where the label is."""
    height, width = alpha.shape
    plate = _draw_plate(label.text, label.height, label.font, width, height)
    uncovered = alpha.copy()
    uncovered[_find_place(label, plate, width, height)] = OPAQUE
    return uncovered


def check_label(label: VisibleLabel) -> None:
    """Raise ConfigError unless the label's text can be drawn."""
    try:
        missing = [letter for letter in label.text if not letter.isspace() and not has_glyph(letter, label.font)]
    except OSError as error:
        raise ConfigError(f"marks.visible.font: {label.font} cannot be read as a font", param="marks") from error
    if missing:
        raise ConfigError(
            f"marks.visible.text: the font has no {missing[0]!r}; name a font that has it (marks.visible.font)",
            param="marks",
        )


def _find_place(label: VisibleLabel, plate: Pixels, width: int, height: int) -> tuple[slice, slice]:
    """Return the rows and columns of a plate in a picture of this size in pixels."""
    rows, columns = plate.shape[:2]
    top = 0 if label.corner.startswith("top") else height - rows
    left = 0 if label.corner.endswith("left") else width - columns
    return slice(top, top + rows), slice(left, left + columns)


@lru_cache(maxsize=16)
def _draw_plate(text: str, share: float, font: Path | None, width: int, height: int) -> Pixels:
    """Return a text on its plate, (h, w, 3), for a picture of a size in pixels; see VisibleLabel."""
    wanted = max(MIN_FONT_SIZE, round(share * min(width, height)))
    sizes = range(wanted, MIN_FONT_SIZE - 1, -1)
    size = next((size for size in sizes if _measure(text, size, font)[0] <= width), MIN_FONT_SIZE)
    columns, rows = _measure(text, size, font)
    plate = Image.new("RGB", (columns, rows), PLATE)
    ImageDraw.Draw(plate).text((columns / 2, rows / 2), text, LETTERS, load_font(size, font), anchor="mm")
    return np.array(plate)[-min(rows, height) :, -min(columns, width) :]


def _measure(text: str, size: int, file: Path | None) -> tuple[int, int]:
    """Return the width and height of the plate of a text in a font size, in pixels."""
    font = load_font(size, file)
    padding = max(1, size // 3)
    ascent, descent = font.getmetrics()
    return round(font.getlength(text)) + 2 * padding, ascent + descent + padding
