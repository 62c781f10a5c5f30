"""Finished videos, and animations as other programs read them."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from composition.media.encode import SegmentEncoder, remux
from services.frames import Pixels
from tests.composition.cards import draw_card


def write_video(
    path: Path, count: int = 7, width: int = 66, height: int = 50, rate: Fraction | int = 25, times: Any = None
) -> Path:
    """Write cards 0, 1, 2 and so on as the server writes a finished video."""
    encoder = SegmentEncoder(width, height, Fraction(rate), total_frames=count, variable=times is not None)
    cards = np.stack([draw_card(index, width, height) for index in range(count)])
    whole = path.with_suffix(".m4s")
    whole.write_bytes(encoder.encode_init() + encoder.encode_segment(cards, 0, 1, times))
    remux(whole, path)
    return path


def read_animation(path: Path) -> tuple[list[Pixels], list[int], int | None]:
    """Return the frames, their durations in ms, and the number of loops as Pillow reads them."""
    frames: list[Pixels] = []
    durations: list[int] = []
    with Image.open(path) as picture:
        for index in range(getattr(picture, "n_frames", 1)):
            picture.seek(index)
            frames.append(np.array(picture.convert("RGB")))
            durations.append(int(picture.info["duration"]))
        return frames, durations, picture.info.get("loop")
