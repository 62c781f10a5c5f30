"""The fonts in which texts are drawn into pictures: Pillow's default, which has English letters only, or a file."""

import unicodedata
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

MIN_FONT_SIZE = 8
"""Smallest legible font size in pixels."""
REPLACEMENTS = {"–": "-", "—": "-", "\u2010": "-", "\u2011": "-"}
"""Characters that the default font lacks → their replacements."""


@lru_cache(maxsize=64)
def load_font(size: int, file: Path | None = None) -> ImageFont.FreeTypeFont:
    """Return a font in a size (pixels).

    Args:
        size: the size.
        file: a TrueType or OpenType file; None for the default font.

    Raises:
        OSError: the file cannot be read as a font, or Pillow was built without FreeType.
    """
    font = ImageFont.load_default(size) if file is None else ImageFont.truetype(str(file), size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise OSError("Pillow has no scalable font: it was built without FreeType")
    return font


def strip_undrawable(text: str) -> str:
    """Drop accents, and words with letters that the default font lacks."""
    plain = "".join(REPLACEMENTS.get(letter, letter) for letter in unicodedata.normalize("NFKD", text))
    bare = "".join(letter for letter in plain if unicodedata.category(letter) not in ("Mn", "Cf"))
    return " ".join(word for word in bare.split() if all(map(has_glyph, word)))


@lru_cache(maxsize=4096)
def has_glyph(letter: str, file: Path | None = None) -> bool:
    """Whether a font has a letter; all letters that it lacks are drawn as the same box. Raises OSError."""
    return _draw_letter(letter, file) != _draw_letter("\uffff", file)


def _draw_letter(letter: str, file: Path | None) -> bytes:
    picture = Image.new("L", (4 * MIN_FONT_SIZE, 4 * MIN_FONT_SIZE))
    ImageDraw.Draw(picture).text((MIN_FONT_SIZE, MIN_FONT_SIZE), letter, 255, load_font(2 * MIN_FONT_SIZE, file))
    return picture.tobytes()
