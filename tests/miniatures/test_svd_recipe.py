"""Training of Stable Video Diffusion: it learns, it computes what the pipeline does, and its checkpoints load."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler, StableVideoDiffusionPipeline
from PIL import Image

from miniatures import world
from miniatures.muon import Muon
from miniatures.scores.svd import judge_clip
from miniatures.svd import FRAMES, Rail, SvdRecipe, render_scene, set_direction, use_plain_attention, velocity
from miniatures.svd_vae import SvdVaeRecipe, replace_forwards, skip_encoder_block, skip_temporal_layers
from services.frames import Frames
from services.svd.request import SvdRequest
from services.svd.service import Svd
from services.svd.settings import SvdSettings
from services.weights.weights import Weights

MOST_BYTES = 6_000_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Checkpoints with an untrained VAE of Stable Video Diffusion."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("checkpoints")
    SvdVaeRecipe(folder).save(folder / "svd")
    return folder


@pytest.fixture(scope="module")
def recipe(folder) -> Any:  # diffusers' stubs are too narrow
    torch.manual_seed(2)
    return SvdRecipe(folder, scenes=2)


@pytest.fixture(scope="module")
def rail(folder) -> Rail:
    """A rail without colour variation."""
    vae: Any = AutoencoderKLTemporalDecoder.from_pretrained(folder / "svd" / "vae")
    laid = (Rail.draw(np.random.default_rng(seed), vae) for seed in range(20))
    return next(rail for rail in laid if np.array_equal(rail.pictures[:1], rail.scene.clip(1)))


def losses(recipe, progress: float, steps: int) -> list[float]:
    """Return the losses of repeated steps on one batch."""
    parameters = [parameter for parameter in recipe.module.parameters() if parameter.requires_grad]
    optimiser = Muon(parameters, recipe.lr / 4, recipe.adam_lr)
    found = []
    for _ in range(steps):
        torch.manual_seed(5)
        loss = recipe.loss(np.random.default_rng(5), progress)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        found.append(loss.item())
    return found


def stirred(module: torch.nn.Module, but: tuple[str, ...] = ()) -> None:
    """Give every layer random weights, except those whose names begin with one of `but`."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if not name.startswith(but):
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("progress", [0.1, 0.9])
def test_the_vae_learns(tmp_path, progress):
    torch.manual_seed(3)
    found = losses(SvdVaeRecipe(tmp_path), progress, 3)
    assert found[-1] < 0.95 * found[0]


def test_clips_train_the_decoder_alone(tmp_path):
    recipe = SvdVaeRecipe(tmp_path)
    torch.manual_seed(3)
    recipe.loss(np.random.default_rng(3), 0.9).backward()
    trained = {name.split(".")[0] for name, value in recipe.module.named_parameters() if value.grad is not None}
    assert trained == {"decoder"}
    temporal = [value for name, value in recipe.module.named_parameters() if "temporal_res_block.conv2" in name]
    assert all(value.grad is not None and value.grad.abs().max() > 0 for value in temporal)


@torch.no_grad()
def test_what_is_left_out_of_the_vae_makes_no_difference(tmp_path):
    vae: Any = SvdVaeRecipe(tmp_path).module
    joining = [name for name, _ in vae.named_parameters() if "temporal_res_block.conv2" in name]
    stirred(vae, ("encoder.down_blocks.0.resnets.0.conv2", *joining))
    pictures = torch.rand(3, 3, 32, 32) * 2 - 1
    latents = vae.encode(pictures).latent_dist.mode()
    whole = vae.decode(latents, num_frames=3).sample
    with replace_forwards({**skip_encoder_block(vae), **skip_temporal_layers(vae)}):
        assert torch.allclose(vae.encode(pictures).latent_dist.mode(), latents, atol=1e-5)
        assert torch.allclose(vae.decode(latents, num_frames=3).sample, whole, atol=1e-5)
    stirred(vae)
    assert not torch.allclose(vae.decode(latents, num_frames=3).sample, whole, atol=1e-2)


def test_latents_have_a_deviation_of_one(folder):
    vae: Any = AutoencoderKLTemporalDecoder.from_pretrained(folder / "svd" / "vae")
    pictures = torch.cat([torch.from_numpy(world.draw(seed).clip(1)) for seed in range(64)])
    with torch.no_grad():
        latents = vae.encode(pictures.permute(0, 3, 1, 2) / 127.5 - 1).latent_dist.mode() * vae.config.scaling_factor
    assert latents.square().mean().sqrt().item() == pytest.approx(1, abs=0.15)


def test_the_unet_and_the_image_encoder_learn(recipe):
    projection = recipe.module["image_encoder"].visual_projection.weight
    before = projection.detach().clone()
    found = losses(recipe, 0.5, 4)
    assert found[-1] < 0.98 * found[0]
    assert not torch.equal(projection, before)


@torch.no_grad()
def test_attention_in_training_is_the_stock_one(folder):
    unet: Any = SvdRecipe(folder, scenes=1).module["unet"]
    stirred(unet)
    kinds = {type(processor) for processor in unet.attn_processors.values()}
    given = {
        "sample": torch.randn(2, 5, 32, 8, 8),
        "timestep": torch.tensor([0.3, -0.4]),
        "encoder_hidden_states": torch.randn(2, 1, 32),
        "added_time_ids": torch.tensor([[5.0, 127.0, 0.02], [7.0, 3.0, 0.1]]),
    }
    stock = unet(**given).sample
    with use_plain_attention(unet):
        assert torch.allclose(unet(**given).sample, stock, atol=1e-4)
    assert {type(processor) for processor in unet.attn_processors.values()} == kinds


def test_the_scheduler_finds_what_the_target_means(recipe):
    scheduler: Any = EulerDiscreteScheduler.from_config(recipe._pipeline.scheduler.config)
    scheduler.set_timesteps(8)
    latents = torch.randn(1, 5, 16, 8, 8)
    for time, sigma in zip(scheduler.timesteps, scheduler.sigmas[:-1], strict=True):
        assert time == pytest.approx(sigma.log().item() / 4)
        noisy = latents + sigma * torch.randn_like(latents)
        scheduler.scale_model_input(noisy, time)
        found = scheduler.step(velocity(latents, noisy, sigma), time, noisy).pred_original_sample
        assert torch.allclose(found, latents, atol=1e-3)


def test_the_picture_is_given_as_the_pipeline_gives_it(recipe):
    picture = world.draw(1).clip(1)
    pipeline = recipe._pipeline
    shaped = pipeline.video_processor.preprocess(Image.fromarray(picture[0]), height=64, width=64)
    with torch.no_grad():
        true = pipeline._encode_vae_image(shaped, "cpu", 1, do_classifier_free_guidance=False)
    assert torch.allclose(recipe._condition(picture, np.zeros(1)), true, atol=1e-4)


@pytest.mark.parametrize("start", [0.1, 0.4, 0.9])
@pytest.mark.parametrize("stride", [1, 3])
def test_rails_show_what_the_model_is_said_to_do(rail, start, stride):
    places = rail.run(round(start * (len(rail.pictures) - 1)), stride, FRAMES)
    (figure,) = rail.scene.figures
    there = replace(figure, x=figure.x + places[0] * rail.gap)
    scene = set_direction(replace(rail.scene, figures=(there,)))
    speed = rail.bucket(stride) / 127
    true = render_scene(scene, [speed * time for time in range(FRAMES)])
    assert (places[1] > places[0]) == (start < 0.5)
    assert np.abs(rail.pictures[places].astype(int) - true).max() <= 1


def test_what_is_judged():
    scene = set_direction(world.draw(4, figures=1))
    true = scene.clip(FRAMES)
    measured = judge_clip(scene, true)
    assert {measured[name] for name in ("colour", "shape", "moves")} == {1.0}
    assert judge_clip(scene, np.repeat(true[:1], FRAMES, 0))["moves"] == 0


async def test_what_is_saved_is_served(recipe, folder, tmp_path):
    target = folder / "svd"
    recipe.save(target)
    assert sum(path.stat().st_size for path in target.rglob("*") if path.is_file()) < MOST_BYTES
    pipeline: Any = StableVideoDiffusionPipeline.from_pretrained(target)
    assert pipeline.unet.config.num_frames == FRAMES
    service = Svd(SvdSettings(weights=Weights(path=target), dtype="float32"), tmp_path, lambda: "svd#1")
    request = SvdRequest(num_frames=3, steps=2, size="64x64", seed=1)
    items = [item async for item in service.animate(request, Frames(world.draw(1).clip(1)))]
    made = np.concatenate([item.pixels for item in items if isinstance(item, Frames)])
    assert made.shape == (3, 64, 64, 3)
