"""The Stable Video Diffusion service: order of the stream, rejected requests, and cancellation."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError

from miniatures.random import written
from services.errors import InvalidParameter
from services.frames import Fact, Frames, Item, Pixels, Progress, StageDone
from services.svd.request import Animation, SvdRequest
from services.svd.service import Svd
from services.svd.settings import SvdSettings
from services.weights.weights import Weights
from tests.services.contract import close_while_decoding

PICTURE = Frames(np.random.default_rng(7).integers(0, 256, (1, 40, 60, 3), np.uint8))
FIELDS = {"num_frames": 10, "size": "64x64", "steps": 2, "seed": 3, "fps": 12}
REQUEST = SvdRequest(**FIELDS)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def svd(home) -> Svd:
    return loaded(home)


@pytest.fixture(scope="module")
def plain(svd) -> Pixels:
    """The video of REQUEST and PICTURE."""
    return pixels_of(asyncio.run(collected(svd)))


def loaded(home: Path, **more) -> Svd:
    fields = {"decode_window": 4, "decode_overlap": 1, "max_steps": 200, **more}
    settings = SvdSettings(weights=written("svd", "xt", home), device="cpu", dtype="float32", **fields)
    return Svd(settings, home, lambda: "svd#test cpu")


async def collected(svd: Svd, request: SvdRequest = REQUEST, image: Frames = PICTURE, **more) -> list[Item]:
    return [item async for item in svd.animate(request, image, **more)]


def runs_of(items: list[Item]) -> list[Frames]:
    return [item for item in items if isinstance(item, Frames)]


def pixels_of(items: list[Item]) -> Pixels:
    return np.concatenate([run.pixels for run in runs_of(items)])


def fact(items: list[Item], name: str):
    return next(item.value for item in items if isinstance(item, Fact) and item.name == name)


def changed(**fields) -> SvdRequest:
    return SvdRequest(**{**FIELDS, **fields})


# --- the stream ---------------------------------------------------------------------------------------------------


async def test_the_stream_in_its_order(home, svd):
    items = await collected(svd)
    told = [
        (type(item).__name__, *((item.stage, item.done, item.total) if isinstance(item, Progress) else ()))
        for item in items
    ]
    assert told == [
        ("Fact",),
        ("Fact",),
        *(("Progress", "denoise", step, 2) for step in range(3)),
        ("Progress", "decode", 0, 10),
        ("Frames",),
        ("Progress", "decode", 4, 10),
        ("Frames",),
        ("Progress", "decode", 8, 10),
        ("Frames",),
        ("Progress", "decode", 10, 10),
        ("StageDone",),
    ]
    assert [(run.first, run.count, run.rate) for run in runs_of(items)] == [(0, 4, 12), (4, 4, 12), (8, 2, 12)]
    assert [(item.name, item.value) for item in items[:2] if isinstance(item, Fact)] == [("seed", 3), ("size", "64x64")]
    last = items[-1]
    assert isinstance(last, StageDone)
    source = written("svd", "xt", home).source
    assert (last.stage, last.model, last.source, last.revision) == ("animate", "svd", source, "")
    assert last.replica == "svd#test cpu"
    assert last.seconds > 0


async def test_a_window_of_more_frames_than_travel_together_is_sent_in_runs(home, svd):
    request = changed(num_frames=20, steps=1)
    runs = runs_of(await collected(loaded(home, decode_window=20), request))
    assert [(run.first, run.count) for run in runs] == [(0, 16), (16, 4)]
    late = runs_of(await collected(loaded(home, decode_window=20), request, start=3))
    assert [(run.first, run.count) for run in late] == [(3, 16), (19, 1)]
    assert np.array_equal(late[1].pixels[0], runs[1].pixels[3])


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"size": "191x130"}, {"size": "188x128", "canvas": "192x128"}),
        ({"size": "191x130", "fit": "crop"}, {"size": "128x128"}),
        ({"size": "191x130", "fit": "stretch"}, {"size": "128x128"}),
        ({"size": None, "max_area": 192 * 128}, {"size": "192x128"}),
        ({"size": None, "max_area": 64 * 64}, {"size": "64x43", "canvas": "64x64"}),
    ],
)
async def test_the_size_is_told_and_kept(svd, fields, told):
    items = await collected(svd, changed(**fields, num_frames=2, steps=1))
    width, height = map(int, told["size"].split("x"))
    assert {item.name: item.value for item in items if isinstance(item, Fact)} == {"seed": 3, **told}
    assert pixels_of(items).shape == (2, height, width, 3)


# --- rejected requests --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "start", "param", "message"),
    [
        ({"size": "63x128"}, 0, "size", "the smallest size is 64x64 pixels, got 63x128"),
        ({}, -1, "start", "must be 0 to 10, got -1"),
        ({}, 11, "start", "must be 0 to 10, got 11"),
    ],
)
async def test_what_cannot_be_made(svd, fields, start, param, message):
    with pytest.raises(InvalidParameter, match=message) as caught:
        await collected(svd, changed(**fields), start=start)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "fields",
    [
        {"attention": "native"},
        {"offload": "disk"},
        {"dtype": "int8"},
        {"decode_window": 0},
        {"decode_window": 251},
        {"decode_overlap": -1},
        {"decode_overlap": 33},
        {"max_frames": 1},
        {"max_steps": 0},
    ],
)
def test_settings_that_cannot_be(fields):
    with pytest.raises(ValidationError):
        SvdSettings(weights=Weights(path=Path("/weights")), **fields)


# --- requests -----------------------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_svd_xt():
    assert SvdRequest().model_dump() == {
        "num_frames": 25,
        "steps": 25,
        "fps": 6,
        "motion_bucket_id": 127,
        "noise_aug_strength": 0.02,
        "min_guidance_scale": 1.0,
        "max_guidance_scale": 3.0,
        "max_area": 589_824,
        "size": None,
        "fit": "pad",
        "seed": -1,
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"num_frames": 1},
        {"num_frames": 251},
        {"steps": 0},
        {"steps": 1001},
        {"fps": 0},
        {"fps": 61},
        {"fps": 23.976},
        {"motion_bucket_id": 0},
        {"motion_bucket_id": 256},
        {"noise_aug_strength": -0.1},
        {"noise_aug_strength": 10.1},
        {"noise_aug_strength": float("nan")},
        {"max_guidance_scale": float("inf")},
        {"guidance_scale": 101},
        {"min_guidance_scale": -1},
        {"max_area": 64 * 64 - 1},
        {"seed": -2},
        {"seed": 2**63},
        {"size": "1024"},
        {"size": "0x576"},
        {"shift": 5.0},
    ],
)
def test_what_cannot_be_is_refused(fields):
    with pytest.raises(ValidationError):
        SvdRequest(**fields)


@pytest.mark.parametrize("name", ["prompt", "negative_prompt"])
def test_a_prompt_is_refused_with_the_reason(name):
    with pytest.raises(InvalidParameter, match=f"{name}: not supported by Stable Video Diffusion") as caught:
        SvdRequest.model_validate({name: "a boat"})
    assert caught.value.param == name
    for nothing in ("", None):
        assert SvdRequest.model_validate({name: nothing}) == SvdRequest()


def test_guidance_scale_is_the_greatest():
    assert SvdRequest.model_validate({"guidance_scale": "4.5"}).max_guidance_scale == 4.5
    with pytest.raises(InvalidParameter, match="one of guidance_scale and max_guidance_scale") as caught:
        SvdRequest.model_validate({"guidance_scale": 4, "max_guidance_scale": 4})
    assert caught.value.param == "guidance_scale"


def test_guidance_does_not_shrink():
    with pytest.raises(InvalidParameter, match=r"not be above max_guidance_scale, got 3\.5 and 3\.0") as caught:
        SvdRequest(min_guidance_scale=3.5)
    assert caught.value.param == "min_guidance_scale"
    with pytest.raises(InvalidParameter):
        SvdRequest(min_guidance_scale=1.5, max_guidance_scale=0)
    assert SvdRequest(min_guidance_scale=3.0).min_guidance_scale == 3.0


def test_guidance_is_turned_off_by_one_field_and_what_was_read_can_be_read_again():
    off = SvdRequest.model_validate({"guidance_scale": 0})
    assert (off.min_guidance_scale, off.max_guidance_scale) == (1.0, 0.0)
    assert SvdRequest(**off.model_dump()) == off
    assert SvdRequest.model_validate_json(off.model_dump_json()) == off


def test_a_graph_can_nest_it():
    class Graph(BaseModel):
        animate: Animation | bool = True

    nested = Graph.model_validate({"animate": {"fps": 12, "guidance_scale": 2}}).animate
    assert nested == Animation(fps=12, max_guidance_scale=2)
    assert Graph.model_validate({"animate": False}).animate is False
    assert SvdRequest(**Animation(fps=12).model_dump(), seed=3) == SvdRequest(fps=12, seed=3)


# --- cancellation -------------------------------------------------------------------------------------------------


async def test_closing_while_frames_are_decoded_stops_the_decoding(svd, plain):
    stream = svd.animate(changed(num_frames=50, steps=1), PICTURE)
    assert await close_while_decoding(stream, svd._model._pipe.vae.decoder) <= 2  # out of 13 windows
    assert np.array_equal(pixels_of(await collected(svd)), plain)


async def test_windows_before_the_start_are_not_decoded(svd):
    windows = []
    hook = svd._model._pipe.vae.decoder.register_forward_hook(lambda *_: windows.append(1))
    await collected(svd, start=5)
    hook.remove()
    assert len(windows) == 2  # out of 3
