"""Title cards, which replace a scene that could not be generated, as a picture or as a video."""

from dataclasses import dataclass
from fractions import Fraction
from math import ceil

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from composition.media.encode import SegmentEncoder
from composition.media.fonts import MIN_FONT_SIZE, load_font, strip_undrawable
from services.frames import Pixels

BACKGROUND, HEADING, BODY = (24, 26, 31), (236, 236, 236), (172, 177, 187)
"""Colours of the background, the heading and the text, RGB."""
MAX_TEXT = 600
"""Characters of the text that are shown."""
SEGMENT_FRAMES = 32
"""Frames per segment of the video."""


@dataclass(frozen=True)
class _Line:
    text: str
    font: ImageFont.FreeTypeFont
    colour: tuple[int, int, int]
    space_below: int = 0
    """Pixels of space below the line."""

    @property
    def height(self) -> int:
        """Height in pixels, including the space below."""
        return sum(self.font.getmetrics()) + self.space_below


def draw_title_card(text: str, width: int, height: int) -> Pixels:
    """Draw the beginning of a text in the middle of a dark card.

    The first line of the text becomes the heading if it fits on one line. The font, Pillow's default, has English
    letters only: accents are dropped, and words with other letters are omitted.

    Args:
        text: any text.
        width, height: size of the card in pixels.

    Returns:
        (1, height, width, 3) uint8 RGB.
    """
    card = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(card)
    margin = max(2, min(width, height) // 12)
    beginning = text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"
    lines = _lay_out(beginning, width - 2 * margin, height - 2 * margin)
    top = (height - sum(line.height for line in lines)) // 2
    for line in lines:
        draw.text((width / 2, top), line.text, line.colour, line.font, anchor="ma")
        top += line.height
    return np.array(card)[None]


def make_title_card(text: str, width: int, height: int, rate: Fraction, seconds: Fraction) -> bytes:
    """Return a fragmented MP4 that shows a title card. Blocks; equal arguments give equal bytes.

    Args:
        text: any text.
        width, height: size in pixels; an odd one is padded by repeating the last column or row.
        rate: frames per second.
        seconds: duration, rounded up to whole frames, at least one.

    Raises:
        ValueError: the rate is not positive, or its numerator or denominator is too large for MP4.
    """
    count = max(1, ceil(seconds * rate))
    encoder = SegmentEncoder(width, height, rate, total_frames=count)
    card = draw_title_card(text, width, height)
    parts = [encoder.encode_init()]
    for first in range(0, count, SEGMENT_FRAMES):
        frames = np.broadcast_to(card, (min(SEGMENT_FRAMES, count - first), *card.shape[1:]))
        parts.append(encoder.encode_segment(frames, first, len(parts)))
    return b"".join(parts)


def _lay_out(text: str, width: int, height: int) -> list[_Line]:
    """Break a text into lines that fit into `width` × `height` pixels."""
    first, _, rest = text.strip().partition("\n")
    large = max(MIN_FONT_SIZE, min(width // 7, height // 6))
    body = load_font(max(MIN_FONT_SIZE, large // 2))
    first = strip_undrawable(first)
    sizes = range(large, int(body.size) - 1, -1)
    fitting = next((size for size in sizes if first and load_font(size).getlength(first) <= width), None)
    lines: list[_Line] = []
    if fitting is not None and sum(load_font(fitting).getmetrics()) <= height:
        lines.append(_Line(first, load_font(fitting), HEADING, fitting // 4))
    room = height - sum(line.height for line in lines)
    words = strip_undrawable(rest if lines else text).split()
    wrapped = _wrap_words(words, body, width, max(0, room) // sum(body.getmetrics()))
    return lines + [_Line(line, body, BODY) for line in wrapped]


def _wrap_words(words: list[str], font: ImageFont.FreeTypeFont, width: int, most: int) -> list[str]:
    """Wrap words into at most `most` lines of at most `width` pixels; the last line ends in `…` if words are left."""
    lines: list[str] = []
    for word in words:
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
            continue
        lines.append("")
        for letter in word:
            if font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    lines = [line for line in lines if line and font.getlength(line) <= width]  # a letter may be too wide
    if most == 0 or len(lines) <= most:
        return lines[:most]
    last = lines[most - 1]
    while last and font.getlength(f"{last}…") > width:
        last = last[:-1].rstrip()
    return [*lines[: most - 1], f"{last}…"] if last else lines[: most - 1]
