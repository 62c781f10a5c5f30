"""Training of the nets that keep a face's identity in Flux: its embedding becomes tokens that a ControlNet attends to.

Source: InfiniteYou: Flexible Photo Recrafting While Preserving Your Identity, arXiv 2503.16418.
"""

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diffusers import AutoencoderKL, FluxControlNetModel, FluxPipeline, FluxTransformer2DModel
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from miniatures import world
from miniatures.faces import KNOWN, Person, draw_person, draw_portrait
from miniatures.flux import (
    FAST,
    LENGTHS,
    draw_guidance,
    draw_prompt,
    draw_sigmas,
    encode_pictures,
    encode_scenes,
    limit_frequencies,
    predict_velocity,
)
from miniatures.recogniser import FILE, SEEN_AT, SEEN_WITHIN, prepare_crops
from miniatures.recogniser import PEOPLE as RECOGNISED
from miniatures.world import SIDE
from services.errors import InvalidParameter
from services.flux.identity import CONTROLNET, GUIDANCE, PROJECTION, Resampler, draw_points
from services.frames import Features, Frames, Pixels
from services.instantid.arcface import ArcFace, from_weights
from services.instantid.faces import choose_face
from services.instantid.geometry import aligned, similarity
from services.instantid.mtcnn import Mtcnn
from services.instantid.request import Requirements
from services.instantid.settings import MtcnnSettings

FIRST = KNOWN + RECOGNISED
"""Number of the first person in the training set. The recogniser was not trained on them, as on no user."""
PEOPLE, VIEWS = 1600, 2
"""Number of people, and of portraits of each besides the photograph that identifies them."""
PHOTO = (160, 224)
"""Range of the side of that photograph, in pixels."""
SCENES = 400
BATCH = 48
SHAPES, WEAK = 6, 6
"""Part of a batch: scenes, which a face must not affect, and portraits with a reduced identity strength."""
FEW = SHAPES + WEAK
USUAL_GUIDANCE = 3.5
QUERIES, DIM = 8, 64
BLOCKS = 2
ROUGHNESS = 0.02
"""Standard deviation of the noise on embeddings, so that no person is memorised."""
LOUD = 4.0
"""Initial scale of a face relative to the learnt queries, which attend to both."""


@dataclass(frozen=True)
class Album:
    """VIEWS portraits of each person in turn, and the embeddings that identify them."""

    portraits: Tensor
    """(pictures, 16, 4 Z), latents in packed 2 x 2 patches."""
    points: Tensor
    """(pictures, 16, 4 Z), latents of the drawn key points."""
    embeddings: Tensor
    """(people, 512), each from another picture of the person."""


@dataclass(frozen=True)
class Batch:
    """Input of one training step: SHAPES scenes, then portraits, the first WEAK of them at reduced strength."""

    pictures: Tensor
    """(BATCH, 16, 4 Z), latents."""
    prompts: list[str]
    embeddings: Tensor
    """(BATCH, 512), for scenes too."""
    points: Tensor
    """(BATCH, 16, 4 Z), latents of the drawn key points."""


class IdentityRecipe:
    """Trains a ControlNet and a resampler by flow matching through Flux, whose weights are frozen."""

    lr, adam_lr, steps = 0.02, 1e-3, 2000

    def __init__(self, folder: Path, people: int = PEOPLE, scenes: int = SCENES) -> None:
        self._pipeline = FluxPipeline.from_pretrained(folder / "flux", dtype=torch.float32)
        self._pipeline.set_progress_bar_config(disable=True)
        flux, vae = self._pipeline.transformer, self._pipeline.vae
        for net in (flux, self._pipeline.text_encoder, self._pipeline.text_encoder_2):
            net.requires_grad_(requires_grad=False)
        self._album = draw_album(vae, load_recogniser(folder / "recogniser"), people)
        self._scenes = [world.draw(3 * world.TRAINING_SEEDS + index, figures=1) for index in range(scenes)]
        self._shapes = encode_scenes(vae, self._scenes)
        self.module = nn.ModuleDict(
            {
                "controlnet": make_controlnet(flux),
                "resampler": make_resampler(flux.config.joint_attention_dim, self._album.embeddings.mean(0)),
            }
        )

    def loss(self, rng: np.random.Generator, progress: float) -> Tensor:
        del progress
        device = next(self.module.parameters()).device
        flux = self._pipeline.to(device).transformer
        batch = self._batch(rng, device)
        read = self._read(batch.prompts, int(rng.choice(list(LENGTHS), p=list(LENGTHS.values()))))
        sigma = draw_sigmas(BATCH)[torch.randperm(BATCH)].to(device)  # they come sorted, and so does the batch
        guidance = torch.where(torch.rand(BATCH) < 0.5, USUAL_GUIDANCE, draw_guidance(BATCH)).to(device)
        strength = torch.cat([torch.ones(SHAPES), torch.rand(WEAK), torch.ones(BATCH - FEW)]).to(device)[:, None, None]
        noise = torch.randn(batch.pictures.shape).to(device)
        noisy = torch.lerp(batch.pictures, noise, sigma[:, None, None])
        with torch.autocast(device.type, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            with torch.no_grad():
                alone = predict_velocity(flux, noisy[:FEW], sigma[:FEW], guidance[:FEW], (read[0][:FEW], read[1][:FEW]))
            tokens = self.module["resampler"](batch.embeddings[:, None])
            residuals = predict_residuals(self.module["controlnet"], noisy, sigma, (tokens, read[1]), batch.points)
            predicted = predict_velocity(
                bind_residuals(flux, [each * strength for each in residuals]), noisy, sigma, guidance, read
            )
        return nn.functional.mse_loss(predicted, mix_targets(noise - batch.pictures, alone, strength))

    def save(self, folder: Path) -> None:
        """Write both nets into `folder`, in the layout of InfiniteYou."""
        nets = copy.deepcopy(self.module).cpu().to(torch.bfloat16).eval()
        cast("FluxControlNetModel", nets["controlnet"]).save_pretrained(folder / CONTROLNET)
        save_file(nets["resampler"].state_dict(), folder / PROJECTION)

    def _batch(self, rng: np.random.Generator, device: torch.device) -> "Batch":
        album = self._album
        chosen = rng.integers(len(album.portraits), size=BATCH)
        scenes = rng.integers(len(self._scenes), size=SHAPES).tolist()
        known = {place: self._scenes[index] for place, index in enumerate(scenes)}
        embeddings = album.embeddings[chosen // VIEWS]
        return Batch(
            pictures=torch.cat([self._shapes[scenes], album.portraits[chosen[SHAPES:]]]).to(device),
            prompts=[draw_prompt(rng, known.get(place)) for place in range(BATCH)],
            embeddings=(embeddings + ROUGHNESS * torch.randn_like(embeddings)).to(device),
            points=album.points[chosen].to(device),
        )

    @torch.no_grad()
    def _read(self, prompts: list[str], length: int) -> tuple[Tensor, Tensor]:
        text, pooled, _ = self._pipeline.encode_prompt(
            prompts, max_sequence_length=length, device=self._pipeline.transformer.device
        )
        return text, pooled


def mix_targets(whole: Tensor, alone: Tensor, strength: Tensor) -> Tensor:
    """Return the target velocities: Flux's own for scenes, a mix by strength for weak portraits, the true ones else.

    Args:
        whole: (BATCH, 16, 4 Z), true velocities from picture to noise.
        alone: (FEW, 16, 4 Z), velocities that Flux predicts without the ControlNet.
        strength: (BATCH, 1, 1), from 0 to 1.
    """
    part = torch.lerp(alone[SHAPES:], whole[SHAPES:FEW], strength[SHAPES:FEW])
    return torch.cat([alone[:SHAPES], part, whole[FEW:]])


def predict_residuals(
    net: FluxControlNetModel, noisy: Tensor, sigma: Tensor, read: tuple[Tensor, Tensor], points: Tensor
) -> list[Tensor]:
    """Call the ControlNet as the pipeline and `IdentityControlNet` do.

    Args:
        net: the ControlNet.
        noisy: (n, 16, 4 Z), noisy latents.
        sigma: (n,), noise level.
        read: face tokens from the `Resampler`, and the prompts' pooled embeddings from CLIP.
        points: (n, 16, 4 Z), latents of the drawn key points.
    """
    tokens, pooled = read
    side = round(noisy.shape[1] ** 0.5)
    return net(
        hidden_states=noisy,
        controlnet_cond=points,
        encoder_hidden_states=tokens,
        pooled_projections=pooled,
        timestep=sigma,
        guidance=torch.full_like(sigma, GUIDANCE),
        txt_ids=torch.zeros(tokens.shape[1], 3, device=noisy.device),
        img_ids=FluxPipeline._prepare_latent_image_ids(1, side, side, noisy.device, torch.float32),
        return_dict=False,
    )[1]


def bind_residuals(flux: FluxTransformer2DModel, residuals: list[Tensor]) -> FluxTransformer2DModel:
    """Return the transformer with the residuals of the ControlNet bound to it."""
    return cast("Any", partial(flux, controlnet_single_block_samples=residuals))


@torch.no_grad()
def make_controlnet(flux: FluxTransformer2DModel) -> FluxControlNetModel:
    """Create a ControlNet as wide as the transformer, of single blocks only: half of a double one would be unused.

    Its blocks start as the identity.
    """
    config: Any = flux.config
    net: Any = FluxControlNetModel(
        in_channels=config.in_channels,
        num_layers=0,
        num_single_layers=BLOCKS,
        attention_head_dim=config.attention_head_dim,
        num_attention_heads=config.num_attention_heads,
        joint_attention_dim=config.joint_attention_dim,
        pooled_projection_dim=config.pooled_projection_dim,
        guidance_embeds=True,
        axes_dims_rope=config.axes_dims_rope,
    )
    for block in net.single_transformer_blocks:
        for layer in (block.proj_out, block.norm.linear):
            layer.weight.zero_()
            layer.bias.zero_()
        block.norm.linear.bias.view(3, -1)[2] = 1.0  # after shift and scale: the gate starts at 1
    net.controlnet_x_embedder.reset_parameters()  # zero outputs are enough; its input need not be zero too
    limit_frequencies(net.time_text_embed.timestep_embedder, FAST[0])
    limit_frequencies(net.time_text_embed.guidance_embedder, FAST[1])
    return net


@torch.no_grad()
def make_resampler(width: int, usual: Tensor) -> Resampler:
    """Create a resampler to tokens of `width`, initialised to the difference from the mean face `usual`, (512,)."""
    net: Any = Resampler(dim=DIM, depth=1, heads=1, queries=QUERIES, output_dim=width)
    net.proj_in.bias.copy_(-net.proj_in.weight @ usual)
    net.layers[0][0].norm1.weight.fill_(LOUD)
    return net


def draw_album(vae: AutoencoderKL, recogniser: ArcFace, people: int) -> Album:
    """Draw people and encode them as InstantID and Flux do. People whom the detector does not find are skipped."""
    rng = np.random.default_rng(FIRST)
    crops: list[Pixels] = []
    portraits: list[Pixels] = []
    points: list[Pixels] = []
    for who, crop in itertools.islice(_photograph_people(rng), people):
        crops.append(crop)
        for _ in range(VIEWS):
            picture, keypoints = draw_portrait(who, rng, SIDE)
            portraits.append(picture)
            points.append(np.asarray(draw_points(add_detector_error(rng, keypoints), SIDE, SIDE)))
    return Album(
        portraits=encode_pictures(vae, np.stack(portraits)),
        points=encode_pictures(vae, np.stack(points)),
        embeddings=embed_crops(recogniser, np.concatenate(crops)),
    )


def _photograph_people(rng: np.random.Generator) -> Iterator[tuple[Person, Pixels]]:
    """Yield people with an aligned crop of a photograph, (1, 112, 112, 3) uint8 RGB."""
    detector = Mtcnn(MtcnnSettings(), torch.device("cpu"))
    for identity in itertools.count(FIRST):
        who = draw_person(identity)
        picture = draw_portrait(who, rng, int(rng.integers(*PHOTO)))[0]
        crop = crop_face(detector, picture)
        if crop is not None:
            yield who, crop


def crop_face(detector: Mtcnn, picture: NDArray[np.uint8]) -> Pixels | None:
    """Return the aligned face of a picture, (1, 112, 112, 3) uint8 RGB, or None if InstantID would reject it."""
    try:
        found, _ = choose_face(detector.detect(picture, lambda: None), Frames(picture[None]), Requirements())
    except InvalidParameter:
        return None
    return aligned(picture, found.keypoints)


def add_detector_error(rng: np.random.Generator, keypoints: Features) -> Features:
    """Return key points, (5, 2) in pixels, with the error of MTCNN, which finds nothing in pictures this small."""
    enlarged = np.sqrt(np.linalg.det(similarity(keypoints)[:2, :2]))
    return (keypoints + (SEEN_AT + rng.normal(0, SEEN_WITHIN, (5, 2))) / enlarged).astype(np.float32)


def load_recogniser(folder: Path) -> ArcFace:
    """Load the recogniser from `folder`."""
    return from_weights(load_file(folder / FILE)).float()


@torch.no_grad()
def embed_crops(recogniser: ArcFace, crops: Pixels) -> Tensor:
    """Return the embeddings of aligned crops: (n, 112, 112, 3) uint8 RGB → (n, 512)."""
    return torch.cat([recogniser(prepare_crops(part)) for part in torch.from_numpy(crops).split(64)])
