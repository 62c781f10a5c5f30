"""The Flux service: order of the stream, rejected requests, and cancellation."""

import logging
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from miniatures.random import written
from services.errors import InvalidParameter, LimitExceeded
from services.flux.request import FluxRequest, Painting
from services.flux.service import Flux
from services.flux.settings import FluxSettings
from services.frames import Face, Fact, Frames, Item, Pixels, Progress, StageDone
from services.weights.request import Lora
from services.weights.weights import Weights
from tests.services.contract import close_while_decoding

FIELDS = {"prompt": "a boat", "size": "64x48", "steps": 2, "seed": 3}
REQUEST = FluxRequest(**FIELDS)
FACE = Face(np.full(512, 512**-0.5, np.float32), np.full((5, 2), 0.5, np.float32), np.zeros(4, np.float32))
COMMIT = "0123456789" * 4


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def flux(home) -> Flux:
    return loaded(home)


def loaded(home: Path, **more) -> Flux:
    fields = {
        "weights": written("flux", "tiny", home),
        "device": "cpu",
        "dtype": "float32",
        "max_sequence_length": 32,
        "max_steps": 200,
        **more,
    }
    return Flux(FluxSettings(**fields), home, lambda: "flux#test cpu")


async def collected(flux: Flux, request: FluxRequest = REQUEST, face: Face | None = None, key: str = "") -> list[Item]:
    return [item async for item in flux.generate_image(request, face, key)]


def pixels_of(items: list[Item]) -> Pixels:
    return np.concatenate([item.pixels for item in items if isinstance(item, Frames)])


def fact(items: list[Item], name: str):
    return next(item.value for item in items if isinstance(item, Fact) and item.name == name)


def changed(**fields) -> FluxRequest:
    return FluxRequest(**{**FIELDS, **fields})


# --- the stream ---------------------------------------------------------------------------------------------------


async def test_the_stream_in_its_order(home, flux):
    items = await collected(flux, changed(n=2))
    told = [
        (type(item).__name__, *((item.stage, item.done, item.total) if isinstance(item, Progress) else ()))
        for item in items
    ]
    assert told == [
        ("Fact",),
        ("Fact",),
        ("Progress", "paint", 0, 4),
        ("Progress", "paint", 1, 4),
        ("Progress", "paint", 2, 4),
        ("Frames",),
        ("Progress", "paint", 3, 4),
        ("Progress", "paint", 4, 4),
        ("Frames",),
        ("StageDone",),
    ]
    assert [(item.name, item.value) for item in items[:2] if isinstance(item, Fact)] == [("seed", 3), ("size", "64x48")]
    runs = [item for item in items if isinstance(item, Frames)]
    assert [(run.first, run.count, run.width, run.height) for run in runs] == [(0, 1, 64, 48), (1, 1, 64, 48)]
    last = items[-1]
    assert isinstance(last, StageDone)
    source = written("flux", "tiny", home).source
    assert (last.stage, last.model, last.source, last.revision) == ("paint", "flux", source, "")
    assert last.replica == "flux#test cpu"
    assert last.seconds > 0


async def test_each_picture_has_the_next_seed(flux):
    together = pixels_of(await collected(flux, changed(n=3)))
    alone = [pixels_of(await collected(flux, changed(seed=seed))) for seed in (3, 4, 5)]
    assert np.array_equal(together, np.concatenate(alone))
    assert len({picture.tobytes() for picture in together}) == 3


async def test_the_highest_seed_has_a_next_one(flux):
    assert len(pixels_of(await collected(flux, changed(seed=2**63 - 1, n=2, steps=1)))) == 2


@pytest.mark.parametrize(("size", "told"), [("100x79", "96x64"), ("16x16", "16x16"), ("31x300", "16x288")])
async def test_the_size_is_told_and_kept(flux, size, told):
    items = await collected(flux, changed(size=size, steps=1))
    width, height = map(int, told.split("x"))
    assert fact(items, "size") == told
    assert pixels_of(items).shape == (1, height, width, 3)


async def test_a_long_prompt_is_cut_and_not_logged(flux):
    told = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())
    logging.getLogger("diffusers").addHandler(handler)
    try:
        await collected(flux, changed(prompt="secret " * 50, steps=1))
    finally:
        logging.getLogger("diffusers").removeHandler(handler)
    assert not [text for text in told if "secret" in text]


# --- rejected requests --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"size": "2000x1000"}, "size", "size: at most 4096 pixels, got 1984000"),
        ({"loras": [{"name": "a"}, {"name": "b"}]}, "loras", "loras: at most 1 LoRAs, got 2"),
    ],
)
async def test_limits_name_the_field_the_limit_and_the_value(home, fields, param, message):
    limited = loaded(home, max_n=2, max_area=64 * 64, max_loras=1)
    with pytest.raises(LimitExceeded) as caught:
        await collected(limited, changed(**fields))
    assert (caught.value.param, caught.value.message) == (param, message)


@pytest.mark.parametrize("size", ["15x64", "64x15"])
async def test_a_size_without_a_token(flux, size):
    with pytest.raises(InvalidParameter, match=f"size: the smallest size is 16x16 pixels, got {size}") as caught:
        await collected(flux, changed(size=size))
    assert caught.value.param == "size"


@pytest.mark.parametrize("strength", [0, 1])
async def test_a_face_where_there_are_no_nets_for_it(flux, strength):
    with pytest.raises(InvalidParameter, match="face: this deployment has no identity weights") as caught:
        await collected(flux, changed(identity_strength=strength), FACE)
    assert caught.value.param == "face"


@pytest.mark.parametrize(
    "fields",
    [
        {"tiling": True},
        {"offload": "disk"},
        {"dtype": "int8"},
        {"step_cache": {"threshold": 0}},
        {"max_sequence_length": 513},
        {"max_loras": 0},
        {"max_loras": 65},
        {"max_lora_rank": 0},
        {"max_n": 11},
        {"max_steps": 0},
        {"preview_every": -1},
        {"identity": {}},
        {"identity": {"weights": {"path": "/weights"}, "subfolder": "../elsewhere"}},
        {"identity": {"weights": {"path": "/weights"}, "subfolder": "/elsewhere"}},
        {"lora_repositories": [{"name": "a", "repository": "o/a", "revision": "main", "file": "a.safetensors"}]},
        {"lora_repositories": [{"name": "a", "repository": "o/a", "revision": COMMIT, "file": "a.bin"}]},
        {"lora_repositories": [{"name": "a", "repository": "o/a", "revision": COMMIT, "file": "a.safetensors"}] * 2},
    ],
)
def test_settings_that_cannot_be(fields):
    with pytest.raises(ValidationError):
        FluxSettings(weights=Weights(path=Path("/weights")), **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": ""},
        {"prompt": "a" * 8_001},
        {"prompt": "lone \ud800"},
        {"negative_prompt": "a" * 8_001},
        {"true_cfg_scale": float("nan")},
        {"true_cfg_scale": -1},
        {"guidance_scale": float("inf")},
        {"guidance_scale": 101},
        {"n": 0},
        {"n": 11},
        {"steps": 0},
        {"steps": 1001},
        {"size": "64"},
        {"size": "0x480"},
        {"size": "10000x64"},
        {"seed": -2},
        {"seed": 2**63},
        {"identity_strength": 2.1},
        {"identity_strength": -0.1},
        {"identity_start": -0.1},
        {"identity_end": 1.1},
        {"loras": [{"name": ""}]},
        {"loras": [{"name": "a\\b"}]},
        {"loras": [{"name": "a\x00"}]},
        {"loras": [{"name": "a", "weight": 11}]},
        {"loras": [{"name": "a", "weight": float("nan")}]},
        {"loras": [{"name": "a", "file": "b"}]},
        {"loras": [{"name": str(index)} for index in range(9)]},
        {"width": 64},
    ],
)
def test_what_cannot_be_is_refused(fields):
    with pytest.raises(ValidationError):
        FluxRequest(**{"prompt": "a boat", **fields})


def test_a_prompt_there_must_be():
    with pytest.raises(ValidationError, match="prompt"):
        FluxRequest.model_validate({})
    assert Painting().size == "1024x1024"


@pytest.mark.parametrize(("start", "end"), [(0.5, 0.5), (1.0, 0.5), (0.0, 0.0)])
def test_a_window_has_a_width(start, end):
    message = rf"identity_start: must be below identity_end, got {start} and {end}"
    with pytest.raises(InvalidParameter, match=message) as caught:
        Painting(identity_start=start, identity_end=end)
    assert caught.value.param == "identity_start"


@pytest.mark.parametrize("alias", ["ink", "./ink", "ink.safetensors"])
def test_a_lora_is_asked_for_once(alias):
    with pytest.raises(InvalidParameter, match="loras: ink must be listed once, got 2 times") as caught:
        Painting(loras=(Lora(name="ink"), Lora(name=alias, weight=0)))
    assert caught.value.param == "loras"


# --- cancellation -------------------------------------------------------------------------------------------------


async def test_closing_between_two_pictures_paints_no_more(flux):
    stream = flux.generate_image(changed(n=10))
    assert await close_while_decoding(stream, flux._model._pipe.vae.decoder) <= 2
