"""What of Flux only a GPU can show: offloading with LoRAs and a face, half precision, compiled blocks."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from miniatures.random import written
from services.errors import Cancelled, ModelFailed
from services.flux.request import FluxRequest
from services.flux.service import Flux
from services.flux.settings import FluxSettings, IdentitySettings
from services.frames import Face, Frames, Pixels
from services.levers import StepCache
from services.weights.request import Lora

pytestmark = pytest.mark.gpu

FIELDS = {"prompt": "a boat", "size": "64x48", "steps": 4, "seed": 3}
REQUEST = FluxRequest(**FIELDS)
INK = FluxRequest(**FIELDS, loras=(Lora(name="ink"),))
POINTS = np.array([[0.35, 0.4], [0.65, 0.4], [0.5, 0.55], [0.4, 0.7], [0.6, 0.7]], np.float32)
FACE = Face(np.full(512, 512**-0.5, np.float32), POINTS, np.array([0.2, 0.2, 0.8, 0.9], np.float32))
DTYPES = ["bfloat16", "float16"]
OFFLOADS = ["model", "group", "sequential"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """LoRAs: one that is plainly seen."""
    folder = tmp_path_factory.mktemp("loras")
    random = torch.Generator().manual_seed(1)
    tensors: dict[str, torch.Tensor] = {}
    for block in range(2):
        layer = f"transformer.transformer_blocks.{block}.attn.to_v"
        tensors[f"{layer}.lora_A.weight"] = torch.randn(4, 32, generator=random)
        tensors[f"{layer}.lora_B.weight"] = torch.randn(32, 4, generator=random)
    save_file(tensors, folder / "ink.safetensors")
    return folder


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


def nets_of(home: Path) -> IdentitySettings:
    return IdentitySettings(weights=written("flux", "identity", home))


def loaded(home: Path, **settings: Any) -> Flux:
    weights = written("flux", "tiny", home)
    fields = {"weights": weights, "device": "cuda", "dtype": "float32", "max_sequence_length": 32}
    return Flux(FluxSettings(**{**fields, **settings}), home, lambda: "flux#test cuda:0")


async def made(flux: Flux, request: FluxRequest = REQUEST, face: Face | None = None) -> Pixels:
    """All pictures, (n, h, w, 3)."""
    items = [item async for item in flux.generate_image(request, face)]
    return np.concatenate([item.pixels for item in items if isinstance(item, Frames)])


async def cancelled(flux: Flux, face: Face | None = None) -> int:
    """Ask for 100 steps, cancel in the midst of the third, and return how many were begun."""
    begun: list[None] = []

    def on_step(*_: Any) -> None:
        begun.append(None)
        if len(begun) == 3:
            flux._worker.stop("job")

    hook = flux._model._pipe.transformer.register_forward_pre_hook(on_step)
    with pytest.raises(Cancelled):
        async for _ in flux.generate_image(FluxRequest(**{**FIELDS, "steps": 100}), face, key="job"):
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
    flux = loaded(home, dtype=dtype)
    first = await made(flux)
    assert first.std() > 5
    assert np.array_equal(await made(flux), first)
    assert np.array_equal(await made(loaded(home, dtype=dtype)), first)
    assert not np.array_equal(await made(flux, FluxRequest(**{**FIELDS, "seed": 4})), first)


async def test_the_gpu_starts_from_the_noise_of_the_cpu(home, plain):
    assert difference(await made(loaded(home, device="cpu")), plain) < 1


@pytest.mark.parametrize("dtype", DTYPES)
async def test_half_precision_comes_near_to_float32_on_the_cpu(home, dtype):
    whole = await made(loaded(home, device="cpu"))
    assert difference(await made(loaded(home, dtype=dtype)), whole) < 8


@pytest.mark.parametrize("offload", OFFLOADS)
async def test_offloading_makes_the_same_picture_request_after_request(home, plain, offload):
    flux = loaded(home, offload=offload, preview_every=2)
    for _ in range(2):
        assert difference(await made(flux), plain) < 1
    assert flux._model._pipe.vae.device.type == "cuda"


@pytest.mark.parametrize("offload", OFFLOADS)
async def test_offloading_and_a_step_cache_go_together(home, plain, offload):
    flux = loaded(home, offload=offload, step_cache=StepCache(threshold=1e-9))
    assert difference(await made(flux), plain) < 1
    skipping = loaded(home, offload=offload, step_cache=StepCache(threshold=10))
    first = await made(skipping)
    assert difference(await made(skipping), first) < 1


@pytest.mark.parametrize("offload", ["none", *OFFLOADS])
async def test_a_lora_comes_and_goes_where_models_wait_elsewhere(home, folder, plain, offload):
    inked = await made(loaded(home, lora_dir=folder, device="cpu"), INK)
    assert difference(inked, plain) > 2
    flux = loaded(home, offload=offload, lora_dir=folder)
    for _ in range(2):
        assert difference(await made(flux), plain) < 1
        assert difference(await made(flux, INK), inked) < 1


@pytest.mark.parametrize("offload", ["none", *OFFLOADS])
async def test_a_face_acts_where_models_wait_elsewhere(home, plain, offload):
    faced = await made(loaded(home, identity=nets_of(home), device="cpu"), face=FACE)
    assert difference(faced, plain) > 2
    flux = loaded(home, identity=nets_of(home), offload=offload)
    for _ in range(2):
        assert difference(await made(flux, face=FACE), faced) < 2
        assert difference(await made(flux), plain) < 1


@pytest.mark.parametrize("offload", ["none", *OFFLOADS])
async def test_a_request_is_cancelled_within_a_step_and_does_not_disturb_the_next(home, plain, offload):
    flux = loaded(home, offload=offload)
    assert await cancelled(flux) == 3
    assert difference(await made(flux), plain) < 1


@pytest.mark.parametrize("face", [None, FACE], ids=["without a face", "with a face"])
@pytest.mark.parametrize("offload", ["model", "sequential"])
async def test_a_cancelled_request_leaves_the_models_off_the_gpu(home, offload, face):
    flux = loaded(home, offload=offload, identity=nets_of(home))
    await cancelled(flux, face)
    pipe = flux._model._pipe
    models = (pipe.text_encoder, pipe.text_encoder_2, pipe.transformer)
    assert "cuda" not in {weight.device.type for model in models for weight in model.parameters()}


@pytest.mark.parametrize("attention", ["native", "_native_cudnn"])
async def test_attention_backends(home, plain, attention):
    flux = loaded(home, dtype="bfloat16", attention=attention)
    assert difference(await made(flux), plain) < 8
    loaded(home, attention="native")  # the choice is the process's: put it back


@pytest.mark.parametrize("step_cache", [None, StepCache(threshold=1e-9)])
async def test_compiled_blocks(home, plain, step_cache):
    flux = loaded(home, compile=True, step_cache=step_cache)
    assert difference(await made(flux), plain) < 1
    assert (await made(flux, FluxRequest(**{**FIELDS, "size": "32x80"}))).shape == (1, 80, 32, 3)


async def test_compiled_blocks_take_a_lora(home, folder, plain):
    flux = loaded(home, compile=True, lora_dir=folder)
    inked = await made(loaded(home, lora_dir=folder), INK)
    assert difference(await made(flux), plain) < 1
    assert difference(await made(flux, INK), inked) < 1
    assert difference(await made(flux), plain) < 1


async def test_memory_that_runs_out_is_said_and_the_next_request_works(home, plain, request):
    flux = loaded(home, max_area=2048 * 2048)
    await made(flux)
    request.getfixturevalue("little_memory")
    with pytest.raises(ModelFailed, match="2048x2048 pixels: ask for a smaller size or fewer LoRAs"):
        await made(flux, FluxRequest(**{**FIELDS, "size": "2048x2048"}))
    flux.check_health()
    assert np.array_equal(await made(flux), plain)
