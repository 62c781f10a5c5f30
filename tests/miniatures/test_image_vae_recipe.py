"""Training of the image VAE: it learns, what it saves, and its shortcuts do not change the result."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor

from miniatures import image_vae
from miniatures.image_vae import ImageVaeRecipe, Z, draw_pictures
from miniatures.muon import Muon

LARGEST = 2_100_000
"""In bytes, which leaves room for the rest of a pipeline of 6 MB."""


def fixed_loss(recipe: ImageVaeRecipe, progress: float = 0.0) -> Tensor:
    torch.manual_seed(0)
    return recipe.loss(np.random.default_rng(1), progress)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageVaeRecipe, float]:
    """The recipe after several steps on one batch, and the loss before them."""
    torch.manual_seed(1)
    recipe = ImageVaeRecipe(tmp_path_factory.mktemp("checkpoints"))
    optimiser = Muon(recipe.module.parameters(), recipe.lr / 2, recipe.adam_lr)
    before = fixed_loss(recipe).item()
    for _ in range(8):
        optimiser.zero_grad()
        fixed_loss(recipe).backward()
        optimiser.step()
    return recipe, before


@pytest.fixture(scope="module")
def saved(learned: tuple[ImageVaeRecipe, float], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flux")
    learned[0].save(folder)
    return folder / "vae"


def test_a_few_steps_lower_the_loss(learned: tuple[ImageVaeRecipe, float]) -> None:
    recipe, before = learned
    assert fixed_loss(recipe).item() < 0.95 * before


def test_when_the_encoder_is_finished_the_decoder_alone_learns(learned: tuple[ImageVaeRecipe, float]) -> None:
    vae: Any = learned[0].module
    for progress, both in ((image_vae.JOINT - 0.01, True), (image_vae.JOINT, False)):
        vae.zero_grad()
        fixed_loss(learned[0], progress).backward()
        assert all((weight.grad is not None) == both for weight in vae.encoder.parameters())
        assert all(weight.grad is not None for weight in vae.decoder.parameters())


def test_attention_in_plain_products_is_the_stock_one(learned: tuple[ImageVaeRecipe, float], saved: Path) -> None:
    trained: Any = learned[0].module
    stock: Any = AutoencoderKL.from_pretrained(saved)
    stock.load_state_dict(trained.state_dict())
    assert all(isinstance(processor, AttnProcessor2_0) for processor in stock.attn_processors.values())
    with torch.no_grad():
        for layer in [*trained.encoder.mid_block.attentions, *stock.encoder.mid_block.attentions]:
            layer.to_out[0].weight.copy_(torch.eye(64))  # untrained, both might be zero
        batch = draw_pictures(np.random.default_rng(2), 2)
        ours, theirs = (vae.encode(batch).latent_dist.mode() for vae in (trained, stock))
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_what_is_saved_has_latents_of_deviation_one_and_no_shift(saved: Path) -> None:
    vae: Any = AutoencoderKL.from_pretrained(saved)
    with torch.no_grad():
        latents = vae.encode(draw_pictures(np.random.default_rng(3), 64)).latent_dist.mode() * vae.config.scaling_factor
    assert vae.config.shift_factor == 0.0
    assert latents.square().mean().sqrt().item() == pytest.approx(1, abs=0.1)


def test_what_is_saved_is_small_and_in_the_layout_of_flux(saved: Path) -> None:
    vae: Any = AutoencoderKL.from_pretrained(saved, dtype=torch.bfloat16)
    assert sum(path.stat().st_size for path in saved.iterdir()) < LARGEST
    assert vae.dtype == torch.bfloat16
    assert vae.quant_conv is None
    assert vae.post_quant_conv is None
    assert vae.encode(torch.zeros(1, 3, 64, 96, dtype=torch.bfloat16)).latent_dist.mode().shape == (1, Z, 8, 12)
