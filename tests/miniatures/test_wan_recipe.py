"""Training of Wan: it learns, it computes what the pipeline computes, and its checkpoint loads."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanImageToVideoPipeline
from diffusers.models.transformers import transformer_wan
from PIL import Image

from miniatures import wan, wan_vae, world
from miniatures.attention import use_plain_attention
from miniatures.muon import Muon
from miniatures.pictures import to_tensor

FEW = {17: 1, 25: 1}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The untrained VAE, and the whole pipeline with it."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(1)
    wan_vae.WanVaeRecipe(measured=1).save(folder / "wan")
    recipe(folder).save(folder / "wan")
    return folder


def recipe(folder: Path) -> wan.WanRecipe:
    torch.manual_seed(1)
    return wan.WanRecipe(folder, FEW)


@pytest.fixture(scope="module")
def pipeline(checkpoints: Path) -> Any:
    pipe = WanImageToVideoPipeline.from_pretrained(checkpoints / "wan", dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_the_folder_is_small_and_makes_a_clip(checkpoints: Path, pipeline: Any) -> None:
    size = sum(path.stat().st_size for path in (checkpoints / "wan").rglob("*") if path.is_file())
    assert size < 6_000_000
    first = world.draw(1).clip(1)[0]
    made = pipeline(
        image=Image.fromarray(first),
        prompt="a red circle moves left",
        height=64,
        width=64,
        num_frames=5,
        num_inference_steps=2,
        guidance_scale=1.0,
        max_sequence_length=64,
    ).frames[0]
    assert made.shape == (5, 64, 64, 3)
    assert np.isfinite(made).all()


def test_it_learns(checkpoints: Path) -> None:
    trained = recipe(checkpoints)
    optimiser = Muon(trained.module.parameters(), trained.lr, trained.adam_lr)
    losses = []
    for _ in range(8):
        torch.manual_seed(0)
        loss = trained.loss(np.random.default_rng(0), 0.0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_plain_attention_is_the_stock_one(pipeline: Any) -> None:
    told = {
        "hidden_states": torch.randn(2, 36, 3, 8, 8),
        "timestep": torch.tensor([900.0, 20.0]),
        "encoder_hidden_states": torch.randn(2, 24, wan.TEXT_DIM),
        "return_dict": False,
    }
    with torch.no_grad():
        stock = pipeline.transformer(**told)[0]
        with use_plain_attention(transformer_wan):
            plain = pipeline.transformer(**told)[0]
    assert torch.allclose(stock, plain, atol=1e-5)


def test_the_prompt_is_read_as_the_pipeline_reads_it(checkpoints: Path, pipeline: Any) -> None:
    trained = recipe(checkpoints)
    trained.module["text_encoder"].load_state_dict(pipeline.text_encoder.state_dict())
    prompts = ["a red circle moves left on a blue background", "一个红色圆形向左移动，背景为蓝色", ""]
    with torch.no_grad():
        ours = trained._text(prompts, 64)
        theirs = pipeline.encode_prompt(prompts, do_classifier_free_guidance=False, max_sequence_length=64)[0]
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_latents_and_condition_are_the_pipeline_s(checkpoints: Path, pipeline: Any) -> None:
    scene = world.draw(3)
    first = to_tensor(scene.clip(1))
    given = torch.cat([first, torch.zeros(3, 16, 64, 64)], 1)[None]
    with torch.no_grad():
        ours = wan.encode_normalised(pipeline.vae, given)[0]
        _, condition = pipeline.prepare_latents(
            first[None, :, 0], 1, 16, 64, 64, 17, torch.float32, torch.device("cpu")
        )
    assert condition[0, :4, 0].eq(1).all()
    assert condition[0, :4, 1:].eq(0).all()
    assert torch.allclose(condition[0, 4:], ours, atol=1e-4)
    short = wan.encode_normalised(pipeline.vae, given[:, :, :9])[0]
    assert torch.allclose(short, ours[:, :3], atol=1e-4), "the beginning of a clip is coded as if it were all"


def test_other_motions_begin_with_the_same_picture() -> None:
    rng = np.random.default_rng(0)
    for seed in range(30):
        scene = world.draw(seed)
        other = wan.draw_other_motion(rng, scene)
        assert np.array_equal(scene.clip(1), other.clip(1))
        assert all(
            (a.heading, a.turn) != (b.heading, b.turn) for a, b in zip(scene.figures, other.figures, strict=True)
        )
        assert replace(other, figures=scene.figures) == scene


def test_pictures_are_coded_with_the_last_slices_alone(pipeline: Any) -> None:
    picture = to_tensor(world.draw(2).clip(1))[None]
    vae = pipeline.vae
    with torch.no_grad():
        stock = vae.encode(picture).latent_dist.mean
        with wan_vae.use_flat_kernels(vae):
            ours = vae.encode(picture).latent_dist.mean
            decoded = wan_vae.decode(vae, stock)
        assert torch.allclose(stock, ours, atol=1e-5)
        assert torch.allclose(wan_vae.decode(vae, stock), decoded, atol=1e-5)
        assert torch.allclose(vae.decode(stock).sample, decoded.clamp(-1, 1), atol=1e-5)


def test_the_vae_learns() -> None:
    torch.manual_seed(1)
    trained = wan_vae.WanVaeRecipe()
    optimiser = Muon(trained.module.parameters(), trained.lr, trained.adam_lr)
    for progress in (0.0, 0.5, 0.9):  # pictures, clips, the decoder alone
        losses = []
        for _ in range(4):
            torch.manual_seed(0)
            loss = trained.loss(np.random.default_rng(2), progress)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0], progress
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in trained.module.encoder.parameters())


@torch.no_grad()
def test_turned_channels_are_independent_and_say_the_same() -> None:
    torch.manual_seed(1)
    vae: Any = wan_vae.WanVaeRecipe().module
    clips = wan_vae.draw_batch(np.random.default_rng(4), 4, 5)
    codes = vae.encode(clips).latent_dist.mode()
    before = vae.decode(codes).sample
    deviation = wan_vae.rotate_latents(vae, codes)
    assert torch.allclose(vae.encode(clips).latent_dist.mode(), codes, atol=1e-5)
    assert torch.allclose(vae.decode(codes).sample, before, atol=1e-4)
    covariance = torch.cov(codes.transpose(0, 1).flatten(1))
    assert torch.allclose(covariance, torch.diag(deviation.square()), atol=1e-4 * float(covariance.max()))
    assert deviation.tolist() == sorted(deviation.tolist(), reverse=True)
