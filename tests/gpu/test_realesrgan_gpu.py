"""What of Real-ESRGAN only a GPU can show: half precision, compiling, tiles without a seam, memory that runs out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from miniatures.random import written
from services.errors import Cancelled, ModelFailed
from services.frames import Frames, Pixels
from services.realesrgan.request import UpscaleRequest
from services.realesrgan.service import RealEsrgan
from services.realesrgan.settings import RealEsrganSettings

pytestmark = pytest.mark.gpu

CLIP = Path(__file__).parents[2] / "clients" / "media" / "bigbuckbunny.mp4"
DTYPES = ["float16", "bfloat16"]
FORMS = ["compact", "rrdb", "rrdb-x2"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def footage() -> Pixels:
    """Six frames of the shipped clip, a quarter as wide and as high, with an odd side: (6, 179, 320, 3)."""
    with av.open(str(CLIP)) as file:
        frames = [frame for _, frame in zip(range(6), file.decode(video=0), strict=False)]
    small = [frame.reformat(320, 180, "rgb24", interpolation="AREA").to_ndarray() for frame in frames]
    return np.ascontiguousarray(np.stack(small).astype(np.uint8)[:, :179])


@pytest.fixture
def little_memory() -> Iterator[None]:
    """256 MiB more than what is in use now."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 256 * 2**20) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def loaded(home: Path, **settings: Any) -> RealEsrgan:
    fields = {"device": "cuda", "dtype": "float32", **settings}
    return RealEsrgan(RealEsrganSettings(**fields), home, lambda: "realesrgan#test cuda:0")


async def made(net: RealEsrgan, pixels: Pixels, scale: int = 4) -> Pixels:
    items = [item async for item in net.upscale(UpscaleRequest(scale=scale), Frames(pixels))]
    return next(item.pixels for item in items if isinstance(item, Frames))


def difference(one: Pixels, other: Pixels) -> float:
    """Mean absolute difference in levels of 0 to 255."""
    return float(np.abs(one.astype(int) - other).mean())


def test_auto_is_the_gpu(home):
    assert loaded(home, device="auto")._model._device.type == "cuda"


@pytest.mark.parametrize("dtype", ["float32", *DTYPES])
async def test_a_run_makes_the_same_pixels_again(home, footage, dtype):
    net = loaded(home, dtype=dtype)
    first = await made(net, footage)
    assert first.shape == (6, 716, 1280, 3)
    assert np.array_equal(await made(net, footage), first)
    assert np.array_equal(await made(loaded(home, dtype=dtype), footage), first)


@pytest.mark.parametrize(("dtype", "near"), [("float32", 0.1), ("float16", 0.5), ("bfloat16", 1.0)])
async def test_it_comes_near_to_float32_on_the_cpu(home, footage, dtype, near):
    part = np.ascontiguousarray(footage[:2, :90, :128])
    whole = await made(loaded(home, device="cpu"), part)
    assert difference(await made(loaded(home, dtype=dtype), part), whole) < near


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
async def test_every_architecture_in_half_precision(home, footage, form, dtype):
    weights, part = written("realesrgan", form, home), np.ascontiguousarray(footage[:2, :64, :96])
    whole = await made(loaded(home, weights=weights, device="cpu"), part, 2)
    assert difference(await made(loaded(home, weights=weights, dtype=dtype), part, 2), whole) < 4


@pytest.mark.parametrize("dtype", DTYPES)
async def test_tiles_have_no_seam(home, footage, dtype):
    whole = await made(loaded(home, dtype=dtype, tile=0), footage)
    tiled = await made(loaded(home, dtype=dtype, tile=64), footage)
    # cuDNN may choose another algorithm for another size: roundings, but nothing along the tiles.
    assert difference(tiled, whole) < 0.5
    assert np.abs(tiled.astype(int) - whole).max() <= 16


@pytest.mark.parametrize("dtype", ["float32", *DTYPES])
async def test_a_compiled_net(home, footage, dtype):
    net = loaded(home, dtype=dtype, compile=True)
    assert difference(await made(net, footage), await made(loaded(home, dtype=dtype), footage)) < 0.5
    assert (await made(net, footage[:1, :64, :96], 2)).shape == (1, 128, 192, 3)


async def test_it_stops_before_the_next_tile_and_the_next_run_is_undisturbed(home, footage):
    net = loaded(home, tile=64)
    expected = await made(net, footage)
    asked: list[None] = []

    def check() -> None:
        asked.append(None)
        if len(asked) == 4:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        net._model.upscale(footage, 4, check)
    assert len(asked) == 4
    assert np.array_equal(await made(net, footage), expected)


async def test_memory_that_runs_out_is_said_and_the_next_run_works(home, footage, request):
    net = loaded(home, tile=0)
    expected = await made(net, footage[:1, :90, :128])
    request.getfixturevalue("little_memory")
    with pytest.raises(ModelFailed, match="1280x720 pixels: set a smaller tile or batch"):
        await made(net, np.zeros((1, 720, 1280, 3), np.uint8))
    net.check_health()
    assert np.array_equal(await made(net, footage[:1, :90, :128]), expected)
