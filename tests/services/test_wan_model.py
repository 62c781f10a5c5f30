"""Wan with random weights: the same pixels as diffusers' own pipeline, and settings that take effect."""

import asyncio
import hashlib
import json
import pickle
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.wan.pipeline_wan_i2v import WanImageToVideoPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from miniatures.random import written
from miniatures.random.wan import write
from services.device import explain_failure
from services.errors import ConfigError, DeviceFailed, InvalidParameter, ModelFailed
from services.frames import Fact, Frames, Pixels, Progress
from services.levers import StepCache
from services.wan.model import decode, to_pixels
from services.wan.request import WanRequest
from services.wan.service import Wan
from services.wan.settings import ExpertLora, WanSettings
from services.weights.local import resolve
from services.weights.loras.files import LORA_HASHES
from services.weights.weights import Weights

RANDOM = np.random.default_rng(7)
PICTURE = Frames(RANDOM.integers(0, 256, (1, 32, 64, 3), np.uint8))
OTHER = Frames(RANDOM.integers(0, 256, (1, 32, 64, 3), np.uint8))
FIELDS = {"prompt": "a boat", "num_frames": 5, "size": "64x32", "steps": 4, "seed": 3}
REQUEST = WanRequest(**FIELDS)
FORMS = ["a14b", "ti2v"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def a14b(home) -> Wan:
    return loaded(home, "a14b")


@pytest.fixture(scope="module")
def ti2v(home) -> Wan:
    return loaded(home, "ti2v")


@pytest.fixture(scope="module")
def plain(a14b, ti2v) -> dict[str, Pixels]:
    """The video of REQUEST and PICTURE with default settings, for each kind of checkpoint."""
    return {"a14b": asyncio.run(made(a14b)), "ti2v": asyncio.run(made(ti2v))}


def loaded(home: Path, form: str, **settings) -> Wan:
    weights = written("wan", form, home) if form else settings["weights"]
    fields = {"weights": weights, "device": "cpu", "dtype": "float32", "max_sequence_length": 32, **settings}
    return Wan(WanSettings(**fields), home, lambda: "wan#test cpu")


async def made(wan: Wan, request: WanRequest = REQUEST, image: Frames = PICTURE, last: Frames | None = None) -> Pixels:
    """Return all frames of a video, (n, h, w, 3)."""
    items = [item async for item in wan.animate(request, image, last)]
    return np.concatenate([item.pixels for item in items if isinstance(item, Frames)])


def pipeline_of(home: Path, form: str) -> Any:
    folder = resolve(written("wan", form, home), home)
    pipe = WanImageToVideoPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def changed(**fields) -> WanRequest:
    return WanRequest(**{**FIELDS, **fields})


# --- decoding -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "channels"), [("a14b", 16), ("ti2v", 48)])
@pytest.mark.parametrize("latent_frames", [1, 4])
def test_decoding_in_a_stream_is_decoding_at_once_bit_for_bit(home, form, channels, latent_frames):
    vae = pipeline_of(home, form).vae
    latents = torch.randn(1, channels, latent_frames, 6, 4, generator=torch.Generator().manual_seed(5)) * 3
    with torch.no_grad():
        at_once = vae.decode(latents).sample
    runs = list(decode(vae, latents))
    assert [run.shape[2] for run in runs] == [1] + [4] * (latent_frames - 1)
    assert torch.equal(torch.cat(runs, 2), at_once)


def test_two_streams_of_one_vae_do_not_disturb_each_other(home):
    vae = pipeline_of(home, "ti2v").vae
    first, second = torch.randn(2, 1, 48, 3, 2, 2, generator=torch.Generator().manual_seed(6))
    alone = list(decode(vae, first))
    together = [pair[0] for pair in zip(decode(vae, first), decode(vae, second), strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_pixels_round_as_the_pipeline_rounds(home):
    video = torch.rand(1, 3, 4, 8, 8, generator=torch.Generator().manual_seed(8)) * 2.2 - 1.1
    unit = pipeline_of(home, "ti2v").video_processor.postprocess_video(video, "np")[0]
    assert np.array_equal(to_pixels(video), (unit * 255).round().astype(np.uint8))


# --- sampling -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_frames_are_those_of_the_pipeline_itself(home, form, plain):
    pipe = pipeline_of(home, form)
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, flow_shift=REQUEST.shift)
    unit = pipe(
        image=Image.fromarray(PICTURE.pixels[0]),
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
    assert np.array_equal(plain[form], (unit * 255).round().astype(np.uint8))


@pytest.mark.parametrize("form", FORMS)
async def test_a_seed_makes_the_same_pixels_again_and_another_seed_others(form, plain, request):
    wan = request.getfixturevalue(form)
    assert plain[form].shape == (5, 32, 64, 3)
    assert plain[form].std() > 5
    assert np.array_equal(await made(wan), plain[form])
    assert not np.array_equal(await made(wan, changed(seed=4)), plain[form])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "fields",
    [
        {"solver": "dpm++"},
        {"shift": 1.0},
        {"guidance_scale": 1.0},
        {"prompt": "a red house"},
        {"negative_prompt": "blurred"},
        {"steps": 5},
    ],
)
async def test_what_is_asked_for_matters(form, fields, plain, request):
    assert not np.array_equal(await made(request.getfixturevalue(form), changed(**fields)), plain[form])


@pytest.mark.parametrize("form", FORMS)
async def test_the_picture_matters(form, plain, request):
    assert not np.array_equal(await made(request.getfixturevalue(form), image=OTHER), plain[form])


async def test_the_last_picture_matters(a14b, plain):
    with_last = await made(a14b, last=OTHER)
    assert not np.array_equal(with_last, plain["a14b"])
    assert not np.array_equal(with_last, await made(a14b, last=PICTURE))


@pytest.mark.parametrize("solver", ["unipc", "dpm++"])
@pytest.mark.parametrize("steps", [1, 2, 20])
async def test_solvers_end_in_finite_numbers_whatever_the_steps(ti2v, solver, steps):
    assert (await made(ti2v, changed(solver=solver, steps=steps, num_frames=1))).shape == (1, 32, 64, 3)


async def test_a_solver_leaves_nothing_behind_for_the_next(ti2v, plain):
    await made(ti2v, changed(solver="dpm++"))
    assert np.array_equal(await made(ti2v), plain["ti2v"])


async def test_steps_that_fall_together_are_refused(ti2v):
    with pytest.raises(InvalidParameter, match=r"steps: 100 .*shift 60"):
        await made(ti2v, changed(steps=100, shift=60))


async def test_what_does_not_fit_the_aspect_is_cropped_evenly_if_asked(ti2v, plain):
    wide = np.zeros((1, 32, 104, 3), np.uint8)
    wide[:, :, 20:84] = PICTURE.pixels
    assert np.array_equal(await made(ti2v, changed(fit="crop"), Frames(wide)), plain["ti2v"])


@pytest.mark.parametrize("form", FORMS)
async def test_a_padded_picture_is_sampled_whole_and_cut_out_of_the_frames(form, request):
    wan = request.getfixturevalue(form)
    narrow = Frames(np.ascontiguousarray(PICTURE.pixels[:, :, :46]))  # 46x32: the canvas is 48x32 or 64x32
    fields = {"size": None, "max_area": 64 * 32}
    items = [
        item async for item in wan.animate(changed(**fields), narrow, narrow if wan._model.takes_last_image else None)
    ]
    across = {"a14b": 48, "ti2v": 64}[form]
    left = (across - 46) // 2
    padded = Frames(np.pad(narrow.pixels, ((0, 0), (0, 0), (left, across - 46 - left), (0, 0)), mode="edge"))
    last = padded if wan._model.takes_last_image else None
    whole = await made(wan, changed(size=f"{across}x32"), padded, last)
    frames = np.concatenate([item.pixels for item in items if isinstance(item, Frames)])
    assert np.array_equal(frames, whole[:, :, left : left + 46])


async def test_a_picture_that_may_not_be_written_to_is_fine(ti2v, plain):
    pixels = PICTURE.pixels.copy()
    pixels.flags.writeable = False
    assert np.array_equal(await made(ti2v, image=Frames(pixels)), plain["ti2v"])


async def test_both_experts_work_on_their_side_of_the_boundary(a14b):
    calls = {"high": [], "low": []}
    pipe = a14b._model._pipe
    hooks = [
        expert.register_forward_hook(
            lambda _module, _args, kwargs, _out, name=name: calls[name].append(kwargs["timestep"].item()),
            with_kwargs=True,
        )
        for name, expert in (("high", pipe.transformer), ("low", pipe.transformer_2))
    ]
    await made(a14b)
    for hook in hooks:
        hook.remove()
    assert len(calls["high"]) + len(calls["low"]) == 2 * REQUEST.steps  # with and without the prompt
    assert min(calls["high"]) >= 900 > max(calls["low"])


async def test_each_expert_has_its_own_guidance(a14b, plain):
    assert np.array_equal(await made(a14b, changed(guidance_scale_2=5.0)), plain["a14b"])
    assert not np.array_equal(await made(a14b, changed(guidance_scale_2=2.0)), plain["a14b"])


def test_rates(home, a14b, ti2v):
    assert a14b._model.rate == 16
    assert ti2v._model.rate == 24
    assert loaded(home, "ti2v", rate="24000/1001")._model.rate == Fraction(24000, 1001)
    assert loaded(home, "ti2v", rate=23.976)._model.rate == Fraction(2997, 125)


async def test_previews_are_small_and_come_every_so_many_steps(home):
    wan = loaded(home, "ti2v", preview_every=2)
    items = [item async for item in wan.animate(changed(size="320x32", steps=5), PICTURE)]
    steps = [item for item in items if isinstance(item, Progress) and item.stage == "denoise"]
    assert [step.done for step in steps if step.preview is not None] == [2, 4]
    previews = [step.preview for step in steps if step.preview is not None]
    assert [(preview.count, preview.height, preview.width) for preview in previews] == [(1, 26, 256)] * 2
    assert [preview.first for preview in previews] == [1, 1]


async def test_a_preview_shows_what_is_kept(home):
    wan = loaded(home, "ti2v", preview_every=1)
    narrow = Frames(np.ascontiguousarray(PICTURE.pixels[:, :, :46]))
    items = [item async for item in wan.animate(changed(size=None, max_area=64 * 64, steps=1), narrow)]
    (preview,) = (item.preview for item in items if isinstance(item, Progress) and item.preview is not None)
    (frames, *_) = (item for item in items if isinstance(item, Frames))
    assert (preview.width, preview.height) == (frames.width, frames.height) == (64, 45)


async def test_a_preview_does_not_change_the_video(home, plain):
    assert np.array_equal(await made(loaded(home, "a14b", preview_every=1)), plain["a14b"])


# --- levers -------------------------------------------------------------------------------------------------------


async def test_bfloat16_comes_near_float32(home, plain):
    half = await made(loaded(home, "a14b", dtype="bfloat16", vae_dtype="bfloat16"))
    assert not np.array_equal(half, plain["a14b"])
    assert np.abs(half.astype(int) - plain["a14b"]).mean() < 8


async def test_an_attention_backend_is_taken_by_every_expert(home, plain):
    wan = loaded(home, "a14b", attention="_native_math")
    pipe = wan._model._pipe
    for expert in (pipe.transformer, pipe.transformer_2):
        assert {block.attn1.processor._attention_backend.value for block in expert.blocks} == {"_native_math"}
    assert np.abs((await made(wan)).astype(int) - plain["a14b"]).max() <= 2
    loaded(home, "ti2v", attention="native")  # a process-wide setting: restore it


@pytest.mark.parametrize("attention", ["quick", "flash"])
def test_an_attention_backend_that_is_not_here(home, attention):
    with pytest.raises(ConfigError, match=r"attention: .*flash"):
        loaded(home, "ti2v", attention=attention)


@pytest.mark.parametrize("form", FORMS)
async def test_the_step_cache_acts_and_forgets_between_requests(home, form, plain):
    wan = loaded(home, form, step_cache=StepCache(threshold=10))
    first = await made(wan)
    assert not np.array_equal(first, plain[form])
    assert np.array_equal(await made(wan), first)
    stream = wan.animate(REQUEST, OTHER)
    async for item in stream:
        if isinstance(item, Progress) and item.done == 1:
            break
    await stream.aclose()
    assert np.array_equal(await made(wan), first)


async def test_a_step_cache_that_never_skips_changes_nothing(home, plain):
    wan = loaded(home, "a14b", step_cache=StepCache(threshold=1e-9))
    assert np.array_equal(await made(wan), plain["a14b"])


@pytest.mark.parametrize("offload", ["model", "group", "sequential"])
def test_offloading_needs_a_gpu(home, offload):
    with pytest.raises(ConfigError, match=f"offload: {offload} needs a GPU"):
        loaded(home, "ti2v", offload=offload)


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_a_device_that_is_not_here(home, device):
    with pytest.raises(ConfigError, match=f"device: {device}"):
        loaded(home, "ti2v", device=device)


def test_a_folder_that_is_no_checkpoint(home, tmp_path):
    with pytest.raises(ConfigError, match="is not a Wan checkpoint"):
        loaded(home, "", weights=Weights(path=tmp_path))


# --- LoRA ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def lora(tmp_path) -> Path:
    """Write a LoRA of rank 2 for the query layers of all self-attention, and return its path."""
    random = torch.Generator().manual_seed(9)
    tensors = {}
    for block in range(3):
        name = f"transformer.blocks.{block}.attn1.to_q"
        tensors[f"{name}.lora_A.weight"] = torch.randn(2, 48, generator=random)
        tensors[f"{name}.lora_B.weight"] = torch.randn(48, 2, generator=random)
    save_file(tensors, tmp_path / "style.safetensors")
    return tmp_path / "style.safetensors"


async def test_a_lora_acts_on_the_expert_it_is_for(home, plain, lora):
    videos = {
        (await made(loaded(home, "a14b", loras=[ExpertLora(file=lora, expert=expert)]))).tobytes()
        for expert in ("high", "low", "both")
    }
    assert len(videos | {plain["a14b"].tobytes()}) == 4


async def test_a_lora_acts_by_its_weight(home, plain, lora):
    none = await made(loaded(home, "ti2v", loras=[ExpertLora(file=lora, weight=0)]))
    some = await made(loaded(home, "ti2v", loras=[ExpertLora(file=lora, weight=0.5)]))
    full = await made(loaded(home, "ti2v", loras=[ExpertLora(file=lora)]))
    twice = await made(
        loaded(home, "ti2v", loras=[ExpertLora(file=lora, weight=0.5), ExpertLora(file=lora, weight=0.5)])
    )
    assert np.array_equal(none, plain["ti2v"])
    assert len({video.tobytes() for video in (none, some, full)}) == 3
    assert np.abs(twice.astype(int) - full).max() <= 2


async def test_the_files_of_the_loras_are_told_with_each_video(home, lora):
    wan = loaded(home, "a14b", loras=[ExpertLora(file=lora, expert=expert) for expert in ("high", "low")])
    for _ in range(2):
        items = [item async for item in wan.animate(REQUEST, PICTURE)]
        told = [json.loads(str(item.value)) for item in items if isinstance(item, Fact) and item.name == LORA_HASHES]
        assert told == [{"style.safetensors": hashlib.sha256(lora.read_bytes()).hexdigest()}]
    inside = loaded(home, "ti2v", loras=[ExpertLora(file=lora.name)], lora_dir=lora.parent)
    items = [item async for item in inside.animate(REQUEST, PICTURE)]
    (told,) = (json.loads(str(item.value)) for item in items if isinstance(item, Fact) and item.name == LORA_HASHES)
    assert list(told) == ["style.safetensors"]


async def test_a_lora_and_a_step_cache_go_together(home, plain, lora):
    loras = [ExpertLora(file=lora)]
    with_both = await made(loaded(home, "a14b", loras=loras, step_cache=StepCache(threshold=1e-9)))
    assert np.array_equal(with_both, await made(loaded(home, "a14b", loras=loras)))
    assert not np.array_equal(with_both, plain["a14b"])


def test_a_lora_for_an_expert_that_is_not_there(home, lora):
    with pytest.raises(ConfigError, match="no low-noise expert"):
        loaded(home, "ti2v", loras=[ExpertLora(file=lora, expert="low")])


class Payload:
    """An object that creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


def test_a_pickle_that_calls_itself_safetensors_is_not_opened(home, tmp_path):
    (tmp_path / "style.safetensors").write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    with pytest.raises(ConfigError, match=r"style\.safetensors is not a safetensors file"):
        loaded(home, "ti2v", loras=[ExpertLora(file=tmp_path / "style.safetensors")])
    assert not (tmp_path / "ran").exists()


def test_a_lora_that_is_missing(home, tmp_path):
    with pytest.raises(ConfigError, match=r"there is no nothing\.safetensors here"):
        loaded(home, "ti2v", loras=[ExpertLora(file=tmp_path / "nothing.safetensors")])


@pytest.mark.parametrize("name", ["unet.down.lora_A.weight", "transformer.blocks.9.attn1.to_q.lora_A.weight"])
def test_a_lora_for_another_model(home, tmp_path, name):
    tensors = {name: torch.ones(2, 48), name.replace("lora_A", "lora_B"): torch.ones(48, 2)}
    save_file(tensors, tmp_path / "style.safetensors")
    with pytest.raises(ConfigError, match="loras"):
        loaded(home, "ti2v", loras=[ExpertLora(file=tmp_path / "style.safetensors")])


# --- failures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "name"),
    [("transformer", "proj_out.weight"), ("vae", "decoder.conv_out.weight")],
)
async def test_numbers_that_are_not_finite_are_an_error_not_a_black_video(tmp_path, part, name):
    write("ti2v", tmp_path)
    file = tmp_path / part / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors[name][0] = float("inf")
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ModelFailed, match="not finite"):
        await made(loaded(tmp_path, "", weights=Weights(path=tmp_path)))


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"), ModelFailed),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), ModelFailed),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), DeviceFailed),
        (RuntimeError("CUDA error: device-side assert triggered"), DeviceFailed),
        (RuntimeError("shape mismatch"), type(None)),
    ],
)
def test_what_torch_raises_gets_its_name(error, named):
    failure = explain_failure(error, "64x64 pixels and 9 frames", "ask for less")
    assert type(failure) is named
    if named is ModelFailed:
        assert "64x64 pixels and 9 frames" in str(failure)
