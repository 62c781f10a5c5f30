"""The shape world: reproducible from a seed, as its captions say, and recognised by the judge."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miniatures import grammar, judge, world

HELD_OUT = st.integers(0, world.TRAINING_SEEDS - 1)
ROUNDING = 1e-6
"""Pixels."""


def test_a_seed_is_a_scene() -> None:
    assert world.draw(7) == world.draw(7)
    assert np.array_equal(world.draw(7).clip(9), world.draw(7).clip(9))
    assert len({world.draw(seed) for seed in range(50)}) == 50


@given(seed=HELD_OUT, motion=st.sampled_from(["line", "bounce", "turn"]))
@settings(max_examples=40, deadline=None)
def test_a_motion_is_the_one_that_was_asked_for(seed: int, motion: world.Motion) -> None:
    figure = world.draw(seed, figures=1, motion=motion).figures[0]
    assert (figure.turn is not None) == (motion == "turn")
    assert (figure.heading is None) == (motion == "turn")
    if motion != "turn":
        assert figure.bounces(17) == (motion == "bounce")


@given(seed=HELD_OUT, start=st.integers(0, 500))
@settings(max_examples=40, deadline=None)
def test_shapes_stay_in_their_room_for_ever(seed: int, start: int) -> None:
    for figure in world.draw(seed).figures:
        left, top, right, bottom = figure.room
        assert min(left, top) >= 0
        assert max(right, bottom) <= world.SIDE
        x, y, _ = figure.at(np.array([float(start)]))
        assert left - ROUNDING <= x[0] - figure.reach
        assert x[0] + figure.reach <= right + ROUNDING
        assert top - ROUNDING <= y[0] - figure.reach
        assert y[0] + figure.reach <= bottom + ROUNDING


@given(seed=HELD_OUT)
@settings(max_examples=40, deadline=None)
def test_colours_that_touch_stand_out(seed: int) -> None:
    scene = world.draw(seed)
    for figure in scene.figures:
        assert min(world.contrast(figure.colour, name) for name in scene.background) >= world.CONTRAST


def test_a_clip_goes_on_where_it_is_cut() -> None:
    scene = world.draw(3)
    assert np.array_equal(scene.clip(9)[4:], scene.clip(5, start=4))


def test_other_sizes_show_the_same_scene() -> None:
    scene = world.draw(2, figures=1)
    large = scene.clip(1, scale=2)[0]
    assert large.shape == (128, 128, 3)
    small = large.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
    assert np.abs(small - scene.clip(1)[0]).mean() < 2
    assert world.draw(2, size=(96, 64)).clip(2).shape == (2, 64, 96, 3)


def test_edges_lie_on_the_outlines() -> None:
    scene = world.draw(4, figures=1)
    lines = scene.edges(3)[..., 0] > 128
    mask = scene.masks(3)[0]
    outline = mask ^ np.stack([_shrunk(frame) for frame in mask])
    assert lines[outline].mean() > 0.95
    assert lines.mean() < 0.2


def _shrunk(mask: np.ndarray) -> np.ndarray:
    inside = np.pad(mask, 1)
    return inside[1:-1, 1:-1] & inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]


# --- captions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "english", "chinese"),
    [
        (1, "a green circle moves left on a white and black background", "一个绿色圆形向左移动，背景为白色和黑色"),
        (8, "a yellow star bounces and moves right on a green background", "一个黄色星形弹回后向右移动，背景为绿色"),
        (
            0,
            "a yellow triangle turns anticlockwise on a purple and green background",
            "一个黄色三角形逆时针旋转，背景为紫色和绿色",
        ),
    ],
)
def test_captions(seed: int, english: str, chinese: str) -> None:
    scene = world.draw(seed)
    assert grammar.caption(scene, frames=17) == english
    assert grammar.caption(scene, frames=17, language="zh") == chinese


def test_a_caption_says_where_it_goes_at_the_end_and_a_first_frame_s_where_it_begins() -> None:
    scene = world.draw(8)
    assert "bounces and moves right" in grammar.caption(scene, frames=17)
    assert "moves left" in grammar.caption(scene, frames=1)
    assert grammar.caption(scene) == "a yellow star on a green background"


def test_a_style_is_said_when_it_is_asked_for() -> None:
    scene = world.draw(5, style="outlined", figures=1)
    assert grammar.caption(scene, styled=True).startswith("an outlined ")
    assert grammar.caption(scene, styled=True, language="zh").startswith("一个描边的")
    assert "outlined" not in grammar.caption(scene)


# --- the judge ----------------------------------------------------------------------------------------------------


def test_the_judge_reads_what_was_drawn() -> None:
    for seed in range(60):
        scene = world.draw(seed)
        picture = scene.clip(1)[0]
        seen = sorted((one.shape, one.colour) for one in judge.shapes_in(picture))
        assert seen == sorted((figure.shape, figure.colour) for figure in scene.figures), seed
        assert judge.background_of(picture) == scene.background, seed


def test_the_judge_reads_motion() -> None:
    for seed in range(40):
        scene = world.draw(seed, figures=1)
        figure, clip = scene.figures[0], scene.clip(17)
        if figure.turn:
            assert judge.turn_of(clip) == figure.turn, seed
            assert judge.heading_of(clip) is None, seed
        elif not figure.bounces(17):
            assert judge.heading_of(clip) == figure.heading, seed
            assert judge.turn_of(clip) is None, seed


@pytest.mark.parametrize("style", world.STYLES)
def test_the_judge_reads_styles(style: world.Style) -> None:
    for seed in range(30):
        scene = world.draw(seed, style=style, figures=1)
        assert judge.style_of(scene.clip(1)[0]) == style, seed
        if style != "stippled":
            assert judge.has_outline(scene.clip(1)[0]) == (style == "outlined"), seed


def test_the_judge_sees_nothing_where_nothing_is() -> None:
    empty = world.Scene((), ("blue",), "none").clip(3)
    assert judge.shapes_in(empty[0]) == []
    assert not judge.has_outline(empty[0])
    assert judge.heading_of(empty) is None
    assert judge.turn_of(empty) is None


def test_decibels() -> None:
    clip = world.draw(1).clip(2)
    assert judge.psnr(clip, clip) == float("inf")
    assert judge.psnr(np.zeros((1, 8, 8, 3), np.uint8), np.full((1, 8, 8, 3), 255, np.uint8)) == 0
