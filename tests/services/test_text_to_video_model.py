"""text-to-video with random weights: the same pixels as diffusers' own pipeline, and settings that take effect."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    TextToVideoSDPipeline,
    UNet2DConditionModel,
)
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from safetensors.torch import load_file, save_file

from miniatures.random import written
from miniatures.random.svd import write as write_svd
from miniatures.random.text_to_video import write
from services.errors import ConfigError, InvalidParameter, ModelFailed
from services.frames import Frames, Item, Pixels, Progress
from services.text_to_video.request import TextToVideoRequest
from services.text_to_video.service import TextToVideo
from services.text_to_video.settings import TextToVideoSettings
from services.weights.local import resolve
from services.weights.weights import Weights

FIELDS = {"prompt": "a boat", "num_frames": 5, "size": "64x32", "steps": 3, "seed": 3}
REQUEST = TextToVideoRequest(**FIELDS)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def service(home) -> TextToVideo:
    return loaded(home)


@pytest.fixture(scope="module")
def pipe(home) -> Any:
    return pipeline_of(home)


@pytest.fixture(scope="module")
def plain(service) -> Pixels:
    """The video of REQUEST with default settings."""
    return asyncio.run(made(service))


def loaded(home: Path, **settings: Any) -> TextToVideo:
    fields = {"weights": written("text-to-video", "tiny", home), "device": "cpu", "dtype": "float32", **settings}
    return TextToVideo(TextToVideoSettings(**fields), home, lambda: "text-to-video#test cpu")


async def made(service: TextToVideo, request: TextToVideoRequest = REQUEST) -> Pixels:
    """Return all frames of a video, (n, h, w, 3)."""
    items = [item async for item in service.generate_video(request)]
    return np.concatenate([item.pixels for item in items if isinstance(item, Frames)])


def pipeline_of(home: Path, dtype: torch.dtype = torch.float32) -> Any:
    folder = resolve(written("text-to-video", "tiny", home), home)
    pipe = TextToVideoSDPipeline.from_pretrained(folder, dtype=dtype, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def made_by(pipe: Any, request: TextToVideoRequest) -> Pixels:
    """Return the video of diffusers' own pipeline, (n, h, w, 3)."""
    width, height = (int(side) // 8 * 8 for side in request.size.split("x"))
    unit = pipe(
        request.prompt,
        negative_prompt=request.negative_prompt,
        width=width,
        height=height,
        num_frames=request.num_frames,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale,
        generator=torch.Generator().manual_seed(request.seed),
        output_type="np",
    ).frames[0]
    return (unit * 255).round().astype(np.uint8)


def changed(**fields) -> TextToVideoRequest:
    return TextToVideoRequest(**{**FIELDS, **fields})


def difference(one: Pixels, other: Pixels) -> float:
    """Return the mean absolute difference in levels of 0 to 255."""
    return float(np.abs(one.astype(int) - other).mean())


# --- sampling -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"num_frames": 16, "size": "40x72"},  # latents with odd sides
        {"guidance_scale": 1.0},
        {"negative_prompt": "blurred", "guidance_scale": 3.0, "seed": 9},
        {"size": "16x10", "steps": 1},
    ],
)
async def test_frames_decoded_at_once_are_those_of_the_pipeline_itself(home, pipe, fields):
    request = changed(**fields)
    assert np.array_equal(await made(loaded(home, decode_batch=16), request), made_by(pipe, request))


@pytest.mark.parametrize("batch", [1, 2, 3])
async def test_frames_decoded_in_batches_differ_by_rounding_alone(home, pipe, batch):
    request = changed(num_frames=16)
    video, whole = await made(loaded(home, decode_batch=batch), request), made_by(pipe, request)
    assert np.abs(video.astype(int) - whole).max() <= 1


async def test_frames_in_half_precision_are_those_of_the_pipeline_itself(home):
    request = changed(num_frames=2, steps=1)
    video = await made(loaded(home, dtype="float16"), request)
    assert np.array_equal(video, made_by(pipeline_of(home, torch.float16), request))


async def test_the_model_card_s_solver(home, plain):
    pipe = pipeline_of(home)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    video = await made(loaded(home, solver="dpm++", decode_batch=16))
    assert np.array_equal(video, made_by(pipe, REQUEST))
    assert not np.array_equal(video, plain)


async def test_a_seed_makes_the_same_pixels_again_and_another_seed_others(home, service, plain):
    assert plain.shape == (5, 32, 64, 3)
    assert plain.std() > 5
    assert np.array_equal(await made(service), plain)
    assert np.array_equal(await made(loaded(home)), plain)
    assert not np.array_equal(await made(service, changed(seed=4)), plain)


@pytest.mark.parametrize(
    "fields",
    [{"prompt": "a goat"}, {"negative_prompt": "blurred"}, {"guidance_scale": 7.0}, {"steps": 4}],
)
async def test_what_is_asked_for_matters(service, plain, fields):
    assert not np.array_equal(await made(service, changed(**fields)), plain)


async def test_frames_are_made_with_each_other(service, plain):
    longer = await made(service, changed(num_frames=6))
    assert not np.array_equal(longer[:5], plain)
    assert not np.array_equal(plain[0], plain[1])


async def test_without_guidance_nothing_is_avoided_and_half_is_computed(service):
    batches = []
    hook = service._model._pipe.unet.register_forward_hook(lambda _module, args, _out: batches.append(len(args[0])))
    off = await made(service, changed(guidance_scale=1.0))
    avoiding = await made(service, changed(guidance_scale=1.0, negative_prompt="blurred"))
    await made(service, changed(guidance_scale=1.01))
    hook.remove()
    assert np.array_equal(avoiding, off)
    assert batches == [1] * 6 + [2] * 3


@pytest.mark.parametrize("solver", [None, "dpm++"])
@pytest.mark.parametrize("steps", [1, 2, 20])
async def test_it_ends_in_finite_numbers_whatever_the_steps(home, solver, steps):
    request = changed(steps=steps, num_frames=2, size="16x16")
    assert (await made(loaded(home, solver=solver), request)).shape == (2, 16, 16, 3)


async def test_a_long_prompt_is_cut_and_not_logged(service):
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logging.getLogger("diffusers").addHandler(handler)
    try:
        long = await made(service, changed(prompt="a boat " * 60 + "xyzzy"))
    finally:
        logging.getLogger("diffusers").removeHandler(handler)
    assert np.array_equal(long, await made(service, changed(prompt="a boat " * 60)))
    assert records == []


@pytest.mark.parametrize("prompt", [" ", "<|endoftext|>", "Ein Schiff, 船 🚢\x00\n", "{0} %s"])
async def test_any_text_is_a_prompt(service, prompt):
    assert (await made(service, changed(prompt=prompt, steps=1, num_frames=2))).shape == (2, 32, 64, 3)


# --- levers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
async def test_half_precision_comes_near(home, service, dtype):
    request = changed(num_frames=2, steps=2)
    video, full = await made(loaded(home, dtype=dtype), request), await made(service, request)
    assert not np.array_equal(video, full)
    assert difference(video, full) < 8


async def test_forward_chunking_feeds_one_frame_at_a_time(home, service, plain):
    fed = {}
    for name, one in (("plain", service), ("chunked", loaded(home, forward_chunking=True))):
        within: list[int] = []
        along: list[int] = []
        hooks = []
        for module in one._model._pipe.unet.modules():
            tokens = along if isinstance(module, TransformerTemporalModel) else within
            hooks += [
                block.ff.register_forward_hook(lambda _l, args, _o, t=tokens: t.append(args[0][..., 0].numel()))
                for block in getattr(module, "transformer_blocks", [])
            ]
        assert np.abs((await made(one)).astype(int) - plain).max() <= 2
        for hook in hooks:
            hook.remove()
        fed[name] = within, along
    area, guided, frames = 4 * 8, 2, REQUEST.num_frames  # batch of latents: with and without the prompt
    for whole, parts, calls in zip(fed["plain"], fed["chunked"], (guided * frames, frames), strict=True):
        assert max(whole) == area * guided * frames
        assert max(parts) == max(whole) // calls
        assert len(parts) == len(whole) * calls
        assert sum(parts) == sum(whole)


async def test_the_batches_are_those_of_the_settings_and_keep_nothing_for_gradients(home):
    service = loaded(home, decode_batch=3)
    batches = []
    service._model._pipe.vae.decoder.register_forward_hook(
        lambda _module, args, out: batches.append((len(args[0]), out.requires_grad))
    )
    await made(service, changed(num_frames=8))
    assert batches == [(3, False), (3, False), (2, False)]


async def test_a_variant_is_read_instead_of_the_plain_files(home, plain, tmp_path):
    pipeline_of(home).save_pretrained(tmp_path, variant="fp16")
    assert np.array_equal(await made(loaded(home, weights=Weights(path=tmp_path), variant="fp16")), plain)
    with pytest.raises(ConfigError, match="is not a text-to-video checkpoint"):
        loaded(home, weights=Weights(path=tmp_path))


@pytest.mark.parametrize("offload", ["model", "group", "sequential"])
def test_offloading_needs_a_gpu(home, offload):
    with pytest.raises(ConfigError, match=f"offload: {offload} needs a GPU"):
        loaded(home, offload=offload)


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_a_device_that_is_not_here(home, device):
    with pytest.raises(ConfigError, match=f"device: {device}"):
        loaded(home, device=device)


def test_random_weights_are_small_and_have_the_real_ones_geometry(home, pipe):
    folder = resolve(written("text-to-video", "tiny", home), home)
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 4_000_000
    crossing = ["CrossAttnDownBlock3D"] * 3, ["CrossAttnUpBlock3D"] * 3
    assert list(pipe.unet.config.down_block_types) == [*crossing[0], "DownBlock3D"]
    assert list(pipe.unet.config.up_block_types) == ["UpBlock3D", *crossing[1]]
    assert (pipe.vae_scale_factor, pipe.unet.config.sample_size, pipe.tokenizer.model_max_length) == (8, 32, 77)


def test_random_weights_are_the_same_each_time(tmp_path):
    for name in ("one", "other"):
        torch.rand(1)  # regardless of earlier random numbers
        random = torch.random.get_rng_state()
        (tmp_path / name).mkdir()
        write("tiny", tmp_path / name)
        assert torch.equal(torch.random.get_rng_state(), random)
    files = [file.relative_to(tmp_path / "one") for file in (tmp_path / "one").rglob("*.safetensors")]
    assert len(files) == 3
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes() for file in files)


async def test_the_least_frame_is_what_the_checkpoint_compresses_into_one_place(home, pipe, tmp_path):
    levels: dict[str, Any] = {
        "block_out_channels": (4,) * 5,
        "down_block_types": ("DownEncoderBlock2D",) * 5,
        "up_block_types": ("UpDecoderBlock2D",) * 5,
    }
    deeper = AutoencoderKL(**levels, layers_per_block=1, norm_num_groups=2)
    TextToVideoSDPipeline(**{**pipe.components, "vae": deeper}).save_pretrained(tmp_path)
    service = loaded(home, weights=Weights(path=tmp_path))
    assert (await made(service, changed(size="47x16", steps=1))).shape == (5, 16, 32, 3)
    with pytest.raises(InvalidParameter, match="size: the smallest size is 16x16 pixels, got 15x32") as caught:
        await made(service, changed(size="15x32"))
    assert caught.value.param == "size"


# --- failures -----------------------------------------------------------------------------------------------------


def test_a_folder_that_is_no_checkpoint(home, tmp_path):
    with pytest.raises(ConfigError, match="is not a text-to-video checkpoint"):
        loaded(home, weights=Weights(path=tmp_path))


def test_a_checkpoint_of_another_model(home, tmp_path):
    write_svd("xt", tmp_path)
    with pytest.raises(ConfigError, match="is not a text-to-video checkpoint"):
        loaded(home, weights=Weights(path=tmp_path))


def test_a_checkpoint_of_pictures_which_diffusers_would_load(home, pipe, tmp_path):
    unet = UNet2DConditionModel(
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=32,
        norm_num_groups=4,
    )
    parts = {**pipe.components, "unet": unet, "safety_checker": None, "feature_extractor": None}
    StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"is not a text-to-video checkpoint \(it has a UNet2DConditionModel\)"):
        loaded(home, weights=Weights(path=tmp_path))


@pytest.mark.parametrize(
    ("part", "name", "stage"),
    [("unet", "conv_out.weight", "denoise"), ("vae", "decoder.conv_out.weight", "decode")],
)
async def test_numbers_that_are_not_finite_are_an_error_not_a_black_video(home, tmp_path, part, name, stage):
    write("tiny", tmp_path)
    file = tmp_path / part / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors[name][0] = float("inf")
    save_file(tensors, file, {"format": "pt"})
    seen: list[Item] = []

    async def watch() -> None:
        async for item in loaded(home, weights=Weights(path=tmp_path)).generate_video(REQUEST):
            seen.append(item)  # noqa: PERF401 - a comprehension would lose them on an error

    with pytest.raises(ModelFailed, match="not finite"):
        await watch()
    last = seen[-1]
    assert isinstance(last, Progress)
    assert last.stage == stage  # the failure is detected in its stage


@pytest.mark.parametrize("part", ["unet", "vae"])
async def test_memory_that_runs_out_is_said_and_the_next_request_works(service, plain, part):
    def run_out(*_) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    pipe = service._model._pipe
    hook = {"unet": pipe.unet.conv_out, "vae": pipe.vae.decoder}[part].register_forward_hook(run_out)
    with pytest.raises(ModelFailed, match="64x32 pixels and 5 frames"):
        await made(service)
    hook.remove()
    service.check_health()
    assert np.array_equal(await made(service), plain)


async def test_another_error_of_torch_is_not_taken_for_the_device_s(service, plain):
    def fail(*_) -> None:
        raise RuntimeError("broken")

    hook = service._model._pipe.unet.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="broken"):
        await made(service)
    hook.remove()
    assert np.array_equal(await made(service), plain)
