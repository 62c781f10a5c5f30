"""Training of the identity nets: they learn, and training and services compute the same."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from diffusers import FluxControlNetModel, FluxControlNetPipeline, FluxPipeline
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from miniatures.faces import KNOWN, draw_face, draw_person, draw_portrait
from miniatures.flux import FluxRecipe, predict_velocity
from miniatures.identity import (
    BATCH,
    FEW,
    SHAPES,
    IdentityRecipe,
    add_detector_error,
    bind_residuals,
    crop_face,
    embed_crops,
    load_recogniser,
    mix_targets,
    predict_residuals,
)
from miniatures.image_vae import ImageVaeRecipe, Z
from miniatures.muon import Muon
from miniatures.pictures import to_tensor
from miniatures.recogniser import FILE, RecogniserRecipe
from miniatures.scores.identity import colours_of, draw_reference, measure_difference, measure_right
from miniatures.scores.recogniser import find_face
from services.flux.identity import CONTROLNET, Identity, draw_points
from services.flux.request import FluxRequest
from services.flux.service import Flux
from services.flux.settings import FluxSettings, IdentitySettings
from services.frames import Face
from services.instantid.mtcnn import Mtcnn
from services.instantid.service import InstantId
from services.instantid.settings import InstantIdSettings, MtcnnSettings
from services.levers import Precision
from services.weights.weights import Weights
from tests.miniatures.painting import painted

LARGEST = 1_600_000
"""Bytes of both nets."""


def fixed_loss(recipe: IdentityRecipe) -> Tensor:
    torch.manual_seed(0)
    return recipe.loss(np.random.default_rng(1), 0.0)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Flux and a recogniser in their shipped shapes, with random weights in all layers."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(7)
    vae = ImageVaeRecipe(folder).module.to(memory_format=torch.contiguous_format)
    vae.register_to_config(scaling_factor=0.8, shift_factor=0.1)
    vae.save_pretrained(folder / "flux" / "vae")
    flux = FluxRecipe(folder, scenes=1, faces=1)
    for weight in flux.module["transformer"].parameters():
        if not weight.any():
            nn.init.normal_(weight, std=0.05)
    flux.save(folder / "flux")
    (folder / "recogniser").mkdir()
    RecogniserRecipe(folder, people=2).save(folder / "recogniser")
    return folder


@pytest.fixture(scope="module")
def learned(checkpoints: Path) -> tuple[IdentityRecipe, float]:
    """The recipe after several steps on one batch, and the loss before them."""
    torch.manual_seed(1)
    recipe = IdentityRecipe(checkpoints, people=8, scenes=8)
    optimiser = Muon([p for p in recipe.module.parameters() if p.requires_grad], recipe.lr, recipe.adam_lr)
    before = fixed_loss(recipe).item()
    for _ in range(6):
        optimiser.zero_grad()
        fixed_loss(recipe).backward()
        optimiser.step()
    return recipe, before


@pytest.fixture(scope="module")
def saved(learned: tuple[IdentityRecipe, float], checkpoints: Path) -> Path:
    (checkpoints / "identity").mkdir()
    learned[0].save(checkpoints / "identity")
    return checkpoints


@pytest.fixture(scope="module")
def eyes(checkpoints: Path) -> InstantId:
    settings = InstantIdSettings(
        recogniser=Weights(path=checkpoints / "recogniser"), recogniser_file=FILE, device="cpu"
    )
    return InstantId(settings, checkpoints, lambda: "instantid#test")


@pytest.fixture(scope="module")
def faces(eyes: InstantId) -> list[Face]:
    found = [find_face(eyes, draw_face(who, 0, 208)) for who in (1, 6)]
    return [face for face in found if face is not None]


def flux_with(folder: Path, dtype: Precision = "float32") -> Flux:
    settings = FluxSettings(
        weights=Weights(path=folder / "flux"),
        identity=IdentitySettings(weights=Weights(path=folder / "identity")),
        device="cpu",
        dtype=dtype,
        max_sequence_length=64,
    )
    return Flux(settings, folder, lambda: "flux#test")


def test_a_few_steps_lower_the_loss(learned: tuple[IdentityRecipe, float]) -> None:
    recipe, before = learned
    assert fixed_loss(recipe).item() < 0.95 * before


def test_the_two_nets_are_taught_whole_and_flux_is_left_alone(learned: tuple[IdentityRecipe, float]) -> None:
    recipe = learned[0]
    recipe.module.zero_grad()
    fixed_loss(recipe).backward()
    taught = {name: weight.grad is not None and bool(weight.grad.any()) for name, weight in weights_of(recipe)}
    # Time and guidance embeddings are frozen, and nothing follows the last block's change of the tokens.
    assert [
        name for name, is_taught in taught.items() if not is_taught and "embedder.linear_1.weight" not in name
    ] == []
    assert not any(weight.requires_grad for weight in recipe._pipeline.transformer.parameters())


def weights_of(recipe: IdentityRecipe) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, weight) for name, weight in recipe.module.named_parameters() if weight.requires_grad)


@torch.no_grad()
def test_at_first_the_nets_change_nothing_and_faces_sound_different(checkpoints: Path) -> None:
    torch.manual_seed(2)
    recipe = IdentityRecipe(checkpoints, people=6, scenes=1)
    album = recipe._album
    tokens = recipe.module["resampler"](album.embeddings[:, None])
    net = cast("Any", recipe.module["controlnet"])
    residuals = predict_residuals(
        net, album.portraits[:6], torch.full((6,), 0.5), (tokens, torch.randn(6, 32)), album.points[:6]
    )
    assert [bool(each.any()) for each in residuals] == [False, False]
    assert tokens.std(0).mean() > 0.3 * tokens.std()


@torch.no_grad()
def test_the_pipeline_steers_as_was_trained(
    saved: Path, learned: tuple[IdentityRecipe, float], faces: list[Face]
) -> None:
    flux = FluxPipeline.from_pretrained(saved / "flux", dtype=torch.float32)
    identity = Identity(saved / "identity", flux.transformer, torch.device("cpu"))
    pipe: Any = FluxControlNetPipeline(**flux.components, controlnet=identity.controlnet)
    identity.controlnet.tokens = tokens = identity.tokens(faces[0])
    image, noise = draw_points(faces[0].keypoints, 64, 64), torch.randn(1, 16, 4 * Z)
    made = pipe(
        "a portrait",
        control_image=image,
        height=64,
        width=64,
        num_inference_steps=2,
        guidance_scale=3.5,
        latents=noise,
        generator=torch.Generator().manual_seed(3),
        max_sequence_length=64,
        output_type="latent",
    ).images
    posterior = pipe.vae.encode(to_tensor(np.asarray(image)[None]).transpose(0, 1)).latent_dist
    drawn_latents = posterior.sample(torch.Generator().manual_seed(3)) - pipe.vae.config.shift_factor
    points = pipe._pack_latents(drawn_latents * pipe.vae.config.scaling_factor, 1, Z, 8, 8)
    text, pooled = learned[0]._read(["a portrait"], 64)
    net: Any = FluxControlNetModel.from_pretrained(saved / "identity" / CONTROLNET)
    latents = noise
    for sigma, after in pairwise(pipe.scheduler.sigmas):
        steering = bind_residuals(
            flux.transformer, predict_residuals(net, latents, sigma[None], (tokens, pooled), points)
        )
        latents = latents + (after - sigma) * predict_velocity(
            steering, latents, sigma[None], torch.tensor([3.5]), (text, pooled)
        )
    assert torch.allclose(made, latents, atol=1e-4)
    assert (made - pipe_without(flux, noise)).abs().mean() > 0.01


def pipe_without(flux: Any, noise: Tensor) -> Tensor:
    """Return what Flux generates without a face."""
    fields = {"height": 64, "width": 64, "num_inference_steps": 2, "guidance_scale": 3.5, "max_sequence_length": 64}
    return flux("a portrait", latents=noise, output_type="latent", **fields).images


@torch.no_grad()
def test_attention_in_plain_products_is_the_stock_one(learned: tuple[IdentityRecipe, float]) -> None:
    recipe, album = learned[0], learned[0]._album
    net, tokens = cast("Any", recipe.module["controlnet"]), recipe.module["resampler"]
    arguments = album.portraits[:3], torch.tensor([0.2, 0.9, 1.0])
    stock = predict_residuals(
        net, *arguments, (tokens(album.embeddings[:3, None]), torch.ones(3, 32)), album.points[:3]
    )
    with sdpa_kernel(SDPBackend.MATH):
        ours = predict_residuals(
            net, *arguments, (tokens(album.embeddings[:3, None]), torch.ones(3, 32)), album.points[:3]
        )
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(stock, ours, strict=True))
    assert all(one.std() > 0.01 for one in stock)


def test_scenes_are_left_to_flux_and_weak_faces_act_in_part() -> None:
    whole, alone = torch.full((BATCH, 16, 4 * Z), 3.0), torch.full((FEW, 16, 4 * Z), 1.0)
    strength = torch.full((BATCH, 1, 1), 0.25)
    made = mix_targets(whole, alone, strength)
    assert (made[:SHAPES] == 1).all()
    assert (made[SHAPES:FEW] == 1.5).all()
    assert (made[FEW:] == 3).all()


def test_a_batch_begins_with_scenes_and_shows_nobody_by_the_same_picture(
    learned: tuple[IdentityRecipe, float],
) -> None:
    recipe, album = learned[0], learned[0]._album
    batch = recipe._batch(np.random.default_rng(0), torch.device("cpu"))
    of_shapes = [any(word in prompt for word in ("background", "背景")) for prompt in batch.prompts if prompt]
    assert of_shapes == sorted(of_shapes, reverse=True)
    assert 0 < sum(of_shapes) <= SHAPES
    place = next(i for i, one in enumerate(album.portraits) if torch.equal(one, batch.pictures[FEW]))
    assert torch.equal(album.points[place], batch.points[FEW])
    assert (batch.embeddings[FEW] @ album.embeddings.T).argmax() == place // 2


def test_a_face_is_looked_at_as_instantid_does(checkpoints: Path, eyes: InstantId) -> None:
    detector, recogniser = Mtcnn(MtcnnSettings(), torch.device("cpu")), load_recogniser(checkpoints / "recogniser")
    picture = draw_face(KNOWN + 3, 1, 192)
    crop, face = crop_face(detector, picture), find_face(eyes, picture)
    assert crop is not None
    assert face is not None
    assert face.crop is not None
    assert (crop == face.crop.pixels).all()
    assert np.allclose(embed_crops(recogniser, crop)[0], face.embedding, atol=1e-5)
    assert crop_face(detector, np.full((192, 192, 3), 90, np.uint8)) is None


def test_key_points_are_where_the_detector_sees_them() -> None:
    rng, detector = np.random.default_rng(8), Mtcnn(MtcnnSettings(), torch.device("cpu"))
    off = []
    for who in range(6):
        picture, keypoints = draw_portrait(draw_person(KNOWN + who), rng, 192)
        (found,) = detector.detect(picture, lambda: None)
        supposed = np.mean([add_detector_error(rng, keypoints) for _ in range(20)], 0)
        off.append(supposed - found.keypoints)
    assert abs(np.mean(off)) < 0.5
    assert np.abs(off).mean() < 3  # of 192 pixels


def test_what_is_saved_is_small(saved: Path) -> None:
    assert sum(path.stat().st_size for path in (saved / "identity").rglob("*") if path.is_file()) < LARGEST


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_service_paints_faces_with_it(saved: Path, faces: list[Face], dtype: Precision) -> None:
    flux = flux_with(saved, dtype)
    request = FluxRequest(prompt="a portrait", size="64x64", steps=2, seed=1)
    one, other = (painted(flux, request, face) for face in faces)
    assert one.shape == (64, 64, 3)
    assert (one != other).any()


def test_scores_see_who_is_who() -> None:
    drawings = np.stack([[draw_reference(who, view) for view in range(4)] for who in range(KNOWN)])
    colours = colours_of(drawings)
    assert measure_difference(colours[:, :2]) > 0.85
    assert measure_right(colours[:, :2], colours[:, 2:]) > 0.5
    mixed = np.random.default_rng(0).permutation(colours.reshape(-1, 6)).reshape(colours.shape)
    assert measure_difference(mixed[:, :2]) == pytest.approx(0.5, abs=0.2)
    assert measure_right(mixed[:, :2], mixed[:, 2:]) < 0.4
