"""Training of HunyuanDiT: it learns, it computes what the pipeline does, and it can be served."""

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, HunyuanDiTPipeline
from diffusers.models.attention_processor import HunyuanAttnProcessor2_0
from torch import nn

from miniatures import world
from miniatures.hunyuan_dit import SHORT, HunyuanDitRecipe, draw_prompt, make_scheduler, restore_stock
from miniatures.image_vae import Z
from miniatures.muon import Muon
from miniatures.scores.hunyuan_dit import judge_picture
from miniatures.world import STYLES, TRAINING_SEEDS
from services.frames import Frames
from services.hunyuan_dit.request import RestyleRequest
from services.hunyuan_dit.service import HunyuanDit
from services.hunyuan_dit.settings import HunyuanDitSettings
from services.weights.weights import Weights

SCALE = 2.5
PROMPTS = ["", "stippled", "An outlined red circle on a blue background.", "一个点画的红色圆形，背景为白色"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> HunyuanDitRecipe:
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(1)
    vae: Any = AutoencoderKL  # its stubs allow one block only
    vae(
        block_out_channels=(8,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=Z,
        norm_num_groups=2,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=SCALE,
        force_upcast=False,
    ).to(torch.bfloat16).save_pretrained(folder / "flux" / "vae")
    return HunyuanDitRecipe(folder, scenes=8)


@pytest.fixture(scope="module")
def saved(recipe, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hunyuan-dit")
    recipe.save(folder)
    return folder


def shaken(module: nn.Module) -> None:
    """Change all weights, so that no comparison succeeds only because weights are zero."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)


def test_a_batch_is_learnt(recipe):
    def loss() -> torch.Tensor:
        torch.manual_seed(2)
        return recipe.loss(np.random.default_rng(2), 0.0)

    optimiser = Muon(list(recipe.module.parameters()), recipe.lr, recipe.adam_lr)
    before = loss().item()
    for _ in range(6):
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
    unmoved = [name for name, parameter in recipe.module.named_parameters() if parameter.grad is None]
    assert loss().item() < 0.93 * before
    assert all(name.startswith("bert.pooler") for name in unmoved)


def test_it_predicts_what_the_pipeline_would_take_from_the_model(recipe, saved):
    shaken(recipe.module)
    pipeline: Any = HunyuanDiTPipeline.from_pretrained(saved, local_files_only=True, requires_safety_checker=False)
    net: Any = restore_stock(recipe.module["transformer"])
    pipeline.transformer = net
    pipeline.text_encoder, pipeline.text_encoder_2 = recipe.module["bert"], recipe.module["mt5"]
    one_step: Any = make_scheduler()
    pipeline.scheduler = one_step
    pipeline.set_progress_bar_config(disable=True)
    latents = torch.randn(len(PROMPTS), Z, 8, 8, generator=torch.Generator().manual_seed(6))
    taken = []
    one_step.step = lambda velocity, *_, **__: taken.append(velocity) or (latents,)
    pipeline(
        prompt=PROMPTS,
        latents=latents,
        height=64,
        width=64,
        use_resolution_binning=False,
        num_inference_steps=1,
        guidance_scale=1.0,
        output_type="latent",
    )
    assert type(net.blocks[0].attn1.processor) is HunyuanAttnProcessor2_0
    time = one_step.timesteps.repeat(len(PROMPTS))
    with torch.no_grad():
        predicted = recipe.predict(latents, time, PROMPTS)
    assert predicted.std() > 0.05
    assert torch.allclose(predicted, taken[0], atol=1e-4), (predicted - taken[0]).abs().max()
    with torch.no_grad():
        others = recipe.predict(latents, time, PROMPTS[1:] + PROMPTS[:1])
    assert (predicted - others).abs().amax((1, 2, 3)).min() > 0.01  # the prompt has an effect


def test_noise_keeps_what_a_path_began_from(recipe):
    """At the start of a path the noisy source picture equals the noisy target with the residual in its noise."""
    target, source = recipe._latents[:1, 0], recipe._latents[:1, 1]
    torch.manual_seed(3)
    rests = torch.stack([recipe._draw_residuals(target, source, torch.tensor([0]))[0] for _ in range(300)])
    towards = (source - target).flatten()
    shares = (rests.flatten(1) @ towards) / towards.square().sum()
    ratio = recipe._signal / recipe._noise
    assert shares.max() < 1.1 * ratio[250] + 0.3
    assert shares.max() > 0.5 * ratio[250]
    late = torch.stack([recipe._draw_residuals(target, target * 1.0, torch.tensor([999]))[0] for _ in range(40)])
    along = late.flatten(1) @ target.flatten() / target.square().sum()
    assert 0 <= along.min() < 0.01 < along.max() < 0.5


def test_the_latents_are_scaled_as_the_pipeline_scales_them(recipe):
    scene = world.draw(TRAINING_SEEDS + 3, style=STYLES[2])
    pixels = torch.from_numpy(scene.clip(1)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        latents = recipe._vae.encode(pixels).latent_dist.mode() * SCALE
    assert (recipe._latents[3, 2] - latents[0]).abs().max() < 0.05 * latents.abs().max()
    assert not torch.allclose(recipe._latents[3, 2], recipe._latents[3, 0], atol=0.01)


def test_prompts_are_whole_and_say_the_style(recipe):
    rng = np.random.default_rng(4)
    prompts = {
        style: [draw_prompt(rng, world.draw(TRAINING_SEEDS + i, figures=1 + i % 2), style) for i in range(150)]
        for style in STYLES
    }
    assert {"Stippled.", "点画", "stippled", "点画。", ""} <= set(prompts["stippled"])
    assert not any(word in text for text in prompts["flat"] for word in ("outlined", "stippled", "描边", "点画"))
    assert all("utlined" in text or "描边" in text for text in prompts["outlined"] if text)
    assert any("background" not in text and len(text) > 12 and text.isascii() for text in prompts["outlined"])
    for tokenizer, length in zip(recipe.tokenizers, SHORT, strict=True):
        ids = tokenizer([text for texts in prompts.values() for text in texts]).input_ids
        assert max(map(len, ids)) < length
        assert tokenizer.unk_token_id not in {token for text in ids for token in text}


def test_what_is_saved_is_served(saved):
    size = sum(file.stat().st_size for file in saved.rglob("*") if file.is_file())
    assert size < 4_000_000  # the real VAE is up to two million bytes larger than this one
    settings = HunyuanDitSettings(weights=Weights(path=saved), device="cpu", dtype="float32")
    hunyuan = HunyuanDit(settings, saved, lambda: "hunyuan-dit#test cpu")
    picture = Frames(world.draw(1).clip(1))

    async def made() -> list[Frames]:
        request = RestyleRequest(prompt="outlined", steps=3, seed=1)
        return [item async for item in hunyuan.restyle(request, picture) if isinstance(item, Frames)]

    (painted,) = asyncio.run(made())
    assert painted.pixels.shape == (1, 64, 64, 3)
    assert (painted.pixels != picture.pixels).any()


@pytest.mark.parametrize("style", STYLES)
def test_true_pictures_score_well(style):
    scenes = [world.draw(seed, figures=1, style=style) for seed in range(25)]
    right = [judge_picture(scene, scene.clip(1), placed=True) for scene in scenes]
    for name in right[0]:
        assert np.mean([one[name] for one in right]) >= 0.9, name
    wrong = [judge_picture(scene, other.clip(1), placed=True) for scene, other in pairwise(scenes)]
    assert np.mean([one["place"] for one in wrong]) < 0.3
    assert np.mean([one["colour"] for one in wrong]) < 0.4
