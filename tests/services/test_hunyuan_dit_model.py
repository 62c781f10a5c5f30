"""HunyuanDiT with random weights: the same pixels as with diffusers' own parts, and settings that take effect."""

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, HunyuanDiTPipeline
from diffusers.models.embeddings import get_2d_rotary_pos_embed
from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import get_resize_crop_region_for_grid
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from miniatures.random import written
from miniatures.random.hunyuan_dit import write
from services.errors import ConfigError, ModelFailed
from services.frames import Frames, Pixels
from services.hunyuan_dit.model import ChunkedFeedForward, TailDPMSolver
from services.hunyuan_dit.request import RestyleRequest
from services.hunyuan_dit.service import HunyuanDit
from services.hunyuan_dit.settings import HunyuanDitSettings
from services.weights.local import resolve
from services.weights.weights import Weights

RANDOM = np.random.default_rng(7)
PICTURE = Frames(RANDOM.integers(0, 256, (1, 48, 64, 3), np.uint8))
OTHER = Frames(RANDOM.integers(0, 256, (1, 48, 64, 3), np.uint8))
FIELDS = {"prompt": "as an oil painting", "negative_prompt": "blurred", "steps": 6, "strength": 0.5, "seed": 3}
REQUEST = RestyleRequest(**FIELDS)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def hunyuan(home) -> HunyuanDit:
    return loaded(home)


@pytest.fixture(scope="module")
def plain(hunyuan) -> Pixels:
    """The result of REQUEST and PICTURE with default settings."""
    return asyncio.run(made(hunyuan))


@pytest.fixture
def pipe(home) -> Any:
    """Return the pipeline as diffusers loads it, with DPM-Solver++ as its scheduler."""
    pipe = HunyuanDiTPipeline.from_pretrained(
        resolve(written("hunyuan-dit", "tiny", home), home), local_files_only=True, requires_safety_checker=False
    )
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def loaded(home: Path, **settings) -> HunyuanDit:
    fields = {"weights": written("hunyuan-dit", "tiny", home), "device": "cpu", "dtype": "float32", **settings}
    return HunyuanDit(HunyuanDitSettings(**fields), home, lambda: "hunyuan-dit#test cpu")


async def made(hunyuan: HunyuanDit, request: RestyleRequest = REQUEST, image: Frames = PICTURE) -> Pixels:
    (pixels,) = [item.pixels async for item in hunyuan.restyle(request, image) if isinstance(item, Frames)]
    return pixels


def changed(**fields) -> RestyleRequest:
    return RestyleRequest(**{**FIELDS, **fields})


def apart(first: Pixels, second: Pixels) -> np.ndarray:
    return np.abs(first.astype(int) - second)


# --- the last part of the schedule --------------------------------------------------------------------------------

SCHEDULE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.018,
    "prediction_type": "v_prediction",
}


def tail(config: dict[str, Any], steps: int, kept: int) -> Any:
    scheduler = TailDPMSolver(**config)
    scheduler.kept = kept
    scheduler.set_timesteps(steps)
    return scheduler


def walked(scheduler: Any, timesteps: Tensor, latents: Tensor) -> list[Tensor]:
    """Return every state of the scheduler; the stand-in for the model is nonlinear in state and time."""
    states = []
    for timestep in timesteps:
        latents = scheduler.step(torch.sin(3 * latents + timestep / 100), timestep, latents).prev_sample
        states.append(latents)
    return states


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize(("steps", "kept"), [(1, 1), (4, 1), (4, 2), (14, 9), (25, 14), (25, 15), (40, 24), (40, 40)])
def test_the_tail_is_what_the_whole_solver_does_from_there_on(steps, kept, spacing):
    config = {**SCHEDULE, "timestep_spacing": spacing}
    whole: Any = DPMSolverMultistepScheduler(**config)
    whole.set_timesteps(steps)
    whole.set_begin_index(steps - kept)
    ours = tail(config, steps, kept)
    assert torch.equal(ours.timesteps, whole.timesteps[steps - kept :])
    assert torch.equal(ours.sigmas, whole.sigmas[steps - kept :])

    clean, noise = torch.randn(2, 1, 4, 6, 8, generator=torch.Generator().manual_seed(1))
    alpha = torch.as_tensor(whole.alphas_cumprod)[whole.timesteps[steps - kept]]
    noisy = ours.add_noise(clean, noise, ours.timesteps[:1])
    assert torch.allclose(noisy, alpha.sqrt() * clean + (1 - alpha).sqrt() * noise, atol=1e-6)
    assert torch.equal(noisy, whole.add_noise(clean, noise, whole.timesteps[steps - kept :][:1]))

    expected = walked(whole, whole.timesteps[steps - kept :], noisy)
    states = walked(ours, ours.timesteps, noisy)
    assert len(states) == kept
    assert all(torch.equal(a, b) for a, b in zip(states, expected, strict=True))


@pytest.mark.parametrize("more", [{"solver_order": 3}, {"final_sigmas_type": "sigma_min"}, {"euler_at_final": True}])
@pytest.mark.parametrize(("steps", "kept"), [(6, 4), (20, 14), (20, 15), (30, 16)])
def test_the_last_steps_follow_the_solver_s_rules_for_so_many_steps(steps, kept, more):
    """A short tail ends in steps of lower order, as a short schedule does."""
    config = {**SCHEDULE, "timestep_spacing": "leading", **more}
    short = DPMSolverMultistepScheduler(**config)
    ours = tail(config, steps, kept)
    short.set_timesteps(timesteps=ours.timesteps.tolist())
    noisy = torch.randn(1, 4, 6, 8, generator=torch.Generator().manual_seed(2))
    expected = walked(short, short.timesteps, noisy)
    assert all(torch.equal(a, b) for a, b in zip(walked(ours, ours.timesteps, noisy), expected, strict=True))


# --- sampling -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def noisy_latents(pipe: Any, request: RestyleRequest, start: int) -> Tensor:
    generator = torch.Generator().manual_seed(request.seed)
    pixels = torch.tensor(PICTURE.pixels).permute(0, 3, 1, 2) / 255 * 2 - 1
    latents = pipe.vae.encode(pixels).latent_dist.sample(generator) * pipe.vae.config.scaling_factor
    noise = torch.randn(latents.shape, generator=generator)
    pipe.scheduler.set_timesteps(request.steps)
    return pipe.scheduler.add_noise(latents, noise, pipe.scheduler.timesteps[start : start + 1])


@pytest.mark.parametrize("fields", [{}, {"guidance_scale": 1.0}, {"guidance_rescale": 0.7}, {"negative_prompt": ""}])
async def test_at_full_strength_the_pixels_are_those_of_the_pipeline_itself(hunyuan, pipe, fields):
    request = changed(strength=1.0, **fields)
    picture = pipe(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt or None,
        latents=noisy_latents(pipe, request, 0),
        height=48,
        width=64,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale,
        guidance_rescale=request.guidance_rescale,
        use_resolution_binning=False,
    ).images[0]
    assert np.array_equal(await made(hunyuan, request), np.array(picture)[None])


def denoiser(pipe: Any, request: RestyleRequest) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a function for the guided prediction of one step, as the pipeline computes it."""
    texts = [
        pipe.encode_prompt(request.prompt, negative_prompt=request.negative_prompt, text_encoder_index=index)
        for index in (0, 1)
    ]
    (embeds, mask), (embeds_2, mask_2) = [
        (torch.cat([without, with_prompt]), torch.cat([mask_without, mask_with]))
        for with_prompt, without, mask_with, mask_without in texts
    ]
    rotary = get_2d_rotary_pos_embed(16, get_resize_crop_region_for_grid((3, 4), 32), (3, 4), output_type="pt")

    def predict(latents: Tensor, timestep: Tensor) -> Tensor:
        both = pipe.transformer(
            torch.cat([latents] * 2),
            torch.full((2,), float(timestep)),
            encoder_hidden_states=embeds,
            text_embedding_mask=mask,
            encoder_hidden_states_t5=embeds_2,
            text_embedding_mask_t5=mask_2,
            image_rotary_emb=rotary,
        ).sample
        without, with_prompt = both.chunk(2, dim=1)[0].chunk(2)  # the other half is the learned variance
        return without + request.guidance_scale * (with_prompt - without)

    return predict


@pytest.mark.parametrize(("steps", "strength", "done"), [(6, 0.5, 3), (6, 0.01, 1), (18, 0.9, 16)])
async def test_at_any_strength_they_are_those_of_the_last_steps_done_by_hand(hunyuan, pipe, steps, strength, done):
    request = changed(steps=steps, strength=strength)
    assert np.array_equal(await made(hunyuan, request), by_hand(pipe, request, steps - done))


@torch.no_grad()
def by_hand(pipe: Any, request: RestyleRequest, start: int) -> Pixels:
    """Return the picture of diffusers' scheduler, run from step `start` on."""
    latents = noisy_latents(pipe, request, start)
    predict = denoiser(pipe, request)
    pipe.scheduler.set_begin_index(start)
    for timestep in pipe.scheduler.timesteps[start:]:
        latents = pipe.scheduler.step(predict(latents, timestep), timestep, latents).prev_sample
    unit = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample.permute(0, 2, 3, 1) / 2 + 0.5
    return (unit.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


async def test_a_seed_makes_the_same_pixels_again_and_another_seed_others(hunyuan, plain):
    assert plain.shape == (1, 48, 64, 3)
    assert plain.std() > 5
    assert np.array_equal(await made(hunyuan), plain)
    assert not np.array_equal(await made(hunyuan, changed(seed=4)), plain)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "as a charcoal drawing"},
        {"negative_prompt": "bright"},
        {"strength": 0.8},
        {"steps": 8},
        {"guidance_scale": 1.0},
        {"guidance_rescale": 0.7},
        {"max_area": 32 * 32},
    ],
)
async def test_what_is_asked_for_matters(hunyuan, plain, fields):
    assert not np.array_equal(await made(hunyuan, changed(**fields)), plain)


async def test_the_picture_matters_less_the_stronger_it_is(hunyuan):
    strengths = (0.01, 0.5, 1.0)
    differences = [
        apart(
            await made(hunyuan, changed(strength=strength)), await made(hunyuan, changed(strength=strength), OTHER)
        ).mean()
        for strength in strengths
    ]
    assert differences[0] > differences[1] > differences[2] > 0


async def test_a_picture_that_may_not_be_written_to_is_fine(hunyuan, plain):
    pixels = PICTURE.pixels.copy()
    pixels.flags.writeable = False
    assert np.array_equal(await made(hunyuan, image=Frames(pixels)), plain)


async def test_a_picture_is_brought_to_the_size_of_sampling_and_back(hunyuan):
    picture = Image.fromarray(OTHER.pixels[0]).resize((100, 70), Image.Resampling.BICUBIC)
    request = changed(max_area=70 * 50)
    small = picture.resize((64, 48), Image.Resampling.LANCZOS)
    expected = Image.fromarray((await made(hunyuan, request, Frames(np.array(small)[None])))[0])
    result = await made(hunyuan, request, Frames(np.array(picture)[None]))
    assert np.array_equal(result[0], np.array(expected.resize((100, 70), Image.Resampling.LANCZOS)))


async def test_what_is_cut_off_a_prompt_does_not_come_into_the_log(hunyuan, caplog):
    await made(hunyuan, changed(prompt="a secret " * 100, negative_prompt="a secret " * 100))
    assert "s e c r e t" not in caplog.text
    assert "secret" not in caplog.text


# --- levers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
async def test_half_precision_comes_near_float32(home, plain, dtype):
    hunyuan = loaded(home, dtype=dtype)
    half = await made(hunyuan)
    assert hunyuan._model._pipe.transformer.dtype == getattr(torch, dtype)
    assert not np.array_equal(half, plain)
    assert apart(half, plain).mean() < 8


async def test_chunks_of_tokens_change_nothing_but_the_memory(home, plain):
    hunyuan = loaded(home, forward_chunking=5)
    tokens = []
    for block in hunyuan._model._pipe.transformer.blocks:
        assert isinstance(block.ff, ChunkedFeedForward)
        block.ff.whole.register_forward_hook(lambda _module, args, _out: tokens.append(args[0].shape[1]))
    assert apart(await made(hunyuan), plain).max() <= 1
    assert tokens[:3] == [5, 5, 2]  # out of 12
    assert max(tokens) == 5


async def test_the_transformer_is_compiled(home, plain):
    hunyuan = loaded(home, compile=True)
    assert hunyuan._model._pipe.transformer._compiled_call_impl is not None
    assert loaded(home)._model._pipe.transformer._compiled_call_impl is None
    with torch.compiler.set_stance("force_eager"):  # real compilation takes minutes
        assert np.array_equal(await made(hunyuan), plain)


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offloading_needs_a_gpu(home, offload):
    with pytest.raises(ConfigError, match=f"offload: {offload} needs a GPU") as caught:
        loaded(home, offload=offload)
    assert caught.value.param == "offload"


def test_group_offloading_cannot_be_had(home):
    with pytest.raises(ConfigError, match="offload: group is not supported by HunyuanDiT") as caught:
        loaded(home, offload="group")
    assert caught.value.param == "offload"


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_a_device_that_is_not_here(home, device):
    with pytest.raises(ConfigError, match=f"device: {device}"):
        loaded(home, device=device)


def test_a_folder_that_is_no_checkpoint(home, tmp_path):
    with pytest.raises(ConfigError, match=r"path:.* is not a HunyuanDiT checkpoint"):
        loaded(home, weights=Weights(path=tmp_path))


@pytest.mark.parametrize(
    ("transformer", "said"), [(["diffusers", "FluxTransformer2DModel"], "FluxTransformer2DModel"), (None, "none")]
)
def test_a_checkpoint_of_another_model(home, tmp_path, transformer, said):
    write("tiny", tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    del index["transformer"]
    if transformer is not None:
        index["transformer"] = transformer
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match=f"is not a HunyuanDiT checkpoint .its transformer is {said}"):
        loaded(home, weights=Weights(path=tmp_path))


async def test_a_tokenizer_under_its_removed_name(home, tmp_path, plain):
    write("tiny", tmp_path)
    renamed = {"model_index.json": "tokenizer_2", "tokenizer_2/tokenizer_config.json": "tokenizer_class"}
    for file, key in renamed.items():
        fields = json.loads((tmp_path / file).read_text())
        fields[key] = ["transformers", "MT5Tokenizer"] if key == "tokenizer_2" else "MT5Tokenizer"
        (tmp_path / file).write_text(json.dumps(fields))
    assert np.array_equal(await made(loaded(home, weights=Weights(path=tmp_path))), plain)


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder_2", "scheduler"])
def test_a_checkpoint_that_lacks_a_part(home, tmp_path, part):
    write("tiny", tmp_path)
    shutil.rmtree(tmp_path / part)
    with pytest.raises(ConfigError, match="is not a HunyuanDiT checkpoint"):
        loaded(home, weights=Weights(path=tmp_path))


# --- random weights -----------------------------------------------------------------------------------------------


def test_random_weights_are_small_seeded_and_of_the_real_geometry(tmp_path, pipe):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write("tiny", tmp_path / name)
    weights = [
        {file.parent.name: file.read_bytes() for file in (tmp_path / name).glob("*/*.safetensors")}
        for name in ("first", "second")
    ]
    assert weights[0].keys() == {"vae", "transformer", "text_encoder", "text_encoder_2"}
    assert weights[0] == weights[1]
    assert sum(file.stat().st_size for file in (tmp_path / "first").rglob("*") if file.is_file()) < 3e6
    assert pipe.vae_scale_factor == 8
    assert (pipe.transformer.config.text_len, pipe.transformer.config.text_len_t5) == (77, 256)
    assert pipe.transformer.blocks[-1].skip_linear is not None


# --- failures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "name"),
    [("transformer", "proj_out.weight"), ("vae", "decoder.conv_out.weight"), ("vae", "encoder.conv_out.weight")],
)
async def test_numbers_that_are_not_finite_are_an_error_not_a_black_picture(home, tmp_path, part, name):
    write("tiny", tmp_path)
    file = tmp_path / part / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors[name][0] = float("inf")
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ModelFailed, match="not finite"):
        await made(loaded(home, weights=Weights(path=tmp_path)))
