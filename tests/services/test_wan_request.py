import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from services.sizes import fit_size
from services.wan.request import WanRequest

SIDES = st.integers(1, 10_000)
MULTIPLES = st.sampled_from([16, 32])
AREAS = st.integers(32 * 32, 4096 * 4096)


@given(SIDES, SIDES, AREAS, MULTIPLES)
def test_a_fitted_size_is_whole_multiples_within_the_area(width, height, max_area, multiple):
    fitted = fit_size(width, height, max_area, multiple)
    assert all(side >= multiple and side % multiple == 0 for side in fitted)
    assert math.prod(fitted) <= max_area


@given(st.integers(100, 4000), st.integers(100, 4000), MULTIPLES)
def test_a_fitted_size_keeps_the_aspect_to_within_one_multiple(width, height, multiple):
    fitted_width, fitted_height = fit_size(width, height, 704 * 1280, multiple)
    ideal = math.sqrt(704 * 1280 * width / height)
    assert ideal - multiple < fitted_width <= ideal
    assert ideal * height / width - multiple < fitted_height <= ideal * height / width


@given(SIDES, SIDES, AREAS, MULTIPLES)
def test_a_picture_on_its_side_gets_the_size_on_its_side(width, height, max_area, multiple):
    assert fit_size(height, width, max_area, multiple) == fit_size(width, height, max_area, multiple)[::-1]


def test_official_sizes_fit_themselves():
    assert fit_size(1280, 704, 1280 * 704, 32) == (1280, 704)
    assert fit_size(832, 480, 832 * 480, 16) == (832, 480)
    assert fit_size(1920, 1080, 1280 * 720, 16) == (1280, 720)


@pytest.mark.parametrize("num_frames", [1, 5, 81, 121])
def test_frames_are_a_multiple_of_four_plus_one(num_frames):
    assert WanRequest(num_frames=num_frames).num_frames == num_frames


@pytest.mark.parametrize(("num_frames", "named"), [(2, "1 or 5"), (80, "77 or 81"), (120, "117 or 121")])
def test_the_message_names_the_two_nearest_lengths(num_frames, named):
    with pytest.raises(ValidationError, match=named):
        WanRequest(num_frames=num_frames)


@pytest.mark.parametrize(
    "fields",
    [
        {"num_frames": 0},
        {"num_frames": 1005},
        {"steps": 0},
        {"shift": 0},
        {"shift": float("nan")},
        {"guidance_scale": float("inf")},
        {"guidance_scale": -1},
        {"solver": "euler"},
        {"seed": -2},
        {"seed": 2**63},
        {"size": "1280"},
        {"size": "0x480"},
        {"size": "832x480x3"},
        {"size": "-832x480"},
        {"prompt": "a" * 8_001},
        {"sampler": "unipc"},
    ],
)
def test_what_cannot_be_is_refused(fields):
    with pytest.raises(ValidationError):
        WanRequest(**fields)
