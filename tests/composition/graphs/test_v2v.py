"""What V2V does by itself: fitting a continuation to its clip, and completing requests."""

from fractions import Fraction

import numpy as np
import pytest
from pydantic import ValidationError

from composition.graphs.fields import complete_request
from composition.graphs.v2v.graph import join_frames
from composition.graphs.v2v.request import V2VRequest
from services.frames import Frames


@pytest.mark.parametrize("length", [1, 4, 16])
def test_a_joined_continuation_is_all_of_it_but_the_first_frame(length: int) -> None:
    grey = np.arange(33, dtype=np.uint8)
    pixels = np.ascontiguousarray(np.broadcast_to(grey[:, None, None, None], (33, 16, 16, 3)))
    runs = [Frames(pixels[first : first + length], first, Fraction(16)) for first in range(0, 33, length)]
    joined = [run for each in runs if (run := join_frames(each, 24, 20, "stretch")) is not None]
    assert [int(frame[0, 0, 0]) for run in joined for frame in run.pixels] == list(range(1, 33))
    assert [run.first for run in joined] == [max(0, run.first - 1) for run in runs if run.stop > 1]
    assert {(run.width, run.height, run.rate) for run in joined} == {(24, 20, Fraction(16))}


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
