"""The text-to-video service: order of the stream, rejected requests, and cancellation."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError

from miniatures.random import written
from miniatures.random.text_to_video import write
from services.errors import LimitExceeded
from services.frames import Fact, Frames, Item, Pixels, Progress, StageDone
from services.text_to_video.request import Filming, TextToVideoRequest
from services.text_to_video.service import TextToVideo
from services.text_to_video.settings import TextToVideoSettings
from services.weights.weights import Weights
from tests.services.contract import close_while_decoding

FIELDS = {"prompt": "a boat", "num_frames": 10, "size": "32x16", "steps": 2, "seed": 3, "fps": 12}
REQUEST = TextToVideoRequest(**FIELDS)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def service(home) -> TextToVideo:
    return loaded(home)


@pytest.fixture(scope="module")
def plain(service) -> Pixels:
    """The video of REQUEST."""
    return pixels_of(asyncio.run(collected(service)))


def loaded(home: Path, **more) -> TextToVideo:
    fields = {"weights": written("text-to-video", "tiny", home), "decode_batch": 4, "max_steps": 200, **more}
    return TextToVideo(
        TextToVideoSettings(device="cpu", dtype="float32", **fields), home, lambda: "text-to-video#test cpu"
    )


async def collected(service: TextToVideo, request: TextToVideoRequest = REQUEST, **more) -> list[Item]:
    return [item async for item in service.generate_video(request, **more)]


def runs_of(items: list[Item]) -> list[Frames]:
    return [item for item in items if isinstance(item, Frames)]


def pixels_of(items: list[Item]) -> Pixels:
    return np.concatenate([run.pixels for run in runs_of(items)])


def fact(items: list[Item], name: str):
    return next(item.value for item in items if isinstance(item, Fact) and item.name == name)


def changed(**fields) -> TextToVideoRequest:
    return TextToVideoRequest(**{**FIELDS, **fields})


# --- the stream ---------------------------------------------------------------------------------------------------


async def test_the_stream_in_its_order(home, service):
    items = await collected(service)
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
    assert [(item.name, item.value) for item in items[:2] if isinstance(item, Fact)] == [("seed", 3), ("size", "32x16")]
    last = items[-1]
    assert isinstance(last, StageDone)
    source = written("text-to-video", "tiny", home).source
    assert (last.stage, last.model, last.source, last.revision) == ("film", "text-to-video", source, "")
    assert last.replica == "text-to-video#test cpu"
    assert last.seconds > 0


@pytest.mark.parametrize(("start", "batches"), [(0, [4, 4, 2]), (4, [4, 2]), (5, [4, 2]), (9, [2]), (10, [])])
async def test_batches_before_the_start_are_not_decoded(service, start, batches):
    decoded = []
    hook = service._model._pipe.vae.decoder.register_forward_hook(lambda _m, args, _o: decoded.append(len(args[0])))
    await collected(service, start=start)
    hook.remove()
    assert decoded == batches


@pytest.mark.parametrize(("size", "told"), [("39x31", "32x24"), ("72x40", "72x40"), ("10x10", "8x8")])
async def test_the_size_is_told_and_kept(service, size, told):
    items = await collected(service, changed(size=size, num_frames=2, steps=1))
    width, height = map(int, told.split("x"))
    assert fact(items, "size") == told
    assert pixels_of(items).shape == (2, height, width, 3)


async def test_frames_are_shown_at_the_rate_that_is_asked_for_and_are_the_same(service, plain):
    items = await collected(service, changed(fps=30))
    assert {run.rate for run in runs_of(items)} == {30}
    assert np.array_equal(pixels_of(items), plain)


# --- rejected requests --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [None, "dpm++"])
async def test_there_are_no_more_steps_than_the_noise_schedule_has(home, tmp_path, solver):
    write("tiny", tmp_path)
    schedule = tmp_path / "scheduler" / "scheduler_config.json"
    schedule.write_text(json.dumps({**json.loads(schedule.read_text()), "num_train_timesteps": 20}))
    service = loaded(home, weights=Weights(path=tmp_path), solver=solver)
    with pytest.raises(LimitExceeded, match="steps: at most 18 steps, got 19"):
        await collected(service, changed(steps=19))
    longest = await collected(service, changed(steps=18, num_frames=2))
    assert pixels_of(longest).shape == (2, 16, 32, 3)


@pytest.mark.parametrize(
    "fields",
    [
        {"attention": "native"},
        {"compile": True},
        {"offload": "disk"},
        {"dtype": "int8"},
        {"solver": "euler"},
        {"decode_batch": 0},
        {"decode_batch": 17},
        {"max_frames": 1},
        {"max_frames": 251},
        {"max_area": 0},
        {"max_steps": 0},
    ],
)
def test_settings_that_cannot_be(fields):
    with pytest.raises(ValidationError):
        TextToVideoSettings(weights=Weights(path=Path("/weights")), **fields)


# --- requests -----------------------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_the_model_card():
    assert TextToVideoRequest(prompt="a boat").model_dump() == {
        "prompt": "a boat",
        "negative_prompt": "",
        "num_frames": 16,
        "steps": 25,
        "guidance_scale": 9.0,
        "fps": 8,
        "size": "256x256",
        "seed": -1,
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": ""},
        {"prompt": "x" * 8_001},
        {"prompt": "\ud800"},
        {"prompt": None},
        {"negative_prompt": "x" * 8_001},
        {"num_frames": 1},
        {"num_frames": 251},
        {"steps": 0},
        {"steps": 1001},
        {"fps": 0},
        {"fps": 61},
        {"fps": 23.976},
        {"guidance_scale": -1},
        {"guidance_scale": 101},
        {"guidance_scale": float("nan")},
        {"seed": -2},
        {"seed": 2**63},
        {"size": "256"},
        {"size": "0x256"},
        {"size": "8x8"},
        {"size": None},
        {"image": "a.png"},
    ],
)
def test_what_cannot_be_is_refused(fields):
    with pytest.raises(ValidationError):
        TextToVideoRequest(**{"prompt": "a boat", **fields})


def test_there_must_be_a_prompt():
    with pytest.raises(ValidationError, match="prompt"):
        TextToVideoRequest.model_validate({})


def test_a_graph_can_nest_it():
    class Graph(BaseModel):
        film: Filming = Filming()

    nested = Graph.model_validate({"film": {"fps": 12}}).film
    assert nested == Filming(fps=12)
    assert TextToVideoRequest(**nested.model_dump(), prompt="a boat") == TextToVideoRequest(prompt="a boat", fps=12)


# --- cancellation -------------------------------------------------------------------------------------------------


async def test_closing_while_frames_are_decoded_stops_the_decoding(service, plain):
    stream = service.generate_video(changed(num_frames=200, steps=1))
    assert await close_while_decoding(stream, service._model._pipe.vae.decoder) <= 2  # out of 50 batches
    assert np.array_equal(pixels_of(await collected(service)), plain)
