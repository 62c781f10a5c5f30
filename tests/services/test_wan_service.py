"""The Wan service: order of the stream, rejected requests, and cancellation."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from miniatures.random import written
from services.errors import InvalidParameter
from services.frames import Fact, Frames, Item, Pixels, Progress, StageDone
from services.sizes import Sides
from services.wan.request import WanRequest
from services.wan.service import Wan
from services.wan.settings import ExpertLora, WanSettings
from services.weights.weights import Weights
from tests.services.contract import close_while_decoding

PICTURE = Frames(np.random.default_rng(7).integers(0, 256, (1, 40, 60, 3), np.uint8))
FIELDS = {"prompt": "a boat", "num_frames": 9, "size": "64x32", "steps": 3, "seed": 3}
REQUEST = WanRequest(**FIELDS)
WEIGHTS = Weights(path=Path("/weights"))
"""Weights for settings that are only validated, never loaded."""


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def wan(home) -> Wan:
    return loaded(home, "ti2v")


@pytest.fixture(scope="module")
def two_experts(home) -> Wan:
    return loaded(home, "a14b")


def loaded(home: Path, form: str) -> Wan:
    settings = WanSettings(
        weights=written("wan", form, home), device="cpu", dtype="float32", max_sequence_length=32, max_steps=200
    )
    return Wan(settings, home, lambda: "wan#test cpu")


async def collected(wan: Wan, request: WanRequest = REQUEST, image: Frames = PICTURE, **more) -> list[Item]:
    return [item async for item in wan.animate(request, image, **more)]


def pixels_of(items: list[Item]) -> Pixels:
    return np.concatenate([item.pixels for item in items if isinstance(item, Frames)])


def fact(items: list[Item], name: str):
    return next(item.value for item in items if isinstance(item, Fact) and item.name == name)


def changed(**fields) -> WanRequest:
    return WanRequest(**{**FIELDS, **fields})


# --- the stream ---------------------------------------------------------------------------------------------------


async def test_the_stream_in_its_order(home, wan):
    items = await collected(wan)
    told = [
        (type(item).__name__, *((item.stage, item.done, item.total) if isinstance(item, Progress) else ()))
        for item in items
    ]
    assert told == [
        ("Fact",),
        ("Fact",),
        *(("Progress", "denoise", step, 3) for step in range(4)),
        ("Progress", "decode", 0, 9),
        ("Frames",),
        ("Progress", "decode", 1, 9),
        ("Frames",),
        ("Progress", "decode", 5, 9),
        ("Frames",),
        ("Progress", "decode", 9, 9),
        ("StageDone",),
    ]
    runs = [item for item in items if isinstance(item, Frames)]
    assert [(run.first, run.count, run.rate) for run in runs] == [(0, 1, 24), (1, 4, 24), (5, 4, 24)]
    assert [(item.name, item.value) for item in items[:2] if isinstance(item, Fact)] == [("seed", 3), ("size", "64x32")]
    last = items[-1]
    assert isinstance(last, StageDone)
    source = written("wan", "ti2v", home).source
    assert (last.stage, last.model, last.source, last.revision) == ("generate", "wan", source, "")
    assert last.replica == "wan#test cpu"
    assert last.seconds > 0


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"size": "100x79"}, {"size": "81x64", "canvas": "96x64"}),
        ({"size": "100x79", "fit": "crop"}, {"size": "96x64"}),
        ({"size": "100x79", "fit": "stretch"}, {"size": "96x64"}),
        ({"size": None, "max_area": 96 * 64}, {"size": "96x64"}),
        ({"size": None, "max_area": 128 * 96}, {"size": "128x85", "canvas": "128x96"}),
        ({"size": None, "max_area": 32 * 32}, {"size": "32x21", "canvas": "32x32"}),
    ],
)
async def test_the_size_is_told_and_kept(wan, fields, told):
    items = await collected(wan, changed(**fields, num_frames=1, steps=1))
    width, height = map(int, told["size"].split("x"))
    facts = {item.name: item.value for item in items if isinstance(item, Fact)}
    assert facts == {"seed": 3, **told}
    assert pixels_of(items).shape == (1, height, width, 3)


async def test_the_size_follows_the_checkpoint(two_experts):
    items = await collected(two_experts, changed(size="50x40", num_frames=1, steps=1))
    assert (fact(items, "size"), fact(items, "canvas")) == ("40x32", "48x32")
    assert next(item.rate for item in items if isinstance(item, Frames)) == Fraction(16)


# --- rejected requests --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "more", "param", "message"),
    [
        ({"size": "31x64"}, {}, "size", "the smallest size is 32x32 pixels, got 31x64"),
        ({"size": None, "max_area": 1000}, {}, "max_area", "the smallest size is 32x32 pixels, got 1000"),
        ({"guidance_scale_2": 3.0}, {}, "guidance_scale_2", "one expert"),
        ({}, {"last_image": PICTURE}, "last_image", "cannot end at a given picture"),
        ({}, {"start": -1}, "start", "must be 0 to 9, got -1"),
        ({}, {"start": 10}, "start", "must be 0 to 9, got 10"),
    ],
)
async def test_what_one_expert_cannot_do(wan, fields, more, param, message):
    with pytest.raises(InvalidParameter, match=message) as caught:
        await collected(wan, changed(**fields), **more)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "more", "param", "message"),
    [
        ({"guidance_scale": 1.0, "guidance_scale_2": 3.0}, {}, "guidance_scale_2", "no effect"),
        ({"num_frames": 1}, {"last_image": PICTURE}, "last_image", "num_frames of 5 or more"),
    ],
)
async def test_what_two_experts_cannot_do(two_experts, fields, more, param, message):
    with pytest.raises(InvalidParameter, match=message) as caught:
        await collected(two_experts, changed(**fields), **more)
    assert caught.value.param == param


def test_no_side_goes_beyond_the_last_position(wan):
    assert wan._model.sides == Sides(32, longest=32768)


@pytest.mark.parametrize(
    "fields",
    [
        {"vae_tiling": True},
        {"offload": "disk"},
        {"dtype": "int8"},
        {"rate": 0},
        {"step_cache": {"kind": "first_block", "threshold": 0}},
        {"loras": [{"file": "style.bin"}]},
        {"loras": [{"file": "style.pt"}]},
        {"loras": [{"file": "style.safetensors", "expert": "middle"}]},
        {"loras": [{"file": "../style.safetensors"}], "lora_dir": "/loras"},
        {"loras": [{"file": "/elsewhere/style.safetensors"}], "lora_dir": "/loras"},
    ],
)
def test_settings_that_cannot_be(fields):
    with pytest.raises(ValidationError):
        WanSettings(weights=WEIGHTS, **fields)


def test_a_link_out_of_the_lora_directory_is_refused(tmp_path):
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras" / "style.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(ValidationError, match="must lie inside"):
        WanSettings(
            weights=WEIGHTS,
            loras=(ExpertLora(file="style.safetensors"),),
            lora_dir=tmp_path / "loras",
        )


def test_a_relative_lora_lies_in_the_lora_directory(tmp_path):
    lora = ExpertLora(file="wan/style.safetensors")
    settings = WanSettings(weights=WEIGHTS, loras=(lora,), lora_dir=tmp_path)
    assert settings.path_of(str(lora.file)) == tmp_path / "wan" / "style.safetensors"


# --- cancellation -------------------------------------------------------------------------------------------------


async def test_closing_while_frames_are_decoded_stops_the_decoding(wan):
    undisturbed = pixels_of(await collected(wan))
    stream = wan.animate(changed(num_frames=241, steps=1), PICTURE)
    assert await close_while_decoding(stream, wan._model._pipe.vae.decoder) <= 2  # out of 61 latent frames
    assert np.array_equal(pixels_of(await collected(wan)), undisturbed)
