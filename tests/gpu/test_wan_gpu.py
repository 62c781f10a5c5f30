"""What of Wan only a GPU can show: offloading, half precision, compiled blocks, memory that runs out."""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from miniatures.random import written
from services.errors import ModelFailed
from services.frames import Frames, Pixels, Progress
from services.levers import StepCache
from services.wan.model import decode
from services.wan.request import WanRequest, WanTextRequest
from services.wan.service import Wan
from services.wan.settings import WanSettings
from services.weights.local import resolve

pytestmark = pytest.mark.gpu

PICTURE = Frames(np.random.default_rng(7).integers(0, 256, (1, 64, 96, 3), np.uint8))
FIELDS = {"prompt": "a boat", "num_frames": 9, "size": "96x64", "steps": 4, "seed": 3}
REQUEST = WanRequest(**FIELDS)
FORMS = ["a14b", "ti2v"]
OFFLOADS = ["model", "group", "sequential"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def plain(home) -> dict[str, Pixels]:
    """What each form makes of REQUEST on the GPU in float32, nothing else set."""
    return {form: asyncio.run(made(loaded(home, form))) for form in FORMS}


@pytest.fixture
def little_memory() -> Iterator[None]:
    """256 MiB more than what is in use now."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 256 * 2**20) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def loaded(home: Path, form: str, **settings: Any) -> Wan:
    fields = {"weights": written("wan", form, home), "device": "cuda", "dtype": "float32", **settings}
    return Wan(WanSettings(**fields), home, lambda: "wan#test cuda:0")


async def made(wan: Wan, request: WanRequest = REQUEST) -> Pixels:
    """All frames of a video, (n, h, w, 3)."""
    items = [item async for item in wan.animate(request, PICTURE)]
    return np.concatenate([item.pixels for item in items if isinstance(item, Frames)])


async def cancelled(wan: Wan) -> None:
    """Ask for 100 steps and leave after the second."""
    async with aclosing(wan.animate(WanRequest(**{**FIELDS, "steps": 100}), PICTURE)) as stream:
        async for item in stream:
            if isinstance(item, Progress) and item.done == 2:
                break


def difference(one: Pixels, other: Pixels) -> float:
    """Mean absolute difference in levels of 0 to 255."""
    return float(np.abs(one.astype(int) - other).mean())


def test_auto_is_the_gpu(home):
    assert loaded(home, "ti2v", device="auto")._model._pipe.transformer.device.type == "cuda"


@pytest.mark.parametrize("form", FORMS)
async def test_a_seed_makes_the_same_pixels_again(home, plain, form):
    assert np.array_equal(await made(loaded(home, form)), plain[form])


@pytest.mark.parametrize("form", FORMS)
async def test_the_gpu_starts_from_the_noise_of_the_cpu(home, plain, form):
    assert difference(await made(loaded(home, form, device="cpu")), plain[form]) < 1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
async def test_half_precision_comes_near(home, plain, form, dtype):
    assert difference(await made(loaded(home, form, dtype=dtype)), plain[form]) < 8


@pytest.mark.parametrize(("form", "channels"), [("a14b", 16), ("ti2v", 48)])
def test_decoding_in_a_stream_is_decoding_at_once(home, form, channels):
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    folder = resolve(written("wan", form, home), home)
    vae: Any = AutoencoderKLWan.from_pretrained(folder, subfolder="vae")
    vae = vae.to("cuda")
    latents = torch.randn(1, channels, 4, 6, 4, generator=torch.Generator().manual_seed(5)).to("cuda")
    with torch.no_grad():
        at_once = vae.decode(latents).sample
    # cuDNN may choose another algorithm; half an 8-bit level is 2e-3
    torch.testing.assert_close(torch.cat(list(decode(vae, latents)), 2), at_once, atol=1e-3, rtol=0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("offload", OFFLOADS)
async def test_offloading_makes_the_same_video_request_after_request(home, plain, form, offload):
    wan = loaded(home, form, offload=offload, preview_every=2)
    for _ in range(2):
        assert difference(await made(wan), plain[form]) < 1
    assert wan._model._pipe.vae.device.type == "cuda"


@pytest.mark.parametrize("form", ["t2v", "ti2v"])
@pytest.mark.parametrize("offload", OFFLOADS)
async def test_offloading_makes_the_same_video_without_a_picture(home, form, offload):
    async def film(wan: Wan) -> Pixels:
        items = [item async for item in wan.generate_video(WanTextRequest(**FIELDS))]
        return np.concatenate([item.pixels for item in items if isinstance(item, Frames)])

    wan, expected = loaded(home, form, offload=offload, preview_every=2), await film(loaded(home, form))
    for _ in range(2):
        assert difference(await film(wan), expected) < 1
    pipe = wan._model._pipe
    networks = {name: part.device.type for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    assert networks.pop("vae") == "cuda"
    if offload == "model":
        assert set(networks.values()) == {"cpu"}, "the hooks of the shared networks have released them"


@pytest.mark.parametrize("offload", OFFLOADS)
async def test_offloading_and_a_step_cache_go_together(home, plain, offload):
    wan = loaded(home, "a14b", offload=offload, step_cache=StepCache(threshold=1e-9))
    assert difference(await made(wan), plain["a14b"]) < 1
    skipping = loaded(home, "a14b", offload=offload, step_cache=StepCache(threshold=10))
    first = await made(skipping)
    assert difference(await made(skipping), first) < 1


@pytest.mark.parametrize("offload", OFFLOADS)
async def test_a_cancelled_request_does_not_disturb_the_next(home, plain, offload):
    wan = loaded(home, "a14b", offload=offload)
    await cancelled(wan)
    assert difference(await made(wan), plain["a14b"]) < 1


@pytest.mark.parametrize("offload", ["model", "sequential"])
async def test_a_cancelled_request_leaves_the_models_off_the_gpu(home, offload):
    wan = loaded(home, "a14b", offload=offload)
    await cancelled(wan)
    pipe = wan._model._pipe
    weights = [*pipe.text_encoder.parameters(), *pipe.transformer.parameters(), *pipe.transformer_2.parameters()]
    assert "cuda" not in {weight.device.type for weight in weights}


@pytest.mark.parametrize("attention", ["native", "_native_cudnn"])
async def test_attention_backends(home, plain, attention):
    assert difference(await made(loaded(home, "a14b", dtype="bfloat16", attention=attention)), plain["a14b"]) < 8
    loaded(home, "ti2v", attention="native")  # the choice is the process's: put it back


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("step_cache", [None, StepCache(threshold=1e-9)])
async def test_compiled_blocks(home, plain, form, step_cache):
    wan = loaded(home, form, compile=True, step_cache=step_cache)
    assert difference(await made(wan), plain[form]) < 1
    other = await made(wan, WanRequest(**{**FIELDS, "size": "64x96", "num_frames": 5}))
    assert other.shape == (5, 96, 64, 3)


async def test_memory_that_runs_out_is_said_and_the_next_request_works(home, plain, request):
    wan = loaded(home, "a14b")
    await made(wan)
    request.getfixturevalue("little_memory")
    with pytest.raises(ModelFailed, match="1280x704 pixels and 81 frames"):
        await made(wan, WanRequest(**{**FIELDS, "size": "1280x704", "num_frames": 81}))
    wan.check_health()
    assert np.array_equal(await made(wan), plain["a14b"])
