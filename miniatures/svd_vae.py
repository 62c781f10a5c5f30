"""The VAE of Stable Video Diffusion: it encodes pictures and decodes clips.

It shares nothing with Flux's: the class knows group norms of 32 groups alone, and so no widths but multiples of 32.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLTemporalDecoder
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.resnet import SpatioTemporalResBlock
from torch import Tensor, nn

from miniatures.image_vae import pictures_of
from miniatures.wan_vae import batch_of, reconstruction
from miniatures.world import SIDE, TRAINING_SEEDS

Z = 16
WIDTHS = (64, 32, 64, 64)
"""Of the four levels, full size first. Before pixels and before latents each group of the norm needs two channels: of
one alone it takes away the mean, and with it how bright a picture is."""
CROPS, JOINT = 0.4, 0.7
"""How much of the training goes to pieces of pictures, and when the encoder is finished."""
PIECE = 32
"""Pixels of a piece's sides."""
KL = 1e-5
CENTRE = 0.01
"""How strongly each channel's mean is drawn to zero: the pipeline knows no shift."""
ROUGHNESS = 0.15
"""How much noise the decoder learns to overlook once the encoder is finished, in the latents' own deviation."""
CLIPS = {3: 2, 6: 1, 9: 1}
"""Frames to clips of a batch."""
MEASURED = 256
"""Pictures whose latents say the scale."""

Forwards = Mapping[nn.Module, Any]
"""What a module computes instead."""


class SvdVaeRecipe:
    """Reconstruction, sharper at edges, and KL: pieces of pictures, pictures, then clips for the decoder alone."""

    lr, adam_lr, steps = 0.04, 1e-3, 2000

    def __init__(self, folder: Path) -> None:
        del folder  # it is the first part of its checkpoint
        self.module = vae = AutoencoderKLTemporalDecoder(
            down_block_types=("DownEncoderBlock2D",) * 4,
            block_out_channels=WIDTHS,
            layers_per_block=1,
            latent_channels=Z,
            sample_size=SIDE,
            force_upcast=False,
        )
        channels_last(vae)
        vae.set_attn_processor(AttnProcessor())  # plain products: the fused kernel's way back is slow on a CPU
        for layer in vae.modules():
            last = LAST.get(type(layer).__name__)
            if last is not None:
                silence(layer.get_submodule(last))
        for same in (vae.quant_conv, vae.decoder.time_conv_out):
            nn.init.dirac_(same.weight)
            nn.init.zeros_(same.bias)
        nn.init.constant_(vae.quant_conv.bias[Z:], -4.0)  # else the posterior's noise drowns all at first
        vae.encoder.down_blocks[0].resnets[0].requires_grad_(requires_grad=False)  # it stays zero: see `encoding`

    def loss(self, rng: np.random.Generator, progress: float) -> Tensor:
        vae, frozen = self.module, progress >= JOINT
        batch, frames = self._batch(rng, progress)
        batch = batch.to(next(vae.parameters()).device)
        forwards = encoding(vae) if frozen else {**encoding(vae), **single(vae)}
        with torch.autocast(batch.device.type, torch.bfloat16), computing(forwards):
            with torch.set_grad_enabled(not frozen):
                posterior = vae.encode(batch).latent_dist
            mean, logvar = posterior.mean.float(), posterior.logvar.float()
            latents = mean + torch.randn_like(mean) * (0.5 * logvar).exp()
            if frozen:
                rough = ROUGHNESS * mean.square().mean().sqrt() * torch.rand(len(mean), 1, 1, 1, device=mean.device)
                latents = latents + rough * torch.randn_like(latents)
            made = vae.decode(latents, num_frames=frames).sample
        error = reconstruction(clips_of(made.float(), frames), clips_of(batch, frames))
        if frozen:
            return error
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(1).mean()
        return error + KL * kl + CENTRE * mean.mean((0, 2, 3)).square().sum()

    def save(self, folder: Path) -> None:
        """Write `folder/vae`, with a scale that brings the latents to a deviation of one."""
        vae = copy.deepcopy(self.module).cpu().to(memory_format=torch.contiguous_format)
        rng = np.random.default_rng(TRAINING_SEEDS)
        with torch.no_grad(), computing(encoding(vae)):
            means = [vae.encode(pictures_of(rng, 32)).latent_dist.mean for _ in range(MEASURED // 32)]
        scale = 1 / torch.cat(means).square().mean().sqrt().item()
        vae.register_to_config(scaling_factor=round(scale, 4))
        vae.to(torch.bfloat16).save_pretrained(folder / "vae")

    @staticmethod
    def _batch(rng: np.random.Generator, progress: float) -> tuple[Tensor, int]:
        """(pictures, 3, height, width) in [-1, 1], and how many of them are a clip."""
        if progress < CROPS:
            whole = pictures_of(rng, 20)
            top, left = rng.integers(0, SIDE - PIECE + 1, 2)
            piece = whole[:, :, top : top + PIECE, left : left + PIECE]
            return piece.contiguous(memory_format=torch.channels_last), 1
        if progress < JOINT:
            return pictures_of(rng, 8), 1
        frames = int(rng.choice(list(CLIPS)))
        clips = batch_of(rng, CLIPS[frames], frames).transpose(1, 2).flatten(0, 1)
        return clips.contiguous(memory_format=torch.channels_last), frames


LAST = {"ResnetBlock2D": "conv2", "TemporalResnetBlock": "conv2", "Attention": "to_out.0"}
"""Residual blocks, and which of their layers is zero at first, as if they were not there."""


def channels_last(module: nn.Module) -> None:
    """Lay the weights of convolutions out as bfloat16 is fast with."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            layer.to(memory_format=torch.channels_last)
        elif isinstance(layer, nn.Conv3d):
            layer.to(memory_format=torch.channels_last_3d)


def silence(layer: nn.Module) -> None:
    """Let a layer begin with zeros."""
    nn.init.zeros_(layer.get_parameter("weight"))
    nn.init.zeros_(layer.get_parameter("bias"))


def clips_of(pictures: Tensor, frames: int) -> Tensor:
    """(clips * frames, 3, height, width) → (clips, 3, frames, height, width)."""
    return pictures.unflatten(0, (-1, frames)).transpose(1, 2)


def encoding(vae: AutoencoderKLTemporalDecoder) -> Forwards:
    """Leave out the encoder's first residual block: it is zero, and costs more than all that follows."""
    return {vae.encoder.down_blocks[0].resnets[0]: _unchanged}


def single(vae: AutoencoderKLTemporalDecoder) -> Forwards:
    """Leave out what joins frames, which adds nothing until clips have trained it."""
    blocks = [block for block in vae.decoder.modules() if isinstance(block, SpatioTemporalResBlock)]
    return {block: partial(_spatial, block) for block in blocks}


@contextmanager
def computing(forwards: Forwards) -> Iterator[None]:
    """Let modules compute something else within."""
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in forwards:
            del module.forward


def _unchanged(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden_states


def _spatial(block: SpatioTemporalResBlock, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    return block.spatial_res_block(hidden_states, None)
