"""Wan without a picture: the same pixels as diffusers' own pipeline, and what each checkpoint can do."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from pydantic import ValidationError

from miniatures.random import written
from services.errors import InvalidParameter, LimitExceeded
from services.frames import Fact, Frames, Item, Pixels, Progress, StageDone
from services.sizes import Sides, choose_size
from services.wan.request import WanRequest, WanTextRequest
from services.wan.service import WIDESCREEN, Wan
from services.wan.settings import WanSettings
from services.weights.local import resolve
from tests.services.contract import close_while_decoding

PICTURE = Frames(np.random.default_rng(7).integers(0, 256, (1, 32, 64, 3), np.uint8))
FIELDS: dict[str, Any] = {"prompt": "a boat", "num_frames": 9, "size": "64x32", "steps": 4, "seed": 3}
REQUEST = WanTextRequest(**FIELDS)
CHECKPOINTS = ["t2v", "ti2v"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def wans(home: Path) -> dict[str, Wan]:
    return {form: loaded(home, form) for form in ("a14b", "t2v", "ti2v")}


def loaded(home: Path, form: str, **settings: Any) -> Wan:
    fields = {"device": "cpu", "dtype": "float32", "max_sequence_length": 32, **settings}
    return Wan(WanSettings(weights=written("wan", form, home), **fields), home, lambda: "wan#test cpu")


async def collected(wan: Wan, request: WanTextRequest = REQUEST, **more: Any) -> list[Item]:
    return [item async for item in wan.generate_video(request, **more)]


def join_pixels(items: list[Item]) -> Pixels:
    return np.concatenate([item.pixels for item in items if isinstance(item, Frames)])


def list_facts(items: list[Item]) -> dict[str, Any]:
    return {item.name: item.value for item in items if isinstance(item, Fact)}


def changed(**fields: Any) -> WanTextRequest:
    return WanTextRequest(**{**FIELDS, **fields})


@pytest.mark.parametrize("form", CHECKPOINTS)
async def test_frames_are_those_of_the_pipeline_itself(home: Path, wans: dict[str, Wan], form: str) -> None:
    pipe: Any = WanPipeline.from_pretrained(resolve(written("wan", form, home), home), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, flow_shift=REQUEST.shift)
    unit = pipe(
        prompt=REQUEST.prompt,
        negative_prompt="",
        width=64,
        height=32,
        num_frames=REQUEST.num_frames,
        num_inference_steps=REQUEST.steps,
        guidance_scale=REQUEST.guidance_scale,
        generator=torch.Generator().manual_seed(REQUEST.seed),
        max_sequence_length=32,
    ).frames[0]
    expected = (unit * 255).round().astype(np.uint8)
    assert np.array_equal(join_pixels(await collected(wans[form])), expected)


async def test_the_order_of_the_stream(home: Path, wans: dict[str, Wan]) -> None:
    items = await collected(wans["t2v"])
    assert list_facts(items) == {"seed": 3, "size": "64x32"}
    steps = [(item.stage, item.done, item.total) for item in items if isinstance(item, Progress)]
    assert steps == [*(("denoise", step, 4) for step in range(5)), *(("decode", done, 9) for done in (0, 1, 5, 9))]
    runs = [(item.first, item.count, item.rate) for item in items if isinstance(item, Frames)]
    assert runs == [(0, 1, 16), (1, 4, 16), (5, 4, 16)]
    done = items[-1]
    assert isinstance(done, StageDone)
    assert (done.stage, done.model, done.source) == ("generate", "wan", written("wan", "t2v", home).source)


async def test_both_experts_take_part_and_have_their_scales(wans: dict[str, Wan]) -> None:
    plain = join_pixels(await collected(wans["t2v"]))
    same = join_pixels(await collected(wans["t2v"], changed(guidance_scale_2=REQUEST.guidance_scale)))
    other = join_pixels(await collected(wans["t2v"], changed(guidance_scale_2=1.5)))
    assert np.array_equal(plain, same)
    assert not np.array_equal(plain, other)


async def test_one_checkpoint_does_both_and_neither_disturbs_the_other(wans: dict[str, Wan]) -> None:
    wan = wans["ti2v"]
    request = WanRequest(**FIELDS)
    films = [join_pixels(await collected(wan))]
    animations = [join_pixels([item async for item in wan.animate(request, PICTURE)])]
    films.append(join_pixels(await collected(wan)))
    animations.append(join_pixels([item async for item in wan.animate(request, PICTURE)]))
    assert np.array_equal(films[0], films[1])
    assert np.array_equal(animations[0], animations[1])
    assert not np.array_equal(films[0], animations[0])


async def test_a_preview_is_of_this_video(home: Path) -> None:
    wan = loaded(home, "ti2v", preview_every=4)

    async def find_preview() -> Frames:
        items = await collected(wan)
        (preview,) = [item.preview for item in items if isinstance(item, Progress) and item.preview is not None]
        return preview

    alone = await find_preview()
    assert (alone.pixels.shape, alone.first) == ((1, 32, 64, 3), 1)
    [item async for item in wan.animate(WanRequest(**{**FIELDS, "seed": 8}), PICTURE)]
    assert np.array_equal((await find_preview()).pixels, alone.pixels)


@pytest.mark.parametrize("start", [1, 4, 9])
async def test_frames_before_the_start_are_kept_back(wans: dict[str, Wan], start: int) -> None:
    whole = join_pixels(await collected(wans["t2v"]))
    runs = [item for item in await collected(wans["t2v"], start=start) if isinstance(item, Frames)]
    assert [index for run in runs for index in range(run.first, run.stop)] == list(range(start, 9))
    assert all(np.array_equal(run.pixels, whole[run.first : run.stop]) for run in runs)


async def test_closing_stops_the_decoder(wans: dict[str, Wan]) -> None:
    wan = wans["t2v"]
    stream = wan.generate_video(changed(num_frames=241, steps=1))
    assert await close_while_decoding(stream, wan._model._pipe.vae.decoder) <= 2  # out of 61 latent frames


@pytest.mark.parametrize(
    ("multiple", "fields", "size"),
    [
        (16, {"max_area": 1280 * 720}, (1280, 720)),
        (32, {"max_area": 1280 * 704}, (1280, 704)),
        (16, {"max_area": 832 * 480}, (832, 480)),
        (32, {"size": "1280x720"}, (1280, 704)),
        (16, {"size": "720x1290"}, (720, 1280)),
    ],
)
def test_the_size_without_a_picture(multiple: int, fields: dict[str, Any], size: tuple[int, int]) -> None:
    request = changed(**{"size": None, **fields})
    assert choose_size(request, WIDESCREEN, 1280 * 736, Sides(multiple)) == size


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"size": "15x64"}, InvalidParameter, "size: the smallest size is 16x16 pixels, got 15x64"),
        ({"size": None, "max_area": 1281 * 720}, LimitExceeded, "max_area: at most 921600 pixels, got 922320"),
        ({"size": "2048x1024"}, LimitExceeded, "size: at most 921600 pixels, got 2097152"),
        ({"steps": 101}, LimitExceeded, "steps: at most 100"),
        ({"guidance_scale": 1.0, "guidance_scale_2": 3.0}, InvalidParameter, "guidance_scale_2: has no effect"),
    ],
)
async def test_what_is_refused(
    wans: dict[str, Wan], fields: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        await collected(wans["t2v"], changed(**fields))


async def test_what_a_checkpoint_cannot_do_is_told(wans: dict[str, Wan]) -> None:
    with pytest.raises(InvalidParameter, match="image: required, because this checkpoint animates a picture") as caught:
        await collected(wans["a14b"])
    assert caught.value.param == "image"
    with pytest.raises(InvalidParameter, match="image: this checkpoint generates videos from a prompt alone") as caught:
        [item async for item in wans["t2v"].animate(WanRequest(**FIELDS), PICTURE)]
    assert caught.value.param == "image"


@pytest.mark.parametrize("fields", [{"prompt": ""}, {"prompt": None}, {"fit": "pad"}, {"num_frames": 8}])
def test_requests_that_are_not_valid(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(fields))):
        changed(**fields)
