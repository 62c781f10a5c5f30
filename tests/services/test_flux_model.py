"""Flux with random weights: the same pixels as diffusers' own pipeline, and settings that take effect."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from safetensors.torch import load_file, save_file

from miniatures.random import written
from miniatures.random.flux import write
from services.errors import ConfigError, ModelFailed
from services.flux.request import FluxRequest
from services.flux.service import Flux
from services.flux.settings import FluxSettings
from services.frames import Frames, Pixels, Progress
from services.levers import StepCache
from services.weights.local import resolve
from services.weights.weights import Weights

FIELDS = {"prompt": "a boat", "size": "64x48", "steps": 3, "seed": 3}
REQUEST = FluxRequest(**FIELDS)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def flux(home) -> Flux:
    return loaded(home)


@pytest.fixture(scope="module")
def plain(flux) -> Pixels:
    """Pictures of REQUEST with default settings."""
    return asyncio.run(made(flux))


def loaded(home: Path, **more) -> Flux:
    weights = written("flux", "tiny", home)
    fields = {"weights": weights, "device": "cpu", "dtype": "float32", "max_sequence_length": 32}
    return Flux(FluxSettings(**{**fields, **more}), home, lambda: "flux#test cpu")


async def made(flux: Flux, request: FluxRequest = REQUEST) -> Pixels:
    """Return all pictures, (n, h, w, 3)."""
    items = [item async for item in flux.generate_image(request)]
    return np.concatenate([item.pixels for item in items if isinstance(item, Frames)])


def pipeline_of(home: Path) -> Any:
    pipe = FluxPipeline.from_pretrained(resolve(written("flux", "tiny", home), home), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def changed(**fields) -> FluxRequest:
    return FluxRequest(**{**FIELDS, **fields})


# --- sampling -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [{}, {"true_cfg_scale": 4.0, "negative_prompt": "blurred"}, {"guidance_scale": 1.0, "steps": 5, "seed": 9}],
)
async def test_pixels_are_those_of_the_pipeline_itself(home, flux, fields):
    request = changed(**fields)
    unit = pipeline_of(home)(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt or None,
        true_cfg_scale=request.true_cfg_scale,
        width=64,
        height=48,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale,
        generator=torch.Generator().manual_seed(request.seed),
        max_sequence_length=32,
        output_type="np",
    ).images
    assert np.array_equal(await made(flux, request), (unit * 255).round().astype(np.uint8))


async def test_a_seed_makes_the_same_pixels_again_and_another_seed_others(flux, plain):
    assert plain.shape == (1, 48, 64, 3)
    assert plain.std() > 5
    assert np.array_equal(await made(flux), plain)
    assert not np.array_equal(await made(flux, changed(seed=4)), plain)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "a red house"},
        {"guidance_scale": 1.0},
        {"steps": 4},
        {"size": "48x64"},
        {"true_cfg_scale": 4.0},
    ],
)
async def test_what_is_asked_for_matters(flux, plain, fields):
    assert not np.array_equal(await made(flux, changed(**fields)), plain)


async def test_the_negative_prompt_acts_only_with_guidance_by_it(flux, plain):
    assert np.array_equal(await made(flux, changed(negative_prompt="blurred")), plain)
    guided = await made(flux, changed(true_cfg_scale=4.0))
    assert not np.array_equal(await made(flux, changed(true_cfg_scale=4.0, negative_prompt="blurred")), guided)


async def test_the_text_is_read_as_far_as_the_setting_says(home, plain):
    assert not np.array_equal(await made(loaded(home, max_sequence_length=3)), plain)


# --- previews -----------------------------------------------------------------------------------------------------


async def test_previews_are_small_and_come_every_so_many_steps(home):
    flux = loaded(home, preview_every=2)
    items = [item async for item in flux.generate_image(changed(size="512x64", steps=5, n=2))]
    steps = [item for item in items if isinstance(item, Progress)]
    assert [step.done for step in steps if step.preview is not None] == [2, 4, 7, 9]
    previews = [step.preview for step in steps if step.preview is not None]
    assert [(preview.count, preview.height, preview.width) for preview in previews] == [(1, 32, 256)] * 4
    assert [preview.first for preview in previews] == [0, 0, 1, 1]


async def test_the_last_preview_is_the_picture_where_that_is_small(home, plain):
    items = [item async for item in loaded(home, preview_every=1).generate_image(REQUEST)]
    previews = [item.preview for item in items if isinstance(item, Progress) and item.preview is not None]
    assert np.abs(previews[-1].pixels.astype(int) - plain).max() <= 1
    # Earlier previews show the step's estimate, which approaches the picture from step to step.
    errors = [np.abs(preview.pixels.astype(int) - plain).mean() for preview in previews]
    assert errors == sorted(errors, reverse=True)


async def test_a_preview_does_not_change_the_picture(home, plain):
    assert np.array_equal(await made(loaded(home, preview_every=1)), plain)


# --- levers -------------------------------------------------------------------------------------------------------


async def test_bfloat16_comes_near_float32(home, plain):
    half = await made(loaded(home, dtype="bfloat16"))
    assert not np.array_equal(half, plain)
    assert np.abs(half.astype(int) - plain).mean() < 8


async def test_an_attention_backend_is_taken(home, plain):
    flux = loaded(home, attention="_native_math")
    transformer = flux._model._pipe.transformer
    blocks = (*transformer.transformer_blocks, *transformer.single_transformer_blocks)
    assert {block.attn.processor._attention_backend.value for block in blocks} == {"_native_math"}
    assert np.abs((await made(flux)).astype(int) - plain).max() <= 2
    loaded(home, attention="native")  # a process-wide setting: restore it


@pytest.mark.parametrize("attention", ["quick", "flash"])
def test_an_attention_backend_that_is_not_here(home, attention):
    with pytest.raises(ConfigError, match=r"attention: .*flash"):
        loaded(home, attention=attention)


async def test_the_step_cache_acts_and_forgets_between_requests(home, plain):
    flux = loaded(home, step_cache=StepCache(threshold=10))
    first = await made(flux)
    assert not np.array_equal(first, plain)
    assert np.array_equal(await made(flux), first)
    stream = flux.generate_image(changed(prompt="a red house"))
    async for item in stream:
        if isinstance(item, Progress) and item.done == 1:
            break
    await stream.aclose()
    assert np.array_equal(await made(flux), first)


async def test_a_step_cache_that_never_skips_changes_nothing(home, plain):
    assert np.array_equal(await made(loaded(home, step_cache=StepCache(threshold=1e-9))), plain)


@pytest.mark.parametrize("offload", ["model", "group", "sequential"])
def test_offloading_needs_a_gpu(home, offload):
    with pytest.raises(ConfigError, match=f"offload: {offload} needs a GPU"):
        loaded(home, offload=offload)


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_a_device_that_is_not_here(home, device):
    with pytest.raises(ConfigError, match=f"device: {device}"):
        loaded(home, device=device)


# --- failures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [None, {"_class_name": "FluxPipeline"}, {"_class_name": "WanPipeline"}])
def test_a_folder_that_is_no_checkpoint(home, tmp_path, index):
    if index is not None:
        (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match=r"is not a FLUX\.1 checkpoint"):
        loaded(home, weights=Weights(path=tmp_path))


@pytest.mark.parametrize(
    ("part", "name"),
    [("transformer", "proj_out.weight"), ("vae", "decoder.conv_out.weight")],
)
async def test_numbers_that_are_not_finite_are_an_error_not_a_black_picture(home, tmp_path, part, name):
    write("tiny", tmp_path)
    file = tmp_path / part / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors[name][0] = float("inf")
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ModelFailed, match="not finite"):
        await made(loaded(home, weights=Weights(path=tmp_path)))
