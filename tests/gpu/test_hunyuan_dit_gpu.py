"""What of HunyuanDiT only a GPU can show: offloading, half precision, compiling, memory that runs out."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from miniatures.random import written
from services.errors import Cancelled, ConfigError, ModelFailed
from services.frames import Frames, Pixels
from services.hunyuan_dit.request import RestyleRequest
from services.hunyuan_dit.service import HunyuanDit
from services.hunyuan_dit.settings import HunyuanDitSettings

pytestmark = pytest.mark.gpu

PICTURE = Frames(np.random.default_rng(7).integers(0, 256, (1, 48, 64, 3), np.uint8))
FIELDS = {"prompt": "as an oil painting", "negative_prompt": "blurred", "steps": 6, "strength": 0.5, "seed": 3}
REQUEST = RestyleRequest(**FIELDS)
DTYPES = ["float16", "bfloat16"]
OFFLOADS = ["model", "sequential"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def plain(home) -> Pixels:
    """What REQUEST makes of PICTURE on the GPU in float32, nothing else set."""
    return asyncio.run(made(loaded(home)))


@pytest.fixture
def little_memory() -> Iterator[None]:
    """256 MiB more than what is in use now."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 256 * 2**20) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def loaded(home: Path, **settings: Any) -> HunyuanDit:
    fields = {"weights": written("hunyuan-dit", "tiny", home), "device": "cuda", "dtype": "float32", **settings}
    return HunyuanDit(HunyuanDitSettings(**fields), home, lambda: "hunyuan-dit#test cuda:0")


async def made(hunyuan: HunyuanDit, request: RestyleRequest = REQUEST, image: Frames = PICTURE) -> Pixels:
    """The picture, (1, h, w, 3)."""
    (pixels,) = [item.pixels async for item in hunyuan.restyle(request, image) if isinstance(item, Frames)]
    return pixels


async def cancelled(hunyuan: HunyuanDit) -> int:
    """Ask for 100 steps, cancel in the midst of the third, and return how many were begun."""
    begun: list[None] = []

    def on_step(*_: Any) -> None:
        begun.append(None)
        if len(begun) == 3:
            hunyuan._worker.stop("job")

    hook = hunyuan._model._pipe.transformer.register_forward_pre_hook(on_step)
    request = RestyleRequest(**{**FIELDS, "steps": 100, "strength": 1.0})
    with pytest.raises(Cancelled):
        async for _ in hunyuan.restyle(request, PICTURE, key="job"):
            pass
    hook.remove()
    return len(begun)


def difference(one: Pixels, other: Pixels) -> float:
    """Mean absolute difference in levels of 0 to 255."""
    return float(np.abs(one.astype(int) - other).mean())


def test_auto_is_the_gpu(home):
    assert loaded(home, device="auto")._model._pipe.transformer.device.type == "cuda"


@pytest.mark.parametrize("dtype", ["float32", *DTYPES])
async def test_a_seed_makes_the_same_pixels_again(home, dtype):
    hunyuan = loaded(home, dtype=dtype)
    first = await made(hunyuan)
    assert first.std() > 5
    assert np.array_equal(await made(hunyuan), first)
    assert np.array_equal(await made(loaded(home, dtype=dtype)), first)
    assert not np.array_equal(await made(hunyuan, RestyleRequest(**{**FIELDS, "seed": 4})), first)


async def test_the_gpu_starts_from_the_noise_of_the_cpu(home, plain):
    assert difference(await made(loaded(home, device="cpu")), plain) < 1


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("dtype", DTYPES)
async def test_half_precision_comes_near_to_float32_on_the_cpu(home, dtype, strength):
    request = RestyleRequest(**{**FIELDS, "strength": strength})
    whole = await made(loaded(home, device="cpu"), request)
    assert difference(await made(loaded(home, dtype=dtype), request), whole) < 8


@pytest.mark.parametrize("chunking", [None, 5])
@pytest.mark.parametrize("offload", OFFLOADS)
async def test_offloading_makes_the_same_picture_request_after_request(home, plain, offload, chunking):
    hunyuan = loaded(home, offload=offload, forward_chunking=chunking)
    for _ in range(2):
        assert difference(await made(hunyuan), plain) < 1
    assert hunyuan._model._pipe.vae.device.type == "cuda"


def test_offloading_in_groups_is_refused(home):
    with pytest.raises(ConfigError, match="offload: group is not supported by HunyuanDiT"):
        loaded(home, offload="group")


@pytest.mark.parametrize("offload", ["none", *OFFLOADS])
async def test_a_request_is_cancelled_within_a_step_and_does_not_disturb_the_next(home, plain, offload):
    hunyuan = loaded(home, offload=offload)
    assert await cancelled(hunyuan) == 3
    assert difference(await made(hunyuan), plain) < 1


@pytest.mark.parametrize("offload", OFFLOADS)
async def test_a_cancelled_request_leaves_the_models_off_the_gpu(home, offload):
    hunyuan = loaded(home, offload=offload)
    await cancelled(hunyuan)
    pipe = hunyuan._model._pipe
    models = (pipe.text_encoder, pipe.text_encoder_2, pipe.transformer)
    assert "cuda" not in {weight.device.type for model in models for weight in model.parameters()}


async def test_a_compiled_transformer(home, plain):
    hunyuan = loaded(home, compile=True)
    assert difference(await made(hunyuan), plain) < 1
    other = Frames(np.ascontiguousarray(PICTURE.pixels[:, :32]))
    assert (await made(hunyuan, image=other)).shape == (1, 32, 64, 3)


async def test_memory_that_runs_out_is_said_and_the_next_request_works(home, plain, request):
    hunyuan, large = loaded(home, max_area=2048 * 2048), RestyleRequest(**FIELDS, max_area=2048 * 2048)
    await made(hunyuan)
    request.getfixturevalue("little_memory")
    with pytest.raises(ModelFailed, match="2048x2048 pixels: ask for a smaller max_area"):
        await made(hunyuan, large, Frames(np.zeros((1, 2048, 2048, 3), np.uint8)))
    hunyuan.check_health()
    assert np.array_equal(await made(hunyuan), plain)
