import pytest
from pydantic import ValidationError

from services.wan.request import WanRequest


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
