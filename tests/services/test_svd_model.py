"""SVD with random weights: the same pixels as diffusers' own pipeline, and settings that take effect."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import StableVideoDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from miniatures.random import written
from miniatures.random.svd import write
from miniatures.random.wan import write as write_wan
from services.errors import ConfigError, ModelFailed
from services.frames import Frames, Pixels
from services.sizes import Sides
from services.svd.model import decode
from services.svd.request import SvdRequest
from services.svd.service import Svd
from services.svd.settings import SvdSettings
from services.weights.local import resolve
from services.weights.weights import Weights

RANDOM = np.random.default_rng(7)
PICTURE = Frames(RANDOM.integers(0, 256, (1, 64, 128, 3), np.uint8))
OTHER = Frames(RANDOM.integers(0, 256, (1, 64, 128, 3), np.uint8))
FIELDS = {"num_frames": 5, "size": "128x64", "steps": 3, "seed": 3}
REQUEST = SvdRequest(**FIELDS)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def svd(home) -> Svd:
    return loaded(home)


@pytest.fixture(scope="module")
def half(home) -> Svd:
    return loaded(home, dtype="float16")


@pytest.fixture(scope="module")
def plain(svd) -> Pixels:
    """The video of REQUEST and PICTURE with default settings."""
    return asyncio.run(made(svd))


def loaded(home: Path, **settings: Any) -> Svd:
    fields = {"weights": written("svd", "xt", home), "device": "cpu", "dtype": "float32", **settings}
    return Svd(SvdSettings(**fields), home, lambda: "svd#test cpu")


async def made(svd: Svd, request: SvdRequest = REQUEST, image: Frames = PICTURE) -> Pixels:
    """Return all frames of a video, (n, h, w, 3)."""
    items = [item async for item in svd.animate(request, image)]
    return np.concatenate([item.pixels for item in items if isinstance(item, Frames)])


def pipeline_of(home: Path, dtype: torch.dtype = torch.float32) -> Any:
    folder = resolve(written("svd", "xt", home), home)
    pipe = StableVideoDiffusionPipeline.from_pretrained(folder, dtype=dtype, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def made_by(pipe: Any, request: SvdRequest, chunk: int) -> Pixels:
    """Return the video of diffusers' own pipeline for PICTURE, or for its centre crop, (n, h, w, 3)."""
    width = int(str(request.size).removesuffix("x64"))
    unit = pipe(
        image=Image.fromarray(PICTURE.pixels[0, :, 64 - width // 2 : 64 + width // 2]),
        width=width,
        height=64,
        num_frames=request.num_frames,
        num_inference_steps=request.steps,
        min_guidance_scale=request.min_guidance_scale,
        max_guidance_scale=request.max_guidance_scale,
        fps=request.fps,
        motion_bucket_id=request.motion_bucket_id,
        noise_aug_strength=request.noise_aug_strength,
        decode_chunk_size=chunk,
        generator=torch.Generator().manual_seed(request.seed),
        output_type="np",
    ).frames[0]
    return (unit * 255).round().astype(np.uint8)


def changed(**fields) -> SvdRequest:
    return SvdRequest(**{**FIELDS, **fields})


def difference(one: Pixels, other: Pixels) -> float:
    """Return the mean absolute difference in levels of 0 to 255."""
    return float(np.abs(one.astype(int) - other).mean())


# --- decoding -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipe(home) -> Any:
    return pipeline_of(home)


@pytest.fixture(scope="module")
def latents() -> torch.Tensor:
    return torch.randn(1, 9, 4, 4, 6, generator=torch.Generator().manual_seed(5)) * 0.5


def at_once(pipe: Any, latents: torch.Tensor, chunk: int = 9) -> torch.Tensor:
    """(n, 3, h, w)"""
    with torch.no_grad():
        return pipe.decode_latents(latents, 9, chunk)[0].permute(1, 0, 2, 3)


@pytest.mark.parametrize(("window", "counts"), [(1, [1] * 9), (4, [4, 4, 1]), (8, [8, 1]), (9, [9]), (30, [9])])
def test_windows_without_overlap_are_the_pipeline_s_chunks_bit_for_bit(pipe, latents, window, counts):
    runs = list(decode(pipe.vae, latents, window, 0))
    assert [len(run) for run in runs] == counts
    assert torch.equal(torch.cat(runs), at_once(pipe, latents, window))


@pytest.mark.parametrize("window", [2, 4])
def test_windows_that_overlap_everything_are_decoding_at_once(pipe, latents, window):
    assert torch.equal(torch.cat(list(decode(pipe.vae, latents, window, 9))), at_once(pipe, latents))


def test_overlap_brings_the_seams_nearer_to_decoding_at_once(pipe, latents):
    whole = at_once(pipe, latents)
    errors = [(torch.cat(list(decode(pipe.vae, latents, 3, overlap))) - whole).abs().mean() for overlap in (0, 1, 3)]
    assert errors[0] > errors[1] > errors[2] > 0


def test_a_later_window_needs_none_before_it(pipe, latents):
    whole, rest = (torch.cat(list(decode(pipe.vae, latents, 3, 1, first))) for first in (0, 6))
    assert torch.equal(rest, whole[6:])


# --- sampling -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"num_frames": 10},
        {"max_guidance_scale": 1.0},
        {"min_guidance_scale": 2.0, "fps": 24, "motion_bucket_id": 5, "noise_aug_strength": 1.0, "seed": 9},
    ],
)
async def test_frames_are_those_of_the_pipeline_itself(home, pipe, fields):
    request = changed(**fields)
    assert np.array_equal(await made(loaded(home, decode_overlap=0), request), made_by(pipe, request, 8))


async def test_frames_in_half_precision_are_those_of_the_pipeline_itself(home, half):
    request = changed(num_frames=2, size="64x64", steps=1, fit="crop")
    assert np.array_equal(await made(half, request), made_by(pipeline_of(home, torch.float16), request, 8))


async def test_a_seed_makes_the_same_pixels_again_and_another_seed_others(home, svd, plain):
    assert plain.shape == (5, 64, 128, 3)
    assert plain.std() > 5
    assert np.array_equal(await made(svd), plain)
    assert np.array_equal(await made(loaded(home)), plain)
    assert not np.array_equal(await made(svd, changed(seed=4)), plain)


@pytest.mark.parametrize(
    "fields",
    [
        {"fps": 30},
        {"motion_bucket_id": 255},
        {"noise_aug_strength": 0.5},
        {"min_guidance_scale": 2.0},
        {"max_guidance_scale": 4.0},
        {"steps": 4},
    ],
)
async def test_what_is_asked_for_matters(svd, plain, fields):
    assert not np.array_equal(await made(svd, changed(**fields)), plain)


async def test_the_picture_matters(svd, plain):
    assert not np.array_equal(await made(svd, image=OTHER), plain)


@pytest.mark.parametrize("steps", [1, 2, 20])
async def test_it_ends_in_finite_numbers_whatever_the_steps(svd, steps):
    assert (await made(svd, changed(steps=steps, num_frames=2))).shape == (2, 64, 128, 3)


@pytest.mark.parametrize(
    ("dtype", "scale", "batch"),
    [
        ("float32", 3.0, 2),
        ("float32", 1.01, 2),
        ("float32", 1.0, 1),
        ("float32", 0.0, 1),
        ("float32", 1 + 1e-9, 1),
        ("bfloat16", 1.001, 1),
        ("bfloat16", 1.01, 2),
    ],
)
async def test_guidance_is_on_where_the_scale_is_above_one_in_the_dtype_it_is_used_in(home, dtype, scale, batch):
    svd = loaded(home, dtype=dtype)
    batches = []
    svd._model._pipe.unet.register_forward_hook(lambda _module, args, _out: batches.append(len(args[0])))
    await made(svd, changed(max_guidance_scale=scale, num_frames=2, steps=2))
    assert batches == [batch] * 2


async def test_what_does_not_fit_the_aspect_is_cropped_evenly_if_asked(svd, plain):
    wide = np.zeros((1, 64, 168, 3), np.uint8)
    wide[:, :, 20:148] = PICTURE.pixels
    assert np.array_equal(await made(svd, changed(fit="crop"), Frames(wide)), plain)


async def test_a_picture_that_may_not_be_written_to_is_fine(svd, plain):
    pixels = PICTURE.pixels.copy()
    pixels.flags.writeable = False
    assert np.array_equal(await made(svd, image=Frames(pixels)), plain)


@pytest.mark.parametrize("side", [(1, 1), (1, 500), (500, 1)])
async def test_a_picture_of_any_shape_will_do(svd, side):
    image = Frames(RANDOM.integers(0, 256, (1, *side, 3), np.uint8))
    assert (await made(svd, changed(num_frames=2, steps=1), image)).shape == (2, 64, 128, 3)


# --- levers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
async def test_half_precision_comes_near(home, svd, dtype):
    request = changed(num_frames=2, size="64x64", steps=2)
    video, full = await made(loaded(home, dtype=dtype), request), await made(svd, request)
    assert not np.array_equal(video, full)
    assert difference(video, full) < 8


async def test_the_windows_are_those_of_the_settings(home, svd, plain):
    request = changed(num_frames=10)
    whole = await made(loaded(home, decode_window=10), request)
    videos = [await made(loaded(home, decode_window=3, decode_overlap=overlap), request) for overlap in (0, 2, 9)]
    assert not np.array_equal(videos[0], videos[1])
    assert not np.array_equal(videos[1], whole)
    assert np.array_equal(videos[2], whole)


async def test_forward_chunking_feeds_one_frame_at_a_time(home, svd, plain):
    fed = {}
    for name, one in (("plain", svd), ("chunked", loaded(home, forward_chunking=True))):
        layers = [layer for layer in one._model._pipe.unet.modules() if type(layer).__name__ == "FeedForward"]
        tokens: list[int] = []
        hooks = [
            layer.register_forward_hook(lambda _l, args, _out, tokens=tokens: tokens.append(args[0][..., 0].numel()))
            for layer in layers
        ]
        assert np.abs((await made(one)).astype(int) - plain).max() <= 2
        for hook in hooks:
            hook.remove()
        fed[name] = max(tokens), sum(tokens)
    area, guided = 8 * 16, 2  # batch of latents: with and without the picture
    assert fed["plain"][0] == area * guided * REQUEST.num_frames
    assert fed["chunked"] == (area * guided, fed["plain"][1])


def test_the_unet_is_compiled_where_the_settings_say_so(home, svd):
    assert svd._model._pipe.unet._compiled_call_impl is None
    assert loaded(home, compile=True)._model._pipe.unet._compiled_call_impl is not None


async def test_a_variant_is_read_instead_of_the_plain_files(home, plain, tmp_path):
    pipeline_of(home).save_pretrained(tmp_path, variant="fp16")
    assert np.array_equal(await made(loaded(home, weights=Weights(path=tmp_path), variant="fp16")), plain)
    with pytest.raises(ConfigError, match="is not a Stable Video Diffusion checkpoint"):
        loaded(home, weights=Weights(path=tmp_path))


@pytest.mark.parametrize("offload", ["model", "group", "sequential"])
def test_offloading_needs_a_gpu(home, offload):
    with pytest.raises(ConfigError, match=f"offload: {offload} needs a GPU"):
        loaded(home, offload=offload)


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_a_device_that_is_not_here(home, device):
    with pytest.raises(ConfigError, match=f"device: {device}"):
        loaded(home, device=device)


def test_random_weights_have_the_real_ones_geometry(svd):
    pipe = svd._model._pipe
    assert svd._model.sides == Sides(64)
    assert (pipe.vae_scale_factor, pipe.unet.config.num_frames, pipe.vae.config.force_upcast) == (8, 25, True)


# --- fitting ------------------------------------------------------------------------------------------------------


async def test_a_padded_picture_is_sampled_whole_and_cut_out_of_the_frames(svd):
    narrow = np.ascontiguousarray(PICTURE.pixels[:, :, :100])  # the canvas is 128x64
    frames = await made(svd, changed(size=None, max_area=128 * 64), Frames(narrow))
    padded = np.pad(narrow, ((0, 0), (0, 0), (14, 14), (0, 0)), mode="edge")
    assert np.array_equal(frames, (await made(svd, image=Frames(padded)))[:, :, 14:114])


# --- failures -----------------------------------------------------------------------------------------------------


def test_a_folder_that_is_no_checkpoint(home, tmp_path):
    with pytest.raises(ConfigError, match="is not a Stable Video Diffusion checkpoint"):
        loaded(home, weights=Weights(path=tmp_path))


def test_a_checkpoint_of_another_model(home, tmp_path):
    write_wan("ti2v", tmp_path)
    with pytest.raises(ConfigError, match="is not a Stable Video Diffusion checkpoint"):
        loaded(home, weights=Weights(path=tmp_path))


@pytest.mark.parametrize(("part", "name"), [("unet", "conv_out.weight"), ("vae", "decoder.time_conv_out.weight")])
async def test_numbers_that_are_not_finite_are_an_error_not_a_black_video(home, tmp_path, part, name):
    write("xt", tmp_path)
    file = tmp_path / part / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors[name][0] = float("inf")
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ModelFailed, match="not finite"):
        await made(loaded(home, weights=Weights(path=tmp_path)))


async def test_memory_that_runs_out_is_said_and_the_next_request_works(svd, plain):
    def run_out(*_) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    hook = svd._model._pipe.vae.decoder.register_forward_hook(run_out)
    with pytest.raises(ModelFailed, match="128x64 pixels and 5 frames"):
        await made(svd)
    hook.remove()
    svd.check_health()
    assert np.array_equal(await made(svd), plain)


async def test_a_failure_while_the_picture_is_encoded_leaves_the_vae_in_its_dtype(half):
    vae = half._model._pipe.vae
    request = changed(num_frames=2, size="64x64", steps=1)
    undisturbed = await made(half, request)
    seen = []

    def fail(*_) -> None:
        seen.append(vae.dtype)
        raise RuntimeError("broken")

    hook = vae.encoder.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="broken"):
        await made(half, request)
    hook.remove()
    assert seen == [torch.float32]  # it also encodes the picture
    assert vae.dtype == torch.float16
    assert np.array_equal(await made(half, request), undisturbed)
