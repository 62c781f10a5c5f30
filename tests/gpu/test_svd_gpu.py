"""What of Stable Video Diffusion only a GPU can show: offloading, half precision, compiling, memory that runs out."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from miniatures.random import written
from services.errors import Cancelled, ModelFailed
from services.frames import Frames, Pixels
from services.svd.model import decode
from services.svd.request import SvdRequest
from services.svd.service import Svd
from services.svd.settings import SvdSettings
from services.weights.local import resolve

pytestmark = pytest.mark.gpu

PICTURE = Frames(np.random.default_rng(7).integers(0, 256, (1, 64, 128, 3), np.uint8))
FIELDS = {"num_frames": 10, "size": "128x64", "steps": 4, "seed": 3}
REQUEST = SvdRequest(**FIELDS)
DTYPES = ["float16", "bfloat16"]
OFFLOADS = ["model", "group", "sequential"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def plain(home) -> Pixels:
    """What REQUEST makes on the GPU in float32, nothing else set."""
    return asyncio.run(made(loaded(home)))


@pytest.fixture
def little_memory() -> Iterator[None]:
    """256 MiB more than what is in use now."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 256 * 2**20) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def loaded(home: Path, **settings: Any) -> Svd:
    fields = {"weights": written("svd", "xt", home), "device": "cuda", "dtype": "float32", **settings}
    return Svd(SvdSettings(**fields), home, lambda: "svd#test cuda:0")


async def made(svd: Svd, request: SvdRequest = REQUEST) -> Pixels:
    """All frames of a video, (n, h, w, 3)."""
    items = [item async for item in svd.animate(request, PICTURE)]
    return np.concatenate([item.pixels for item in items if isinstance(item, Frames)])


async def cancelled(svd: Svd) -> int:
    """Ask for 100 steps, cancel in the midst of the third, and return how many were begun."""
    begun: list[None] = []

    def on_step(*_: Any) -> None:
        begun.append(None)
        if len(begun) == 3:
            svd._worker.stop("job")

    hook = svd._model._pipe.unet.register_forward_pre_hook(on_step)
    with pytest.raises(Cancelled):
        async for _ in svd.animate(SvdRequest(**{**FIELDS, "steps": 100}), PICTURE, key="job"):
            pass
    hook.remove()
    return len(begun)


def difference(one: Pixels, other: Pixels) -> float:
    """Mean absolute difference in levels of 0 to 255."""
    return float(np.abs(one.astype(int) - other).mean())


def test_auto_is_the_gpu(home):
    assert loaded(home, device="auto")._model._pipe.unet.device.type == "cuda"


@pytest.mark.parametrize("dtype", ["float32", *DTYPES])
async def test_a_seed_makes_the_same_pixels_again(home, dtype):
    svd = loaded(home, dtype=dtype)
    first = await made(svd)
    assert first.std() > 5
    assert np.array_equal(await made(svd), first)
    assert np.array_equal(await made(loaded(home, dtype=dtype)), first)
    assert not np.array_equal(await made(svd, SvdRequest(**{**FIELDS, "seed": 4})), first)


async def test_the_gpu_starts_from_the_noise_of_the_cpu(home, plain):
    assert difference(await made(loaded(home, device="cpu")), plain) < 2


@pytest.mark.parametrize("dtype", DTYPES)
async def test_half_precision_comes_near_to_float32_on_the_cpu(home, dtype):
    whole = await made(loaded(home, device="cpu"))
    assert difference(await made(loaded(home, dtype=dtype)), whole) < 8


def test_windows_that_overlap_everything_are_decoding_at_once(home):
    from diffusers.models.autoencoders.autoencoder_kl_temporal_decoder import AutoencoderKLTemporalDecoder

    folder = resolve(written("svd", "xt", home), home)
    vae: Any = AutoencoderKLTemporalDecoder.from_pretrained(folder, subfolder="vae")
    vae = vae.to("cuda")
    latents = torch.randn(1, 9, 4, 4, 6, generator=torch.Generator().manual_seed(5)) * 0.5
    with torch.no_grad():
        at_once = vae.decode(latents[0].to("cuda") / vae.config.scaling_factor, num_frames=9).sample
    # cuDNN may choose another algorithm; half an 8-bit level is 4e-3
    torch.testing.assert_close(torch.cat(list(decode(vae, latents, 4, 9))), at_once, atol=2e-3, rtol=0)


@pytest.mark.parametrize("chunking", [False, True])
@pytest.mark.parametrize("offload", OFFLOADS)
async def test_offloading_makes_the_same_video_request_after_request(home, plain, offload, chunking):
    svd = loaded(home, offload=offload, forward_chunking=chunking)
    for _ in range(2):
        assert difference(await made(svd), plain) < 1
    assert svd._model._pipe.vae.device.type == "cuda"


@pytest.mark.parametrize("offload", OFFLOADS)
async def test_offloading_in_half_precision_brings_the_vae_back_to_it(home, offload):
    """It encodes the picture in float32."""
    svd = loaded(home, offload=offload, dtype="float16")
    whole = await made(loaded(home, dtype="float16"))
    for _ in range(2):
        assert difference(await made(svd), whole) < 1
        assert svd._model._pipe.vae.dtype == torch.float16


@pytest.mark.parametrize("offload", ["none", *OFFLOADS])
async def test_a_request_is_cancelled_within_a_step_and_does_not_disturb_the_next(home, plain, offload):
    svd = loaded(home, offload=offload)
    assert await cancelled(svd) == 3
    assert difference(await made(svd), plain) < 1


@pytest.mark.parametrize("offload", ["model", "sequential"])
async def test_a_cancelled_request_leaves_the_models_off_the_gpu(home, offload):
    svd = loaded(home, offload=offload)
    await cancelled(svd)
    pipe = svd._model._pipe
    weights = [*pipe.image_encoder.parameters(), *pipe.unet.parameters()]
    assert "cuda" not in {weight.device.type for weight in weights}


async def test_a_compiled_unet(home, plain):
    svd = loaded(home, compile=True)
    assert difference(await made(svd), plain) < 1
    other = await made(svd, SvdRequest(**{**FIELDS, "size": "64x64", "num_frames": 3}))
    assert other.shape == (3, 64, 64, 3)


async def test_memory_that_runs_out_is_said_and_the_next_request_works(home, plain, request):
    svd = loaded(home)
    await made(svd)
    request.getfixturevalue("little_memory")
    with pytest.raises(ModelFailed, match="1024x576 pixels and 50 frames"):
        await made(svd, SvdRequest(**{**FIELDS, "size": "1024x576", "num_frames": 50}))
    svd.check_health()
    assert np.array_equal(await made(svd), plain)
