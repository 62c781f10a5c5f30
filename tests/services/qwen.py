"""Qwen-Image-Edit with random weights, as both of its tests load it, and what its streams hold."""

from pathlib import Path
from typing import Any

from miniatures.random import written
from services.frames import Frames, Item, Pixels, Scores
from services.qwen_edit.service import QwenEdit
from services.qwen_edit.settings import QwenEditSettings

AREAS = 64 * 64, 112 * 112
"""Pixels to which given pictures are scaled, for the VAE and for Qwen2.5-VL."""


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
    """The picture, (1, h, w, 3)."""
    (pixels,) = (item.pixels for item in items if isinstance(item, Frames))
    return pixels


def scores_of(items: list[Item]) -> Scores:
    (scores,) = (item for item in items if isinstance(item, Scores))
    return scores
