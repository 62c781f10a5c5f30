"""The seam of V2V with the trained miniature: a still circle keeps its place and shape, a card its grey."""

from pathlib import Path

import numpy as np
import pytest

from composition.media.decode import Decoder
from composition.media.limits import MediaLimits
from services.frames import Pixels
from services.sizes import Sides, fit_content
from services.wan.service import Wan
from services.wan.settings import WanSettings
from services.weights.weights import Weights
from tests.composition import sample_media as media
from tests.composition.seams import Room, draw_circle, measure_circle, measure_difference

ROOT = Path(__file__).parents[2]
CLIPS = [(96, 54), (54, 96), (80, 60), (64, 64), (112, 48), (90, 50), (51, 91), (85, 47), (57, 101)]
ORANGE, BLACK = (246, 140, 34), (26, 26, 26)
AREA = 64 * 64
FIELDS = {"steps": 8, "max_area": AREA, "guidance_scale": 2.0, "seed": 3}
"""The defaults of the local configuration."""


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Wan:
    weights = Weights(path=ROOT / "miniatures" / "checkpoints" / "wan")
    settings = WanSettings(weights=weights, device="cpu", dtype="float32", max_sequence_length=64)
    return Wan(settings, tmp_path_factory.mktemp("home"), lambda: "wan#test cpu")


@pytest.mark.parametrize("size", CLIPS)
async def test_a_circle_is_within_one_generated_pixel_behind_the_seam(tmp_path, wan, size):
    picture = draw_circle(size[0], size[1], ORANGE, BLACK)
    prompt = "a black circle on an orange background"
    joined = await Room(tmp_path, wan).join(picture, prompt=prompt, **FIELDS)
    assert joined.shape == (4, size[1], size[0], 3)
    before, after = (measure_circle(each, ORANGE, BLACK) for each in (picture, joined[0]))
    pixel = size[0] / fit_content(size[0], size[1], AREA, Sides(16))[0]
    assert np.abs(after - before).max() < pixel


@pytest.mark.parametrize("size", CLIPS)
@pytest.mark.parametrize("grey", [26, 118, 128, 240])
async def test_a_card_has_the_same_grey_behind_the_seam(tmp_path, wan, size, grey):
    """Also greys that the miniature has not learned."""
    card = media.solid((grey, grey, grey), *size)
    joined = await Room(tmp_path, wan).join(card, prompt="a grey background", **FIELDS)
    assert measure_difference(joined[0], card) < 2


@pytest.mark.parametrize("name", ["wide.mp4", "wide60.mp4", "tall_odd.mp4"])
async def test_the_circle_of_a_clip_keeps_its_shape_behind_the_seam(tmp_path, wan, name):
    clip = ROOT / "tests" / "data" / "media" / name
    async with Decoder.open(clip, MediaLimits()) as decoder:
        last = (await decoder.read_last()).pixels[0]
    prompt = "a black circle moves right on an orange background"
    joined = await Room(tmp_path, wan).join(clip, prompt=prompt, num_frames=17, **FIELDS)
    assert joined.shape[1:] == last.shape
    assert np.abs(np.subtract(measure_box(joined[0]), measure_box(last))).max() <= 1


def measure_box(picture: Pixels) -> tuple[int, int]:
    """Return the width and height of the dark circle in pixels."""
    dark = picture.sum(-1, dtype=int) < 200
    rows, columns = np.flatnonzero(dark.any(1)), np.flatnonzero(dark.any(0))
    return int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1
