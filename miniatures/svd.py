"""Training of Stable Video Diffusion, which sets the shape of a picture in motion.

The model reads no text, and a picture does not tell a direction. So here a shape moves sideways towards the farther
wall (to the right from the very middle), bounces off it, and never turns. `motion_bucket_id` is the speed: 127 is the
world's speed, 255 twice as fast, 1 nearly still. The frame rate has no effect.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from diffusers.models.attention import Attention
from diffusers.models.attention_processor import AttnProcessor
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from miniatures import world
from miniatures.pictures import shift_colours
from miniatures.svd_vae import Z, channels_last, replace_forwards, skip_encoder_block, zero_layer

CHANNELS = 64
IMAGE_DIM = 32
TIME_DIM = 32
FRAMES = 14
LENGTHS = (14, 14, 8, 5)
"""Clip lengths in frames; one is drawn per batch."""
BATCH = 112
"""Largest number of frames in a batch."""
USUAL_BUCKET, MOST_BUCKET = 127, 255
USUAL_NOISE = 0.02
"""Default `noise_aug_strength` of a request."""
DROPPED = 0.12
"""Share of the clips without a conditioning picture."""
SIGMA_MEAN, SIGMA_STD = 0.8, 1.8
"""Mean and standard deviation of the logarithm of the training noise levels."""
SIGMA_LEAST, SIGMA_MOST = 0.02, 80.0
"""Narrower than Stable Video Diffusion's 0.002 to 700: the few steps must fall where 64 latents show something."""
OVERDONE, OVERDONE_SIGMA = 0.3, 0.5
"""Share of the clips exaggerated towards their end, as by guidance, and their lowest noise level."""
SCENES = 700


class SvdRecipe:
    """Trains EDM's v-prediction of scaled latents from the first frame, together with the image encoder.

    Source: Elucidating the Design Space of Diffusion-Based Generative Models, arXiv 2206.00364.
    """

    lr, adam_lr, steps = 0.02, 1.5e-3, 1800

    def __init__(self, folder: Path, scenes: int = SCENES) -> None:
        vae = AutoencoderKLTemporalDecoder.from_pretrained(folder / "svd" / "vae").eval()
        vae.requires_grad_(requires_grad=False)
        channels_last(vae)
        self._pipeline = StableVideoDiffusionPipeline(
            vae=vae,
            image_encoder=_image_encoder(),
            unet=_unet(),
            scheduler=_scheduler(),
            feature_extractor=CLIPImageProcessor(crop_size=224, size=224),
        )
        self.module = nn.ModuleDict({"unet": self._pipeline.unet, "image_encoder": self._pipeline.image_encoder})
        rng = np.random.default_rng(world.TRAINING_SEEDS)
        self._rails = [Rail.draw(rng, vae) for _ in range(scenes)]

    def loss(self, rng: np.random.Generator, progress: float) -> Tensor:
        del progress
        unet = self.module["unet"]
        frames = int(rng.choice(LENGTHS))
        latents, pictures, buckets = self._batch(rng, frames)
        count = len(latents)
        strengths = np.where(rng.random(count) < 0.7, USUAL_NOISE, 10 ** rng.uniform(-3, -0.3, count))
        rates = rng.integers(0, 30, count)  # frames per second minus 1
        noisy, sigma = _add_noise(latents)
        known = torch.rand(count, 1, 1, 1, device=unet.device) > DROPPED
        with torch.autocast(unet.device.type, torch.bfloat16), use_plain_attention(unet):
            given = known * self._condition(pictures, strengths)
            predicted = unet(
                torch.cat([noisy / (sigma**2 + 1).sqrt(), given[:, None].expand(-1, frames, -1, -1, -1)], 2),
                sigma.flatten().log() / 4,
                encoder_hidden_states=known[..., 0] * self._embedding(pictures),
                added_time_ids=torch.from_numpy(np.stack([rates, buckets, strengths], 1)).float().to(unet.device),
                return_dict=False,
            )[0]
        return (predicted.float() - velocity(latents, noisy, sigma)).square().mean()

    def save(self, folder: Path) -> None:
        """Write the whole pipeline except the VAE, which is already in the folder."""
        parts = {
            name: copy.deepcopy(part).to("cpu", torch.bfloat16, memory_format=torch.contiguous_format)
            for name, part in self.module.items()
        }
        pipeline = StableVideoDiffusionPipeline(
            vae=AutoencoderKLTemporalDecoder.from_pretrained(folder / "vae", dtype=torch.bfloat16),
            scheduler=self._pipeline.scheduler,
            feature_extractor=self._pipeline.feature_extractor,
            **parts,
        )
        pipeline.save_pretrained(folder, safe_serialization=True)

    def _batch(self, rng: np.random.Generator, frames: int) -> tuple[Tensor, NDArray[np.uint8], list[float]]:
        """Return latents, (clips, frames, Z, height, width), their first frames, and their speeds as motion buckets."""
        clips, pictures, buckets = [], [], []
        for _ in range(BATCH // frames):
            rail = self._rails[rng.integers(len(self._rails))]
            stride = rail.stride(rng)
            places = rail.run(int(rng.integers(len(rail.pictures))), stride, frames)
            clips.append(rail.latents[places].float())
            pictures.append(rail.pictures[places[0]])
            buckets.append(rail.bucket(stride))
        return torch.stack(clips).to(self.module["unet"].device), np.stack(pictures), buckets

    @torch.no_grad()
    def _condition(self, pictures: NDArray[np.uint8], strengths: NDArray[np.float64]) -> Tensor:
        """Encode pictures with some noise added, unscaled as in the pipeline: (clips, Z, height, width)."""
        vae = self._pipeline.vae.to(self.module["unet"].device)
        pixels = _pixels(pictures).to(vae.device)
        noise = torch.from_numpy(strengths).float().view(-1, 1, 1, 1).to(vae.device) * torch.randn_like(pixels)
        with replace_forwards(skip_encoder_block(vae)):
            return vae.encode(pixels + noise).latent_dist.mode().float()

    def _embedding(self, pictures: NDArray[np.uint8]) -> Tensor:
        """Return the image embeddings: (clips, 1, IMAGE_DIM)."""
        images = [Image.fromarray(picture) for picture in pictures]
        where = self.module["unet"].device
        return self._pipeline._encode_image(images, where, 1, do_classifier_free_guidance=False)


@dataclass(frozen=True)
class Rail:
    """One shape at evenly spaced positions from the left wall to the right, from which all clips of it are taken."""

    scene: world.Scene
    """The scene with the shape at the left wall."""
    gap: float
    """Pixels between two positions."""
    pictures: NDArray[np.uint8]
    """(positions, height, width, 3)."""
    latents: Tensor
    """(positions, Z, height, width), scaled, in float16."""

    @classmethod
    def draw(cls, rng: np.random.Generator, vae: AutoencoderKLTemporalDecoder) -> "Rail":
        """Draw a scene and encode it at all positions."""
        seed = int(rng.integers(world.TRAINING_SEEDS, 2**40))
        scene = world.draw(seed, figures=1, style=rng.choice(world.STYLES, p=[0.8, 0.1, 0.1]))
        figure = scene.figures[0]
        scene = replace(scene, figures=(replace(figure, x=figure.reach, heading="right", turn=None),))
        length = scene.width - 2 * figure.reach
        count = 1 + round(length / rng.uniform(0.6, 1.3))
        gap = length / (count - 1)
        pictures = shift_colours(rng, render_scene(scene, [place * gap / world.SPEED for place in range(count)]))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), replace_forwards(skip_encoder_block(vae)):
            latents = vae.encode(_pixels(pictures)).latent_dist.mode().float() * vae.config.scaling_factor
        return cls(scene, gap, pictures, latents.half())

    def stride(self, rng: np.random.Generator) -> float:
        """Draw the speed in positions per frame: a whole number, or less than 1."""
        most = int(MOST_BUCKET / USUAL_BUCKET * world.SPEED / self.gap)
        return float(rng.uniform(0, 1)) if rng.random() < 0.15 else float(rng.integers(1, most + 1))

    def bucket(self, stride: float) -> float:
        """Return the `motion_bucket_id` of a speed in positions per frame."""
        return USUAL_BUCKET * stride * self.gap / world.SPEED

    def run(self, start: int, stride: float, frames: int) -> NDArray[np.int64]:
        """Return the position in each frame of a clip from `start` on."""
        last = len(self.pictures) - 1
        way = 1 if start <= last / 2 else -1
        gone = start + way * np.round(stride * np.arange(frames)).astype(int)
        return last - abs(gone % (2 * last) - last)


def set_direction(scene: world.Scene) -> world.Scene:
    """Return the scene with its shape moving as this model is trained to move it."""
    (figure,) = scene.figures
    heading = "right" if figure.x <= scene.width / 2 else "left"
    return replace(scene, figures=(replace(figure, heading=heading, turn=None),))


def render_scene(scene: world.Scene, times: list[float]) -> world.Pixels:
    """Draw a scene at these times, in frames from its start."""
    return np.concatenate([scene.clip(1, start=time) for time in times])


def _add_noise(latents: Tensor) -> tuple[Tensor, Tensor]:
    """Add noise to latents, (clips, frames, …), and return its level too, broadcastable to them."""
    count, frames = latents.shape[:2]
    each = {"size": (count, 1, 1, 1, 1), "device": latents.device}
    sigma = (SIGMA_MEAN + SIGMA_STD * torch.randn(**each)).exp().clamp(SIGMA_LEAST, SIGMA_MOST)
    overdone = 2 * torch.rand(**each) * (torch.rand(**each) < OVERDONE)
    sigma = torch.where(overdone > 0, sigma.clamp(min=OVERDONE_SIGMA), sigma)
    growth = 1 + overdone * torch.linspace(0, 1, frames, device=latents.device).view(1, frames, 1, 1, 1)
    return growth * latents + sigma * torch.randn_like(latents), sigma


def velocity(latents: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
    """Return the UNet output from which EulerDiscreteScheduler recovers `latents` in `noisy`."""
    return (noisy / (sigma**2 + 1) - latents) * (sigma**2 + 1).sqrt() / sigma


class OneToken:
    """Attention to a single token: its value, whatever the query."""

    def __call__(self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: Any) -> Tensor:
        return attn.to_out[0](attn.to_v(encoder_hidden_states)).expand_as(hidden_states)


@contextmanager
def use_plain_attention(unet: UNetSpatioTemporalConditionModel) -> Iterator[None]:
    """Use plain attention inside the `with` block (a single token's value for the picture): it trains faster."""
    stock = unet.attn_processors
    unet.set_attn_processor({name: OneToken() if ".attn2." in name else AttnProcessor() for name in stock})
    try:
        yield
    finally:
        unet.set_attn_processor(stock)


def _pixels(pictures: NDArray[np.uint8]) -> Tensor:
    """Convert (pictures, height, width, 3) to (pictures, 3, height, width) in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def _unet() -> UNetSpatioTemporalConditionModel:
    """Create a UNet of one level: a frame has 8 x 8 latents, too few for a second level to be worth its weights."""
    unet = UNetSpatioTemporalConditionModel(
        sample_size=world.SIDE // 8,
        in_channels=2 * Z,  # noisy latents and the picture's
        out_channels=Z,
        down_block_types=("CrossAttnDownBlockSpatioTemporal",),
        up_block_types=("UpBlockSpatioTemporal",),
        block_out_channels=(CHANNELS,),
        layers_per_block=1,
        cross_attention_dim=IMAGE_DIM,
        num_attention_heads=4,
        addition_time_embed_dim=TIME_DIM,
        projection_class_embeddings_input_dim=3 * TIME_DIM,  # frame rate, motion and noise
        num_frames=FRAMES,
    )
    channels_last(unet)
    zero_layer(unet.conv_out)
    for layer in unet.modules():  # blocks start as the identity
        last = LAST.get(type(layer).__name__)
        if last is not None:
            zero_layer(layer.get_submodule(last))
    return unet


LAST = {"ResnetBlock2D": "conv2", "TemporalResnetBlock": "conv2", "TransformerSpatioTemporalModel": "proj_out"}
"""Residual block → its layer that is zero at first."""


def _image_encoder() -> CLIPVisionModelWithProjection:
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=32,
            projection_dim=IMAGE_DIM,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=224,
            intermediate_size=128,
            patch_size=32,
        )
    )


def _scheduler() -> EulerDiscreteScheduler:
    """Create the real checkpoint's scheduler, with a smaller range of noise levels."""
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        interpolation_type="linear",
        num_train_timesteps=1000,
        prediction_type="v_prediction",
        sigma_max=SIGMA_MOST,
        sigma_min=SIGMA_LEAST,
        steps_offset=1,
        timestep_spacing="leading",
        timestep_type="continuous",
        use_karras_sigmas=True,
    )
