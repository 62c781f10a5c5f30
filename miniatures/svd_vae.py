"""Training of Stable Video Diffusion's VAE, which encodes pictures and decodes clips.

It is not shared with Flux: diffusers' class has group norms of 32 groups, so its widths must be multiples of 32.
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

from miniatures.image_vae import draw_pictures
from miniatures.wan_vae import draw_batch, reconstruction
from miniatures.world import SIDE, TRAINING_SEEDS

Z = 16
WIDTHS = (64, 32, 64, 64)
"""Channels of the four levels, full size first. The outer levels need two channels per group: a norm over one
channel removes its mean, and with it the brightness."""
CROPS, JOINT = 0.4, 0.7
"""Training progress (0 to 1) until which crops are used, and from which the encoder is frozen."""
PIECE = 32
"""Side of a crop, in pixels."""
KL = 1e-5
CENTRE = 0.01
"""Weight of the penalty on each latent channel's mean: the pipeline supports no shift."""
ROUGHNESS = 0.15
"""Noise on the latents once the encoder is frozen, relative to their standard deviation."""
CLIPS = {3: 2, 6: 1, 9: 1}
"""Frames of a clip → number of clips in a batch."""
MEASURED = 256
"""Number of pictures from which the scale of the latents is measured."""

Forwards = Mapping[nn.Module, Any]
"""Module → function that replaces its `forward`."""


class SvdVaeRecipe:
    """Trains by reconstruction loss with a term for edges and KL: on crops, on pictures, then the decoder on clips."""

    lr, adam_lr, steps = 0.04, 1e-3, 2000

    def __init__(self, folder: Path) -> None:
        del folder  # the VAE needs no other checkpoint
        self.module = vae = AutoencoderKLTemporalDecoder(
            down_block_types=("DownEncoderBlock2D",) * 4,
            block_out_channels=WIDTHS,
            layers_per_block=1,
            latent_channels=Z,
            sample_size=SIDE,
            force_upcast=False,
        )
        channels_last(vae)
        vae.set_attn_processor(AttnProcessor())  # the backward pass of the fused kernel is slow on a CPU
        for layer in vae.modules():
            last = LAST.get(type(layer).__name__)
            if last is not None:
                zero_layer(layer.get_submodule(last))
        for same in (vae.quant_conv, vae.decoder.time_conv_out):
            nn.init.dirac_(same.weight)
            nn.init.zeros_(same.bias)
        nn.init.constant_(vae.quant_conv.bias[Z:], -4.0)  # small at first: its noise would hide the picture
        vae.encoder.down_blocks[0].resnets[0].requires_grad_(
            requires_grad=False
        )  # stays zero: see `skip_encoder_block`

    def loss(self, rng: np.random.Generator, progress: float) -> Tensor:
        vae, frozen = self.module, progress >= JOINT
        batch, frames = self._batch(rng, progress)
        batch = batch.to(next(vae.parameters()).device)
        forwards = skip_encoder_block(vae) if frozen else {**skip_encoder_block(vae), **skip_temporal_layers(vae)}
        with torch.autocast(batch.device.type, torch.bfloat16), replace_forwards(forwards):
            with torch.set_grad_enabled(not frozen):
                posterior = vae.encode(batch).latent_dist
            mean, logvar = posterior.mean.float(), posterior.logvar.float()
            latents = mean + torch.randn_like(mean) * (0.5 * logvar).exp()
            if frozen:
                rough = ROUGHNESS * mean.square().mean().sqrt() * torch.rand(len(mean), 1, 1, 1, device=mean.device)
                latents = latents + rough * torch.randn_like(latents)
            result = vae.decode(latents, num_frames=frames).sample
        error = reconstruction(group_clips(result.float(), frames), group_clips(batch, frames))
        if frozen:
            return error
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(1).mean()
        return error + KL * kl + CENTRE * mean.mean((0, 2, 3)).square().sum()

    def save(self, folder: Path) -> None:
        """Write `folder/vae`, with the scale that gives the latents a standard deviation of 1."""
        vae = copy.deepcopy(self.module).cpu().to(memory_format=torch.contiguous_format)
        rng = np.random.default_rng(TRAINING_SEEDS)
        with torch.no_grad(), replace_forwards(skip_encoder_block(vae)):
            means = [vae.encode(draw_pictures(rng, 32)).latent_dist.mean for _ in range(MEASURED // 32)]
        scale = 1 / torch.cat(means).square().mean().sqrt().item()
        vae.register_to_config(scaling_factor=round(scale, 4))
        vae.to(torch.bfloat16).save_pretrained(folder / "vae")

    @staticmethod
    def _batch(rng: np.random.Generator, progress: float) -> tuple[Tensor, int]:
        """Draw pictures, (pictures, 3, height, width) in [-1, 1], and return the number of frames of each clip."""
        if progress < CROPS:
            whole = draw_pictures(rng, 20)
            top, left = rng.integers(0, SIDE - PIECE + 1, 2)
            piece = whole[:, :, top : top + PIECE, left : left + PIECE]
            return piece.contiguous(memory_format=torch.channels_last), 1
        if progress < JOINT:
            return draw_pictures(rng, 8), 1
        frames = int(rng.choice(list(CLIPS)))
        clips = draw_batch(rng, CLIPS[frames], frames).transpose(1, 2).flatten(0, 1)
        return clips.contiguous(memory_format=torch.channels_last), frames


LAST = {"ResnetBlock2D": "conv2", "TemporalResnetBlock": "conv2", "Attention": "to_out.0"}
"""Residual block → its layer that is zero at first, so that the block starts as the identity."""


def channels_last(module: nn.Module) -> None:
    """Store convolution weights in the layout that is fast in bfloat16."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            layer.to(memory_format=torch.channels_last)
        elif isinstance(layer, nn.Conv3d):
            layer.to(memory_format=torch.channels_last_3d)


def zero_layer(layer: nn.Module) -> None:
    """Set a layer to zero."""
    nn.init.zeros_(layer.get_parameter("weight"))
    nn.init.zeros_(layer.get_parameter("bias"))


def group_clips(pictures: Tensor, frames: int) -> Tensor:
    """Group frames into clips: (clips * frames, 3, height, width) → (clips, 3, frames, height, width)."""
    return pictures.unflatten(0, (-1, frames)).transpose(1, 2)


def skip_encoder_block(vae: AutoencoderKLTemporalDecoder) -> Forwards:
    """Skip the encoder's first residual block, which is zero and costs more than all later ones."""
    return {vae.encoder.down_blocks[0].resnets[0]: _unchanged}


def skip_temporal_layers(vae: AutoencoderKLTemporalDecoder) -> Forwards:
    """Skip the temporal layers, which are zero until they are trained on clips."""
    blocks = [block for block in vae.decoder.modules() if isinstance(block, SpatioTemporalResBlock)]
    return {block: partial(_spatial, block) for block in blocks}


@contextmanager
def replace_forwards(forwards: Forwards) -> Iterator[None]:
    """Replace the `forward` of modules inside the `with` block."""
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
