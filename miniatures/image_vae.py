"""Training of the image VAE that Flux and HunyuanDiT share."""

import copy
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from miniatures.faces import KNOWN, draw_face
from miniatures.judge import Picture
from miniatures.pictures import to_tensor
from miniatures.wan_vae import draw_batch, reconstruction
from miniatures.world import SIDE, TRAINING_SEEDS

Z = 8
WIDTHS = (16, 32, 64, 64)
BATCH = 12
PORTRAITS = 0.25
"""Share of drawn faces among the training pictures."""
KL = 1e-5
CENTRE = 0.01
"""Weight of the penalty on each latent channel's mean: HunyuanDiT's pipeline supports no shift."""
JOINT = 0.6
"""Training progress (0 to 1) from which the encoder is frozen."""
ROUGHNESS = 0.15
"""Noise on the latents once the encoder is frozen, relative to their standard deviation."""
MEASURED = 512
"""Number of pictures from which the scale of the latents is measured."""


class ImageVaeRecipe:
    """Trains by reconstruction loss with a term for edges and KL; then the decoder alone, from noisy latents."""

    lr, adam_lr, steps = 0.04, 1e-3, 3800

    def __init__(self, folder: Path) -> None:
        del folder  # the VAE needs no other checkpoint
        self.module = vae = AutoencoderKL(
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=WIDTHS,
            layers_per_block=1,
            latent_channels=Z,
            norm_num_groups=8,
            sample_size=64,
            use_quant_conv=False,
            use_post_quant_conv=False,
            force_upcast=False,
        ).to(memory_format=torch.channels_last)
        vae.set_attn_processor(AttnProcessor())  # the backward pass of the fused kernel is slow on a CPU
        for layer in vae.modules():  # blocks start as the identity
            last = {"ResnetBlock2D": "conv2", "Attention": "to_out.0"}.get(type(layer).__name__)
            if last is not None:
                nn.init.zeros_(layer.get_submodule(last).weight)
                nn.init.zeros_(layer.get_submodule(last).bias)
        nn.init.constant_(vae.encoder.conv_out.bias[Z:], -4.0)  # small at first: its noise would hide the picture

    def loss(self, rng: np.random.Generator, progress: float) -> Tensor:
        vae, frozen = self.module, progress >= JOINT
        batch = draw_pictures(rng, BATCH, PORTRAITS).to(next(vae.parameters()).device)
        with torch.autocast(batch.device.type, torch.bfloat16):
            with torch.set_grad_enabled(not frozen):
                posterior = vae.encode(batch).latent_dist
            mean, logvar = posterior.mean.float(), posterior.logvar.float()
            latents = mean + torch.randn_like(mean) * (0.5 * logvar).exp()
            if frozen:
                rough = ROUGHNESS * mean.square().mean().sqrt() * torch.rand(BATCH, 1, 1, 1, device=mean.device)
                latents = latents + rough * torch.randn_like(latents)
            result = vae.decode(latents).sample
        error = reconstruction(result.float(), batch)
        if frozen:
            return error
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(1).mean()
        return error + KL * kl + CENTRE * mean.mean((0, 2, 3)).square().sum()

    def save(self, folder: Path) -> None:
        """Write `folder/vae`, with the scale that gives the latents a standard deviation of 1."""
        vae = copy.deepcopy(self.module).cpu().to(memory_format=torch.contiguous_format)
        rng = np.random.default_rng(TRAINING_SEEDS)
        with torch.no_grad():
            means = [vae.encode(draw_pictures(rng, 32, PORTRAITS)).latent_dist.mean for _ in range(MEASURED // 32)]
        scale = 1 / torch.cat(means).square().mean().sqrt().item()
        vae.register_to_config(scaling_factor=round(scale, 4), shift_factor=0.0)
        vae.to(torch.bfloat16).save_pretrained(folder / "vae")


def draw_pictures(rng: np.random.Generator, count: int, portraits: float = 0.0) -> Tensor:
    """Draw training pictures, scenes and a share of portraits: (count, 3, 64, 64) in [-1, 1]."""
    faces = int(rng.binomial(count, portraits))
    pictures = draw_batch(rng, count - faces, 1)[:, :, 0]
    if faces:
        drawn = np.stack([draw_stranger(rng) for _ in range(faces)])
        pictures = torch.cat([pictures, to_tensor(drawn).transpose(0, 1)])
    return pictures.contiguous(memory_format=torch.channels_last)


def draw_stranger(rng: np.random.Generator) -> Picture:
    """Draw a person who is not reserved (`KNOWN`)."""
    return draw_face(int(rng.integers(KNOWN, 2**31)), int(rng.integers(2**31)), SIDE)
