"""What of Qwen-Image-Edit only a GPU can show: gradients that do not depend on chance, offloading, half precision."""

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from miniatures.random import written
from services.frames import Frames, Pixels, Progress
from services.qwen_edit.request import EditRequest, Guidance
from services.qwen_edit.service import QwenEdit
from services.qwen_edit.settings import QwenEditSettings

pytestmark = pytest.mark.gpu

RANDOM = np.random.default_rng(7)
PICTURE, EDGES = (Frames(RANDOM.integers(0, 256, (1, 64, 96, 3), np.uint8)) for _ in range(2))
FIELDS = {"steps": 4, "seed": 3, "edge_filter": "sobel"}
ALL_LOSSES = Guidance(gram_scale=1, temporal_scale=1, gram_size=64)
GUIDED = EditRequest(**FIELDS, ttlg=ALL_LOSSES)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def plain(home) -> Pixels:
    """What GUIDED makes on the GPU in float32, nothing else set."""
    return asyncio.run(made(loaded(home)))


def loaded(home: Path, **settings: Any) -> QwenEdit:
    fields = {
        "weights": written("qwen-edit", "tiny", home),
        "device": "cuda",
        "dtype": "float32",
        "reference_area": 64 * 96,
        "condition_area": 112 * 112,
        "vgg16": "random",
        "lpips": "random",
        **settings,
    }
    return QwenEdit(QwenEditSettings(**fields), home, lambda: "qwen-edit#test cuda:0")


async def made(qwen: QwenEdit, request: EditRequest = GUIDED) -> Pixels:
    """The picture, (1, h, w, 3)."""
    items = [item async for item in qwen.edit(request, PICTURE, EDGES)]
    return next(item.pixels for item in items if isinstance(item, Frames))


def difference(one: Pixels, other: Pixels) -> float:
    """Mean absolute difference in levels of 0 to 255."""
    return float(np.abs(one.astype(int) - other).mean())


@pytest.mark.parametrize("decoder_dtype", [None, "bfloat16"])
async def test_a_guided_seed_makes_the_same_pixels_again(home, decoder_dtype):
    one, other = [await made(loaded(home, decoder_dtype=decoder_dtype)) for _ in range(2)]
    assert np.array_equal(one, other)


async def test_the_gpu_comes_near_to_the_cpu(home, plain):
    assert difference(await made(loaded(home, device="cpu")), plain) < 4


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
async def test_half_precision_comes_near(home, plain, dtype):
    assert difference(await made(loaded(home, dtype=dtype)), plain) < 16


@pytest.mark.parametrize("offload", ["model", "group", "sequential"])
async def test_offloading_makes_the_same_picture_request_after_request(home, plain, offload):
    qwen = loaded(home, offload=offload)
    for _ in range(2):
        assert difference(await made(qwen), plain) < 1


@pytest.mark.parametrize("offload", ["none", "model"])
async def test_a_cancelled_request_does_not_disturb_the_next(home, plain, offload):
    qwen = loaded(home, offload=offload)
    long = EditRequest(**{**FIELDS, "steps": 100}, ttlg=ALL_LOSSES)
    async with aclosing(qwen.edit(long, PICTURE, EDGES)) as stream:
        async for item in stream:
            if isinstance(item, Progress) and item.done == 2:
                break
    assert difference(await made(qwen), plain) < 1
