"""Training of Flux: it learns, and training and service compute the same."""

from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from miniatures import flux as training
from miniatures import world
from miniatures.flux import (
    FluxRecipe,
    convert_guidance,
    draw_guidance,
    draw_prompt,
    draw_sigmas,
    encode_scenes,
    predict_velocity,
)
from miniatures.image_vae import ImageVaeRecipe, Z
from miniatures.muon import Muon
from miniatures.scores.flux import judge_picture
from services.flux.request import FluxRequest
from services.flux.service import Flux
from services.flux.settings import FluxSettings
from services.weights.weights import Weights
from tests.miniatures.painting import painted

LARGEST = 6_000_000
"""Bytes of a checkpoint."""
PROMPTS = [
    "a red circle on a blue background",
    "A star bounces and moves left on a zebra.",
    "一个红色圆形弹回后向右移动，一个绿色方形向左移动，背景为绿色和黑色。",  # more than CLIP reads
    "",
]


def fixed_loss(recipe: FluxRecipe, progress: float = 0.0) -> Tensor:
    torch.manual_seed(0)
    return recipe.loss(np.random.default_rng(1), progress)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The VAE in its shipped shape, with random weights."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(7)
    vae = ImageVaeRecipe(folder).module.to(torch.bfloat16, memory_format=torch.contiguous_format)
    vae.register_to_config(scaling_factor=0.8, shift_factor=0.1)
    vae.save_pretrained(folder / "flux" / "vae")
    return folder


@pytest.fixture(scope="module")
def learned(checkpoints: Path) -> tuple[FluxRecipe, float]:
    """The recipe after several steps on one batch, and the loss before them."""
    torch.manual_seed(1)
    recipe = FluxRecipe(checkpoints, scenes=20, faces=4)
    optimiser = Muon([p for p in recipe.module.parameters() if p.requires_grad], recipe.lr, recipe.adam_lr)
    before = fixed_loss(recipe).item()
    for _ in range(8):
        optimiser.zero_grad()
        fixed_loss(recipe).backward()
        optimiser.step()
    return recipe, before


@pytest.fixture(scope="module")
def saved(learned: tuple[FluxRecipe, float], checkpoints: Path) -> Path:
    learned[0].save(checkpoints / "flux")
    return checkpoints / "flux"


@pytest.fixture(scope="module")
def pipeline(learned: tuple[FluxRecipe, float], saved: Path) -> Any:
    """The loaded pipeline, with the weights before rounding."""
    pipe = FluxPipeline.from_pretrained(saved, dtype=torch.float32)
    nets = {"transformer": pipe.transformer, "clip": pipe.text_encoder, "t5": pipe.text_encoder_2}
    for name, net in nets.items():
        net.load_state_dict(learned[0].module[name].state_dict())
    return pipe


@pytest.fixture(scope="module")
def service(saved: Path) -> Flux:
    settings = FluxSettings(weights=Weights(path=saved), device="cpu", dtype="float32", max_sequence_length=64)
    return Flux(settings, saved, lambda: "flux#test")


def test_a_few_steps_lower_the_loss(learned: tuple[FluxRecipe, float]) -> None:
    recipe, before = learned
    assert before == pytest.approx(2, abs=1)  # an untrained model predicts nothing
    assert fixed_loss(recipe).item() < 0.9 * before


def test_all_that_may_learn_is_taught(learned: tuple[FluxRecipe, float]) -> None:
    module = learned[0].module
    module.zero_grad()
    fixed_loss(learned[0], 0.9).backward()
    assert [name for name, p in module.named_parameters() if (p.grad is None) == p.requires_grad] == []


@torch.no_grad()
@pytest.mark.parametrize("length", [24, 64])
def test_prompts_are_read_as_the_pipeline_reads_them(
    learned: tuple[FluxRecipe, float], pipeline: Any, length: int
) -> None:
    text, pooled = learned[0].read(PROMPTS, length)
    theirs, theirs_pooled, ids = pipeline.encode_prompt(PROMPTS, max_sequence_length=length, device="cpu")
    assert torch.allclose(text, theirs, atol=1e-5)
    assert torch.allclose(pooled, theirs_pooled, atol=1e-5)
    assert not ids.any()
    assert len({tuple(row) for row in pooled.tolist()}) == len(PROMPTS)


@torch.no_grad()
def test_attention_in_plain_products_is_the_stock_one(learned: tuple[FluxRecipe, float]) -> None:
    recipe, model = learned[0], cast("Any", learned[0].module["transformer"])
    arguments = torch.randn(3, 16, 4 * Z), torch.tensor([0.2, 0.9, 1.0]), torch.tensor([1.0, 3.5, 50.0])
    stock = predict_velocity(model, *arguments, recipe.read(PROMPTS[:3], 32))
    with sdpa_kernel(SDPBackend.MATH):
        ours = predict_velocity(model, *arguments, recipe.read(PROMPTS[:3], 32))
    assert torch.allclose(ours, stock, atol=1e-5)
    assert stock.std() > 0.01


@torch.no_grad()
def test_the_pipeline_asks_for_velocities_as_they_were_trained(
    learned: tuple[FluxRecipe, float], pipeline: Any
) -> None:
    recipe, noise = learned[0], torch.randn(1, 16, 4 * Z)
    model = cast("Any", recipe.module["transformer"])
    made = pipeline(
        PROMPTS[0],
        height=64,
        width=64,
        num_inference_steps=2,
        guidance_scale=3.5,
        latents=noise,
        max_sequence_length=64,
        output_type="latent",
    ).images
    read, latents, times = recipe.read(PROMPTS[:1], 64), noise, pipeline.scheduler.sigmas
    for sigma, after in pairwise(times):
        latents = latents + (after - sigma) * predict_velocity(model, latents, sigma[None], torch.tensor([3.5]), read)
    assert torch.allclose(made, latents, atol=1e-4)


def test_the_scheduler_goes_from_noise_to_the_picture_by_the_trained_velocity(pipeline: Any) -> None:
    picture, noise, scheduler = torch.randn(1, 16, 4 * Z), torch.randn(1, 16, 4 * Z), pipeline.scheduler
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 5, 5), mu=calculate_shift(16))
    latents = noise
    for time in scheduler.timesteps:
        latents = scheduler.step(noise - picture, time, latents, return_dict=False)[0]
    assert torch.allclose(latents, picture, atol=1e-5)


@torch.no_grad()
def test_latents_are_those_that_the_service_decodes(learned: tuple[FluxRecipe, float], pipeline: Any) -> None:
    scene = world.draw(5)
    packed = encode_scenes(pipeline.vae, [scene])
    latents = pipeline._unpack_latents(packed, 64, 64, pipeline.vae_scale_factor)
    plain = latents / pipeline.vae.config.scaling_factor + pipeline.vae.config.shift_factor
    pictures = torch.from_numpy(scene.clip(1)).permute(0, 3, 1, 2).float() / 127.5 - 1
    assert torch.allclose(plain, pipeline.vae.encode(pictures).latent_dist.mode(), atol=1e-4)


def test_what_is_saved_is_small(saved: Path) -> None:
    assert sum(path.stat().st_size for path in saved.rglob("*") if path.is_file()) < LARGEST


@pytest.mark.parametrize(
    "fields", [{}, {"guidance_scale": 0.0}, {"guidance_scale": 100.0}, {"true_cfg_scale": 4.0, "negative_prompt": ""}]
)
def test_the_service_paints_with_it(service: Flux, fields: dict[str, Any]) -> None:
    request = FluxRequest(prompt=PROMPTS[0], size="64x64", steps=2, seed=1, **fields)
    picture = painted(service, request)
    assert picture.shape == (64, 64, 3)
    assert picture.std() > 0


def test_noise_is_spread_evenly_and_mostly_high() -> None:
    drawn = draw_sigmas(1000)
    assert (drawn.diff() > 0).all()
    assert 0 < drawn.min() < 0.15
    assert 0.96 < drawn.max() < 1
    assert drawn.median().item() == pytest.approx(0.69, abs=0.01)
    assert ((drawn > 0.45) & (drawn < 0.86)).float().mean().item() == pytest.approx(0.68, abs=0.02)


def test_guidance_is_drawn_from_all_that_can_be_asked_for_and_acts_mildly() -> None:
    drawn = draw_guidance(4000)
    assert drawn.min() < 1.1
    assert drawn.max() > 95
    assert ((drawn >= 1) & (drawn <= 6)).float().mean() > 0.7
    assert convert_guidance(torch.tensor([0.0, 1.0, 3.5, 100.0])).tolist() == [1.0, 1.0, 1.75, 2.5]


def test_guidance_is_taught_once_its_time_has_come(learned: tuple[FluxRecipe, float]) -> None:
    before, at, late = (fixed_loss(learned[0], training.GUIDED + by).item() for by in (-0.01, 0.0, 0.3))
    assert at == late != before


def test_prompts_say_what_is_seen_in_both_languages_and_sometimes_nothing() -> None:
    rng, scene = np.random.default_rng(4), world.draw(9, figures=1)
    prompts = [draw_prompt(rng, scene) for _ in range(400)]
    chinese = [prompt for prompt in prompts if prompt and not prompt.isascii()]
    moving = [prompt for prompt in prompts if any(word in prompt for word in ("moves", "turns", "移", "旋"))]
    assert prompts.count("") == pytest.approx(40, abs=20)
    assert len(chinese) == pytest.approx(90, abs=30)
    assert len(moving) == pytest.approx(90, abs=30)
    assert all(scene.figures[0].colour in prompt for prompt in prompts if prompt and prompt.isascii())


def test_the_judge_of_the_scores_sees_what_is_wrong() -> None:
    scene = world.draw(3, figures=1)
    other = next(one for one in map(world.draw, range(4, 99)) if one.background != scene.background)
    assert all(judge_picture(scene, scene.clip(1)[0]).values())
    assert not judge_picture(scene, other.clip(1)[0])["background"]
    assert not judge_picture(scene, np.full((64, 64, 3), 26, np.uint8))["shape"]


def test_what_is_taught_points_from_the_picture_to_the_noise(checkpoints: Path) -> None:
    recipe = FluxRecipe(checkpoints, scenes=2, faces=1)
    recipe._latents.fill_(5.0)
    fixed_loss(recipe).backward()
    gradient = cast("Any", recipe.module["transformer"]).proj_out.bias.grad
    assert (gradient > 0).all()  # the output must decrease, to -5
