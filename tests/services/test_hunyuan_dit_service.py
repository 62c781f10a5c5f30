"""The HunyuanDiT service: order of the stream, rejected requests, and cancellation."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from miniatures.random import written
from services.errors import InvalidParameter
from services.frames import Fact, Frames, Item, Pixels, Progress, StageDone
from services.hunyuan_dit.request import RestyleRequest
from services.hunyuan_dit.service import HunyuanDit
from services.hunyuan_dit.settings import HunyuanDitSettings
from services.weights.weights import Weights

RANDOM = np.random.default_rng(7)
PICTURE = Frames(RANDOM.integers(0, 256, (1, 44, 60, 3), np.uint8), rate=Fraction(24))
FIELDS = {"prompt": "as an oil painting", "steps": 5, "strength": 0.6, "seed": 3}
REQUEST = RestyleRequest(**FIELDS)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def hunyuan(home) -> HunyuanDit:
    weights = written("hunyuan-dit", "tiny", home)
    settings = HunyuanDitSettings(weights=weights, device="cpu", dtype="float32", max_steps=1000)
    return HunyuanDit(settings, home, lambda: "hunyuan-dit#test cpu")


async def collected(
    hunyuan: HunyuanDit, request: RestyleRequest = REQUEST, image: Frames = PICTURE, key: str = ""
) -> list[Item]:
    return [item async for item in hunyuan.restyle(request, image, key)]


def pixels_of(items: list[Item]) -> Pixels:
    (pixels,) = (item.pixels for item in items if isinstance(item, Frames))
    return pixels


def facts_of(items: list[Item]) -> dict[str, object]:
    return {item.name: item.value for item in items if isinstance(item, Fact)}


def changed(**fields) -> RestyleRequest:
    return RestyleRequest(**{**FIELDS, **fields})


def noise(width: int, height: int) -> Frames:
    return Frames(RANDOM.integers(0, 256, (1, height, width, 3), np.uint8))


# --- the stream ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "strength", "done"),
    [(5, 0.6, 3), (5, 1.0, 5), (5, 0.01, 1), (1, 0.4, 1), (4, 0.4, 2), (20, 0.9, 18)],
)
async def test_the_stream_in_its_order(home, hunyuan, steps, strength, done):
    items = await collected(hunyuan, changed(steps=steps, strength=strength))
    told = [
        (type(item).__name__, *((item.stage, item.done, item.total) if isinstance(item, Progress) else ()))
        for item in items
    ]
    assert told == [
        ("Fact",),
        ("Fact",),
        *(("Progress", "denoise", step, done) for step in range(done + 1)),
        ("Frames",),
        ("StageDone",),
    ]
    assert [(item.name, item.value) for item in items[:2] if isinstance(item, Fact)] == [("seed", 3), ("size", "64x48")]
    picture, last = items[-2:]
    assert isinstance(picture, Frames)
    assert (picture.first, picture.count, picture.rate) == (0, 1, 24)
    assert isinstance(last, StageDone)
    source = written("hunyuan-dit", "tiny", home).source
    assert (last.stage, last.model, last.source, last.revision) == ("restyle", "hunyuan-dit", source, "")
    assert last.replica == "hunyuan-dit#test cpu"
    assert last.seconds > 0


async def test_no_strength_gives_the_picture_back(hunyuan):
    items = await collected(hunyuan, changed(strength=0))
    assert [type(item) for item in items] == [Fact, Fact, Frames, StageDone]
    assert np.array_equal(pixels_of(items), PICTURE.pixels)
    assert next(item.rate for item in items if isinstance(item, Frames)) == 24


async def test_every_step_is_one_of_the_transformer(hunyuan):
    forwards = []
    hook = hunyuan._model._pipe.transformer.register_forward_hook(lambda *_: forwards.append(1))
    await collected(hunyuan, changed(steps=10, strength=0.4))
    hook.remove()
    assert len(forwards) == 4


@pytest.mark.parametrize(
    ("width", "height", "max_area", "sampled"),
    [
        (64, 48, 64 * 48, "64x48"),
        (37, 51, 1024 * 1024, "32x48"),
        (1, 1, 1024 * 1024, "32x32"),
        (200, 100, 64 * 32, "64x32"),
        (900, 3, 1024 * 1024, "896x32"),
        (3, 900, 1024 * 1024, "32x896"),
    ],
)
async def test_the_size_is_told_and_kept(hunyuan, width, height, max_area, sampled):
    items = await collected(hunyuan, changed(max_area=max_area, steps=1), noise(width, height))
    assert facts_of(items)["size"] == sampled
    assert pixels_of(items).shape == (1, height, width, 3)


# --- rejected requests --------------------------------------------------------------------------------------------


async def test_more_steps_than_there_are_levels_of_noise(hunyuan):
    with pytest.raises(InvalidParameter, match="steps: 1000 are too many") as caught:
        await collected(hunyuan, changed(steps=1000, strength=0.01))
    assert caught.value.param == "steps"
    assert len(await collected(hunyuan, changed(steps=999, strength=0.004))) == 9  # the last four steps


@pytest.mark.parametrize(
    "fields",
    [
        {"attention": "native"},
        {"step_cache": {"threshold": 0.1}},
        {"offload": "disk"},
        {"dtype": "int8"},
        {"forward_chunking": 0},
        {"max_steps": 0},
        {"max_area": 1023},
    ],
)
def test_settings_that_cannot_be(fields):
    with pytest.raises(ValidationError):
        HunyuanDitSettings(weights=Weights(path=Path("/weights")), **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": ""},
        {"prompt": "a" * 8_001},
        {"prompt": "lone \ud800"},
        {"negative_prompt": "a" * 8_001},
        {"strength": -0.1},
        {"strength": 1.1},
        {"strength": float("nan")},
        {"steps": 0},
        {"steps": 1001},
        {"guidance_scale": -1},
        {"guidance_scale": float("inf")},
        {"guidance_rescale": 1.1},
        {"guidance_rescale": -0.1},
        {"seed": -2},
        {"seed": 2**63},
        {"max_area": 1023},
        {"max_area": 4096 * 4096 + 1},
        {"size": "64x64"},
    ],
)
def test_what_cannot_be_is_refused(fields):
    with pytest.raises(ValidationError):
        changed(**fields)


def test_a_prompt_is_needed():
    with pytest.raises(ValidationError, match="prompt"):
        RestyleRequest.model_validate({})
