"""Qwen-Image-Edit with random weights for its tests, and access to the items of its streams."""

from pathlib import Path
from typing import Any

from miniatures.random import written
from services.frames import Frames, Item, Pixels, Scores
from services.qwen_edit.service import QwenEdit
from services.qwen_edit.settings import QwenEditSettings

AREAS = 64 * 64, 112 * 112
"""Areas in pixels to which input pictures are scaled, for the VAE and for Qwen2.5-VL."""


def loaded(home: Path, **settings: Any) -> QwenEdit:
    fields: dict[str, Any] = {
        "weights": written("qwen-edit", "tiny", home),
        "device": "cpu",
        "dtype": "float32",
        "reference_area": AREAS[0],
        "condition_area": AREAS[1],
        **settings,
    }
    return QwenEdit(QwenEditSettings(**fields), home, lambda: "qwen-edit#test cpu")


def pixels_of(items: list[Item]) -> Pixels:
    """Return the pixels of the resulting picture, (1, h, w, 3) uint8."""
    (pixels,) = (item.pixels for item in items if isinstance(item, Frames))
    return pixels


def scores_of(items: list[Item]) -> Scores:
    (scores,) = (item for item in items if isinstance(item, Scores))
    return scores
