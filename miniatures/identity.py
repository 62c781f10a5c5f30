"""The nets that hold a face's identity in Flux: its embedding becomes tokens, and a ControlNet attends to them.

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
from miniatures.faces import KNOWN, Person, drawn, person
from miniatures.flux import FAST, LENGTHS, encoded, guidances, latents_of, prompt_of, sigmas, slow, velocity
from miniatures.recogniser import FILE, SEEN_AT, SEEN_WITHIN, as_read
from miniatures.recogniser import PEOPLE as RECOGNISED
from miniatures.world import SIDE
from services.errors import InvalidParameter
from services.flux.identity import CONTROLNET, GUIDANCE, PROJECTION, Resampler, drawn_points
from services.frames import Features, Frames, Pixels
from services.instantid.arcface import ArcFace, from_weights
from services.instantid.faces import choose_face, fractions
from services.instantid.geometry import aligned, similarity
from services.instantid.mtcnn import Mtcnn
from services.instantid.request import Requirements
from services.instantid.settings import MtcnnSettings

FIRST = KNOWN + RECOGNISED
"""The first of the people that are learnt from: the recogniser has seen none of them, as it will have seen no user."""
PEOPLE, VIEWS = 1600, 2
"""How many, and how many pictures there are of each beside the one that shows who it is."""
PHOTO = (160, 224)
"""Pixels of that one."""
SCENES = 400
BATCH = 48
SHAPES, WEAK = 6, 6
"""Of a batch: prompts of shapes, which a face shall not disturb, and faces that act less than fully."""
FEW = SHAPES + WEAK
USUAL_GUIDANCE = 3.5
QUERIES, DIM = 8, 64
BLOCKS = 2
ROUGHNESS = 0.02
"""How far the numbers of an embedding are moved, so that nobody is learnt by heart."""
LOUD = 4.0
"""How much louder a face is than the tokens' own beginnings, to which they listen too."""


@dataclass(frozen=True)
class Album:
    """Pictures of many people, VIEWS of each in turn, and who they are."""

    portraits: Tensor
    """(pictures, 16, 4 Z), latents in patches as the transformer has them."""
    points: Tensor
    """As many, of the drawn key points."""
    embeddings: Tensor
    """(people, 512), of another picture of each."""


@dataclass(frozen=True)
class Batch:
    """What a step learns from: SHAPES scenes, then portraits, of which the first WEAK ones shall be so in part."""

    pictures: Tensor
    """(BATCH, 16, 4 Z), latents."""
    prompts: list[str]
    embeddings: Tensor
    """(BATCH, 512), also with the scenes."""
    points: Tensor
    """(BATCH, 16, 4 Z), latents."""


class IdentityRecipe:
    """Flow matching through Flux, which stays as it is: whose face it is, and where, is for the ControlNet to say."""

    lr, adam_lr, steps = 0.02, 1e-3, 2000

    def __init__(self, folder: Path, people: int = PEOPLE, scenes: int = SCENES) -> None:
        self._pipeline = FluxPipeline.from_pretrained(folder / "flux", dtype=torch.float32)
        self._pipeline.set_progress_bar_config(disable=True)
        flux, vae = self._pipeline.transformer, self._pipeline.vae
        for net in (flux, self._pipeline.text_encoder, self._pipeline.text_encoder_2):
            net.requires_grad_(requires_grad=False)
        self._album = album(vae, recogniser_in(folder / "recogniser"), people)
        self._scenes = [world.draw(3 * world.TRAINING_SEEDS + index, figures=1) for index in range(scenes)]
        self._shapes = latents_of(vae, self._scenes)
        self.module = nn.ModuleDict(
            {
                "controlnet": controlnet(flux),
                "resampler": resampler(flux.config.joint_attention_dim, self._album.embeddings.mean(0)),
            }
        )

    def loss(self, rng: np.random.Generator, progress: float) -> Tensor:
        del progress
        device = next(self.module.parameters()).device
        flux = self._pipeline.to(device).transformer
        batch = self._batch(rng, device)
        read = self._read(batch.prompts, int(rng.choice(list(LENGTHS), p=list(LENGTHS.values()))))
        sigma = sigmas(BATCH)[torch.randperm(BATCH)].to(device)  # they come sorted, and the batch has an order too
        guidance = torch.where(torch.rand(BATCH) < 0.5, USUAL_GUIDANCE, guidances(BATCH)).to(device)
        strength = torch.cat([torch.ones(SHAPES), torch.rand(WEAK), torch.ones(BATCH - FEW)]).to(device)[:, None, None]
        noise = torch.randn(batch.pictures.shape).to(device)
        noisy = torch.lerp(batch.pictures, noise, sigma[:, None, None])
        with torch.autocast(device.type, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            with torch.no_grad():
                alone = velocity(flux, noisy[:FEW], sigma[:FEW], guidance[:FEW], (read[0][:FEW], read[1][:FEW]))
            tokens = self.module["resampler"](batch.embeddings[:, None])
            said = residuals(self.module["controlnet"], noisy, sigma, (tokens, read[1]), batch.points)
            made = velocity(steered(flux, [each * strength for each in said]), noisy, sigma, guidance, read)
        return nn.functional.mse_loss(made, wanted(noise - batch.pictures, alone, strength))

    def save(self, folder: Path) -> None:
        """Write both nets into `folder`, as InfiniteYou's lie."""
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
            prompts=[prompt_of(rng, known.get(place)) for place in range(BATCH)],
            embeddings=(embeddings + ROUGHNESS * torch.randn_like(embeddings)).to(device),
            points=album.points[chosen].to(device),
        )

    @torch.no_grad()
    def _read(self, prompts: list[str], length: int) -> tuple[Tensor, Tensor]:
        said, pooled, _ = self._pipeline.encode_prompt(
            prompts, max_sequence_length=length, device=self._pipeline.transformer.device
        )
        return said, pooled


def wanted(whole: Tensor, alone: Tensor, strength: Tensor) -> Tensor:
    """Return what shall be made: for scenes what Flux makes alone, for portraits as much of the whole as they act.

    Args:
        whole: (BATCH, 16, 4 Z), the velocities from the pictures to the noise.
        alone: (FEW, 16, 4 Z), what Flux makes of the first ones.
        strength: (BATCH, 1, 1).
    """
    part = torch.lerp(alone[SHAPES:], whole[SHAPES:FEW], strength[SHAPES:FEW])
    return torch.cat([alone[:SHAPES], part, whole[FEW:]])


def residuals(
    net: FluxControlNetModel, noisy: Tensor, sigma: Tensor, read: tuple[Tensor, Tensor], points: Tensor
) -> list[Tensor]:
    """Call the ControlNet as the pipeline and `IdentityControlNet` do.

    Args:
        net: it.
        noisy: (n, 16, 4 Z).
        sigma: (n,), how much of it is noise.
        read: what `Resampler` makes of the faces, and CLIP of the prompts.
        points: (n, 16, 4 Z), the latents of the drawn key points.
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


def steered(flux: FluxTransformer2DModel, said: list[Tensor]) -> FluxTransformer2DModel:
    """The transformer, while the ControlNet speaks to it."""
    return cast("Any", partial(flux, controlnet_single_block_samples=said))


@torch.no_grad()
def controlnet(flux: FluxTransformer2DModel) -> FluxControlNetModel:
    """As wide as the transformer, of single blocks alone: in a double one half of the weights would be for nothing.

    Its blocks change nothing before they have learnt to.
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
        block.norm.linear.bias.view(3, -1)[2] = 1.0  # after shift and scale: the gate is open
    net.controlnet_x_embedder.reset_parameters()  # what leaves the net is zero, that is enough
    slow(net.time_text_embed.timestep_embedder, FAST[0])
    slow(net.time_text_embed.guidance_embedder, FAST[1])
    return net


@torch.no_grad()
def resampler(width: int, usual: Tensor) -> Resampler:
    """Makes tokens of `width`; what it begins with is how a face differs from the `usual` one, (512,)."""
    net: Any = Resampler(dim=DIM, depth=1, heads=1, queries=QUERIES, output_dim=width)
    net.proj_in.bias.copy_(-net.proj_in.weight @ usual)
    net.layers[0][0].norm1.weight.fill_(LOUD)
    return net


def album(vae: AutoencoderKL, recogniser: ArcFace, people: int) -> Album:
    """Draw people, and look at them as InstantID and Flux do. Whom the detector does not see is passed over."""
    rng = np.random.default_rng(FIRST)
    crops: list[Pixels] = []
    portraits: list[Pixels] = []
    points: list[Pixels] = []
    for who, crop in itertools.islice(_photographed(rng), people):
        crops.append(crop)
        for _ in range(VIEWS):
            picture, keypoints = drawn(who, rng, SIDE)
            portraits.append(picture)
            seen = fractions(as_seen(rng, keypoints), SIDE, SIDE)
            points.append(np.asarray(drawn_points(seen, SIDE, SIDE)))
    return Album(
        portraits=encoded(vae, np.stack(portraits)),
        points=encoded(vae, np.stack(points)),
        embeddings=embedded(recogniser, np.concatenate(crops)),
    )


def _photographed(rng: np.random.Generator) -> Iterator[tuple[Person, Pixels]]:
    """Everybody who is learnt from, with an aligned crop of a picture, (1, 112, 112, 3) uint8 RGB."""
    detector = Mtcnn(MtcnnSettings(), torch.device("cpu"))
    for identity in itertools.count(FIRST):
        who = person(identity)
        picture = drawn(who, rng, int(rng.integers(*PHOTO)))[0]
        crop = cut_out(detector, picture)
        if crop is not None:
            yield who, crop


def cut_out(detector: Mtcnn, picture: NDArray[np.uint8]) -> Pixels | None:
    """The face in a picture, as InstantID takes it: (1, 112, 112, 3) uint8 RGB, or None where it takes none."""
    try:
        found, _ = choose_face(detector.detect(picture, lambda: None), Frames(picture[None]), Requirements())
    except InvalidParameter:
        return None
    return aligned(picture, found.keypoints)


def as_seen(rng: np.random.Generator, keypoints: Features) -> Features:
    """Where MTCNN might see true key points, (5, 2) pixels; in pictures so small it would see none."""
    enlarged = np.sqrt(np.linalg.det(similarity(keypoints)[:2, :2]))
    return (keypoints + (SEEN_AT + rng.normal(0, SEEN_WITHIN, (5, 2))) / enlarged).astype(np.float32)


def recogniser_in(folder: Path) -> ArcFace:
    """Load it."""
    return from_weights(load_file(folder / FILE)).float()


@torch.no_grad()
def embedded(recogniser: ArcFace, crops: Pixels) -> Tensor:
    """(n, 112, 112, 3) uint8 RGB → (n, 512)."""
    return torch.cat([recogniser(as_read(part)) for part in torch.from_numpy(crops).split(64)])
