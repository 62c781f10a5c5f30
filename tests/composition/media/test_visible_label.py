"""The label that people see: where it is, that it fits, and that what cannot be drawn is refused."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import ImageFont

from composition.media.marks.settings import Corner, VisibleLabel
from composition.media.visible_label import PLATE, check_label, draw_label, uncover_label
from services.errors import ConfigError
from services.frames import Pixels

GREY = 120


def find_box(pixels: Pixels) -> tuple[int, int, int, int]:
    """Return the left, top, right and bottom of what differs from grey."""
    rows, columns = np.nonzero((pixels != GREY).any(-1))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


@pytest.mark.parametrize("corner", get_args(Corner))
@pytest.mark.parametrize("size", [(1280, 720), (64, 64), (37, 101), (9, 5)])
def test_it_is_in_its_corner_and_inside(corner: Corner, size: tuple[int, int]) -> None:
    width, height = size
    frames = np.full((2, height, width, 3), GREY, np.uint8)
    labelled = draw_label(frames, VisibleLabel(corner=corner))
    assert (frames == GREY).all(), "a copy is drawn on"
    assert np.array_equal(labelled[0], labelled[1])
    left, top, right, bottom = find_box(labelled[0])
    assert (top == 0) == (corner.startswith("top") or bottom - top == height)
    assert (left == 0) == (corner.endswith("left") or right - left == width)
    assert bottom == height or corner.startswith("top")
    assert right == width or corner.endswith("left")


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_its_height_is_a_share_of_the_shorter_side(share: float) -> None:
    frames = np.full((1, 400, 2000, 3), GREY, np.uint8)
    _, top, _, bottom = find_box(draw_label(frames, VisibleLabel(text="AI", height=share))[0])
    assert share * 400 <= bottom - top <= 2 * share * 400


def test_it_is_legible_on_any_picture() -> None:
    for background in (0, 255):
        labelled = draw_label(np.full((1, 90, 160, 3), background, np.uint8), VisibleLabel(height=0.2))
        label = labelled[0, -20:, -80:].astype(int)
        assert label.max() > 230
        assert label.min() < 20
    assert PLATE == (0, 0, 0)


def test_it_is_opaque_on_a_transparent_picture() -> None:
    label = VisibleLabel(text="AI", corner="top-left", height=0.3)
    alpha = uncover_label(np.zeros((60, 80), np.uint8), label)
    left, top, right, bottom = find_box(draw_label(np.full((60, 80, 3), GREY, np.uint8), label))
    assert (alpha[top:bottom, left:right] == 255).all()
    assert alpha.sum() == 255 * (right - left) * (bottom - top)


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (VisibleLabel(text="AI 生成"), "marks.visible.text: the font has no '生'"),
        (VisibleLabel(font=Path("/nowhere.ttf")), "marks.visible.font: /nowhere.ttf cannot be read as a font"),
    ],
)
def test_a_text_that_cannot_be_drawn_is_refused_at_the_start(label: VisibleLabel, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_label(label)


def test_a_font_file_is_used(tmp_path: Path) -> None:
    default = ImageFont.load_default(20)
    assert isinstance(default, ImageFont.FreeTypeFont)
    file = tmp_path / "font.ttf"
    file.write_bytes(default.font_bytes)
    label = VisibleLabel(font=file)
    check_label(label)
    _, _, right, bottom = find_box(draw_label(np.full((100, 200, 3), GREY, np.uint8), label))
    assert (right, bottom) == (200, 100)
    with pytest.raises(ConfigError, match="the font has no '生'"):
        check_label(VisibleLabel(text="生", font=file))
