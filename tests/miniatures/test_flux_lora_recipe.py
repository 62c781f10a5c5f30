"""Training of Flux's LoRAs: they learn, and the service loads the result."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from miniatures.flux import FluxRecipe
from miniatures.flux_lora import FluxLoraRecipe, OutlinedRecipe, StippledRecipe
from miniatures.image_vae import ImageVaeRecipe
from miniatures.judge import style_of
from miniatures.muon import Muon
from services.flux.request import FluxRequest
from services.flux.service import Flux
from services.flux.settings import FluxSettings
from services.weights.weights import Weights
from tests.miniatures.painting import painted

LARGEST = 400_000
"""Bytes of a LoRA."""


def fixed_loss(recipe: FluxLoraRecipe) -> Tensor:
    torch.manual_seed(0)
    return recipe.loss(np.random.default_rng(1), 0.0)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline with random weights in all layers, including those that start at zero in training."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(7)
    vae = ImageVaeRecipe(folder).module.to(memory_format=torch.contiguous_format)
    vae.register_to_config(scaling_factor=0.8, shift_factor=0.0)
    vae.save_pretrained(folder / "flux" / "vae")
    flux = FluxRecipe(folder, scenes=1, faces=1)
    for weight in flux.module["transformer"].parameters():
        if not weight.any():
            nn.init.normal_(weight, std=0.05)
    flux.save(folder / "flux")
    return folder


@pytest.fixture(scope="module")
def learned(checkpoints: Path) -> tuple[FluxLoraRecipe, float]:
    """The recipe after several steps on one batch, and the loss before them."""
    torch.manual_seed(1)
    recipe = OutlinedRecipe(checkpoints, scenes=24)
    optimiser = Muon([p for p in recipe.module.parameters() if p.requires_grad], recipe.lr, recipe.adam_lr)
    before = fixed_loss(recipe).item()
    for _ in range(6):
        optimiser.zero_grad()
        fixed_loss(recipe).backward()
        optimiser.step()
    recipe.save(checkpoints / "loras")
    return recipe, before


def test_a_few_steps_lower_the_loss_by_the_low_ranks_alone(learned: tuple[FluxLoraRecipe, float]) -> None:
    recipe, before = learned
    assert fixed_loss(recipe).item() < before
    assert all(("lora" in name) == weight.requires_grad for name, weight in recipe.module.named_parameters())


def test_the_service_paints_with_it(learned: tuple[FluxLoraRecipe, float], checkpoints: Path) -> None:
    settings = FluxSettings(
        weights=Weights(path=checkpoints / "flux"), device="cpu", dtype="float32", lora_dir=checkpoints / "loras"
    )
    flux = Flux(settings, checkpoints, lambda: "flux#test")
    fields = {"prompt": "a red circle on a blue background", "size": "64x64", "steps": 2, "seed": 1}
    plain, acting = (
        painted(flux, FluxRequest.model_validate({**fields, "loras": loras}))
        for loras in ([], [{"name": "flux-outlined"}])
    )
    assert (plain != acting).any()
    assert (checkpoints / "loras" / "flux-outlined.safetensors").stat().st_size < LARGEST


def test_pictures_are_of_the_style_and_captions_do_not_say_so(
    learned: tuple[FluxLoraRecipe, float], checkpoints: Path
) -> None:
    for recipe in (learned[0], StippledRecipe(checkpoints, scenes=4)):
        styles = [style_of(scene.clip(1)[0]) for scene in recipe._scenes]
        assert np.mean([style == recipe.style for style in styles]) > 0.7
