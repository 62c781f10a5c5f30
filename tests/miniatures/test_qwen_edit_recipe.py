"""Training of Qwen-Image-Edit: its examples, that it learns, and that training and service compute the same."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.transformers import transformer_qwenimage
from scipy import ndimage
from torch import Tensor, nn

from miniatures.attention import use_plain_attention
from miniatures.judge import background_of, shapes_in
from miniatures.muon import Muon
from miniatures.qwen_edit import GRID, Edit, Examples, QwenEditRecipe, draw_caption_edit, draw_edge_edit, pack_latents
from services.frames import Frames, Item, Scores
from services.qwen_edit.decoders import unpacked
from services.qwen_edit.request import DEFAULT_PROMPT, EditRequest
from services.qwen_edit.service import QwenEdit
from services.qwen_edit.settings import QwenEditSettings
from services.weights.weights import Weights

AREA = 64 * 64
LARGEST = 6_000_000
"""Bytes of a checkpoint."""


def fixed_loss(recipe: QwenEditRecipe) -> Tensor:
    torch.manual_seed(0)
    return recipe.loss(np.random.default_rng(1), 0.5)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wan's VAE in its shipped shape, with random weights."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(7)
    statistics: dict[str, Any] = {"latents_mean": [0.1] * 16, "latents_std": [0.2] * 16}
    vae: Any = AutoencoderKLWan(base_dim=16, z_dim=16, dim_mult=[1, 2, 3, 3], num_res_blocks=1, **statistics)
    vae.to(torch.bfloat16).save_pretrained(folder / "wan" / "vae")
    return folder


@pytest.fixture(scope="module")
def learned(checkpoints: Path) -> tuple[QwenEditRecipe, float]:
    """The recipe after several steps on one batch, and the loss before them."""
    torch.manual_seed(1)
    recipe = QwenEditRecipe(checkpoints, examples=24)
    optimiser = Muon(recipe.module.parameters(), recipe.lr, recipe.adam_lr)
    before = fixed_loss(recipe).item()
    for _ in range(6):
        optimiser.zero_grad()
        fixed_loss(recipe).backward()
        optimiser.step()
    return recipe, before


@pytest.fixture(scope="module")
def saved(learned: tuple[QwenEditRecipe, float], checkpoints: Path) -> Path:
    learned[0].save(checkpoints / "qwen-edit")
    return checkpoints / "qwen-edit"


@pytest.fixture(scope="module")
def service(saved: Path) -> QwenEdit:
    areas: dict[str, Any] = {"reference_area": AREA, "condition_area": AREA, "max_area": AREA}
    settings = QwenEditSettings(weights=Weights(path=saved), device="cpu", dtype="float32", **areas)
    return QwenEdit(settings, saved, lambda: "qwen-edit#test")


@pytest.fixture(scope="module")
def edit() -> Edit:
    return draw_edge_edit(np.random.default_rng(3))


def test_a_few_steps_lower_the_loss(learned: tuple[QwenEditRecipe, float]) -> None:
    recipe, before = learned
    assert fixed_loss(recipe).item() < 0.95 * before


def test_what_is_saved_is_small_enough_to_ship(saved: Path) -> None:
    assert sum(file.stat().st_size for file in saved.rglob("*") if file.is_file()) < LARGEST


def test_the_pipeline_cuts_off_its_own_words_and_no_more(learned: tuple[QwenEditRecipe, float]) -> None:
    pipeline = learned[0].pipeline
    written, _ = pipeline.prompt_template_encode.split("{}")
    assert len(pipeline.tokenizer(written).input_ids) == pipeline.prompt_template_encode_start_idx


def test_the_service_meets_what_was_trained_on(
    learned: tuple[QwenEditRecipe, float], service: QwenEdit, edit: Edit
) -> None:
    recipe, _ = learned
    transformer: nn.Module = service._model._pipe.transformer
    met: list[tuple[dict[str, Any], Tensor]] = []
    handle = transformer.register_forward_hook(
        lambda _module, _args, named, made: met.append((named, made[0])), with_kwargs=True
    )
    items = asyncio.run(edited(service, edit, EditRequest(steps=2, seed=5, true_cfg_scale=1, max_area=AREA)))
    handle.remove()
    named, made = met[0]
    noisy, references = named["hidden_states"].split([16, 32], dim=1)
    given = np.stack(edit.given)

    text = recipe.texts([DEFAULT_PROMPT, "a blue circle and a red star on a white background"], np.stack([given] * 2))
    torch.testing.assert_close(text[0][None], named["encoder_hidden_states"], atol=1e-4, rtol=1e-4)
    latents = pack_latents(recipe.latents(given)).reshape(1, 32, -1)
    assert nn.functional.mse_loss(latents, references) < 1e-3 * references.var()
    assert named["img_shapes"][0] == [GRID] * 3

    # In one batch with a longer prompt, by plain attention.
    recipe.module.load_state_dict(transformer.state_dict())
    padded = nn.utils.rnn.pad_sequence(text, batch_first=True)
    both = Examples(noisy.repeat(2, 1, 1), references.repeat(2, 1, 1), padded, torch.tensor([len(t) for t in text]))
    assert len(text[0]) < len(text[1])
    with torch.no_grad(), use_plain_attention(transformer_qwenimage):
        velocity = recipe.predict(both.target, named["timestep"].repeat(2), both)
    torch.testing.assert_close(velocity[:1], made[:, :16], atol=1e-4, rtol=1e-3)
    assert velocity.std() > 0.01
    assert next(item for item in items if isinstance(item, Frames)).pixels.shape == (1, 64, 64, 3)


def test_the_service_guides_through_this_vae(service: QwenEdit, edit: Edit) -> None:
    losses = []
    for scale in (0.0, 1.0):
        request = EditRequest.model_validate(
            {"steps": 3, "seed": 5, "max_area": AREA, "ttlg": {"edge_scale": scale, "inner_steps": 4, "lr": 0.2}}
        )
        items = asyncio.run(edited(service, edit, request))
        losses.append(next(item.edge_loss for item in items if isinstance(item, Scores)))
    assert losses[1] < losses[0]


def test_latents_are_packed_as_the_service_unpacks_them() -> None:
    latents = torch.randn(2, 16, 8, 6)
    assert torch.equal(unpacked(pack_latents(latents), 8, 6), latents)


def test_edges_are_those_of_what_is_wanted() -> None:
    rng = np.random.default_rng(4)
    shares = []
    for _ in range(60):
        edit = draw_edge_edit(rng)
        lines = edit.given[0].astype(float)[..., 0]
        if lines.any():
            slopes = ndimage.gaussian_gradient_magnitude(edit.wanted.astype(float), 0.5, axes=(0, 1)).max(axis=-1)
            near = np.asarray(ndimage.binary_dilation(slopes > 10, iterations=5), bool)
            shares.append(lines[near].sum() / lines.sum())
    assert len(shares) > 50
    assert min(shares) > 0.9


def test_a_caption_says_what_is_wanted_and_the_picture_says_where() -> None:
    rng = np.random.default_rng(5)
    changed = 0
    for edit in (draw_caption_edit(rng) for _ in range(60)):
        if not edit.prompt.isascii() or not edit.prompt.strip():
            continue
        words = edit.prompt.lower().strip(".").split()
        before, after = shapes_in(edit.given[0]), shapes_in(edit.wanted)
        assert {seen.colour for seen in after} | set(background_of(edit.wanted)) <= set(words)
        assert all(any(np.hypot(a.x - b.x, a.y - b.y) < 6 for a in before) for b in after)
        changed += not np.array_equal(edit.given[0], edit.wanted)
    assert changed > 20


async def edited(service: QwenEdit, edit: Edit, request: EditRequest) -> list[Item]:
    edges, image = (Frames(np.ascontiguousarray(picture)[None]) for picture in edit.given)
    items: AsyncGenerator[Item] = service.edit(request, image, edges)
    return [item async for item in items]
