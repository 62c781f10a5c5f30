"""What V2V does by itself: fitting a continuation to its clip, and completing requests."""

from fractions import Fraction

import numpy as np
import pytest
from pydantic import ValidationError

from composition.graphs.fields import complete_request
from composition.graphs.v2v.graph import Joint
from composition.graphs.v2v.request import V2VRequest
from services.frames import Frames


def shown(rate: Fraction, clip_rate: Fraction, count: int, length: int) -> list[int]:
    """Which source frame each fitted frame shows, when the source comes in runs of `length`."""
    joint = Joint(16, 16, clip_rate)
    out: list[int] = []
    for first in range(0, count, length):
        grey = np.arange(first, min(first + length, count), dtype=np.uint8)
        pixels = np.ascontiguousarray(np.broadcast_to(grey[:, None, None, None], (len(grey), 16, 16, 3)))
        for run in joint.fit(Frames(pixels, first, rate)):
            assert run.first == len(out)
            assert run.rate == clip_rate
            out += [int(frame[0, 0, 0]) for frame in run.pixels]
    assert len(out) == joint.count(count, rate)
    return out


@pytest.mark.parametrize("length", [1, 4, 16])
def test_at_the_same_rate_every_frame_but_the_first_is_shown_once(length: int) -> None:
    assert shown(Fraction(25), Fraction(25), 33, length) == list(range(1, 33))


@pytest.mark.parametrize("length", [1, 4, 16])
@pytest.mark.parametrize("clip_rate", [Fraction(25), Fraction(30000, 1001), Fraction(60), Fraction(8), Fraction(5)])
def test_at_another_rate_each_moment_shows_the_frame_of_that_moment(clip_rate: Fraction, length: int) -> None:
    rate, count = Fraction(16), 33
    expected = [int((j + 1) / clip_rate * rate) for j in range(1000) if (j + 1) / clip_rate * rate < count]
    assert shown(rate, clip_rate, count, length) == expected


def test_defaults_fill_only_what_was_left_out() -> None:
    request = V2VRequest(input_video="x", steps=3)
    filled = complete_request(request, {"steps": 8, "num_frames": 9})
    assert (filled.steps, filled.num_frames, filled.solver) == (3, 9, "unipc")
    with pytest.raises(ValidationError):
        complete_request(request, {"num_frames": 10})


def test_the_defaults_are_wans_own() -> None:
    request = V2VRequest(input_video="x")
    assert (request.max_area, request.num_frames, request.shift, request.solver) == (704 * 1280, 121, 5.0, "unipc")
    assert (request.steps, request.guidance_scale, request.negative_prompt, request.seed) == (40, 5.0, "", -1)
