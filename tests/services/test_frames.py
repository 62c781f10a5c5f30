import dataclasses
import pickle
import re
from fractions import Fraction
from typing import get_args

import numpy as np
import pytest

from services.frames import (
    MAX_RUN,
    Clip,
    Face,
    Fact,
    Frames,
    Item,
    Progress,
    Result,
    Scores,
    Sketch,
    Sound,
    StageDone,
    Text,
)


def pixels(count: int = 3, height: int = 4, width: int = 6) -> np.ndarray:
    return np.arange(count * height * width * 3, dtype=np.uint8).reshape(count, height, width, 3)


def test_says_its_size_and_place():
    frames = Frames(pixels(3, 4, 6), first=5, rate=Fraction(30000, 1001))

    assert (frames.count, frames.height, frames.width) == (3, 4, 6)
    assert frames.stop == 8
    assert frames.rate == Fraction(30000, 1001)


def test_a_picture_is_a_run_of_one_from_zero():
    picture = Frames(pixels(1))

    assert (picture.count, picture.first, picture.stop) == (1, 0, 1)


def test_does_not_copy_and_takes_read_only_pixels():
    given = pixels()
    given.flags.writeable = False

    assert Frames(given).pixels is given


@pytest.mark.parametrize("count", [1, MAX_RUN])
def test_takes_the_shortest_and_the_longest_run(count: int):
    assert Frames(pixels(count)).count == count


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (pixels().astype(np.float32), "float32"),
        (pixels().astype(np.int8), "int8"),
        (pixels()[0], "(4, 6, 3)"),
        (pixels()[..., :2].copy(), "(3, 4, 6, 2)"),
        (np.zeros((3, 4, 6, 4), np.uint8), "(3, 4, 6, 4)"),
        (pixels(MAX_RUN + 1), f"({MAX_RUN + 1}, 4, 6, 3)"),
        (pixels(0), "(0, 4, 6, 3)"),
        (pixels(3, 0, 6), "(3, 0, 6, 3)"),
        (pixels(3, 4, 0), "(3, 4, 0, 3)"),
        (pixels()[:, :, ::-1], "C-contiguous"),
        (np.asfortranarray(pixels()), "C-contiguous"),
    ],
)
def test_refuses_what_are_not_frames(wrong: np.ndarray, named: str):
    with pytest.raises(ValueError, match=re.escape(named)):
        Frames(wrong)


@pytest.mark.parametrize(("first", "rate"), [(-1, Fraction(1)), (0, Fraction(0)), (0, Fraction(-24))])
def test_refuses_a_place_before_the_stream_and_a_rate_that_stands_still(first: int, rate: Fraction):
    with pytest.raises(ValueError, match="rate > 0"):
        Frames(pixels(), first, rate)


def test_times_of_a_constant_rate_follow_from_it():
    assert Frames(pixels(2), first=3, rate=Fraction(10)).list_times() == (
        Fraction(3, 10),
        Fraction(4, 10),
        Fraction(5, 10),
    )


def test_times_of_its_own_are_kept():
    times = (Fraction(0), Fraction(1, 30), Fraction(2))

    assert Frames(pixels(2), times=times).list_times() == times


@pytest.mark.parametrize(
    "times",
    [(Fraction(0), Fraction(1)), (Fraction(0), Fraction(1), Fraction(1)), (Fraction(-1), Fraction(0), Fraction(1))],
)
def test_refuses_times_that_do_not_increase(times: tuple[Fraction, ...]):
    with pytest.raises(ValueError, match=r"Frames\.times must be 3 increasing values"):
        Frames(pixels(2), times=times)


def test_survives_pickle():
    frames = Frames(pixels(), first=7, rate=Fraction(24))

    copy = pickle.loads(pickle.dumps(frames, protocol=5))  # noqa: S301

    assert np.array_equal(copy.pixels, frames.pixels)
    assert (copy.first, copy.rate) == (7, Fraction(24))


ITEMS = [
    Frames(pixels()),
    Progress("denoise", 3, 40, Frames(pixels(1))),
    Text("describe", "a"),
    Fact("seed", 7),
    StageDone("generate", "wan", "path:wan", "", "wan#1 cpu", 1.5),
    Clip("file:///a.mp4"),
    Sound("file:///a.mp4"),
    Result("image", Frames(pixels(1)), still=True),
    Scores(3, edge_loss=0.5),
    Sketch(3, "soft_edges", Frames(pixels(1))),
    Face(np.ones(512, np.float32), np.zeros((5, 2), np.float32), np.zeros(4, np.float32)),
]


def test_the_set_of_items_is_closed():
    assert {type(item) for item in ITEMS} == set(get_args(Item))


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: type(item).__name__)
def test_items_are_frozen_and_have_no_other_fields(item: Item):
    field = dataclasses.fields(item)[0].name

    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(item, field, None)
    assert not hasattr(item, "__dict__")
