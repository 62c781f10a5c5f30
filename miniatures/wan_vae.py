"""Training of Wan's VAE, which Qwen-Image-Edit shares."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d
from torch import Tensor, nn

from miniatures import world
from miniatures.pictures import shift_colours, to_tensor

Z = 16
KL = 1e-5
MEASURED = 32
"""Number of batches from which the mean and deviation of the latents are measured."""
LEAST = 0.1
"""Smallest deviation of a channel, relative to the widest one: empty channels are not scaled up."""
IMAGES, JOINT = 0.45, 0.65
"""Training progress (0 to 1) until which single pictures are used, and from which the encoder is frozen."""


class WanVaeRecipe:
    """Trains by reconstruction loss with a term for edges and KL: on pictures, on clips, then the decoder alone."""

    lr, adam_lr, steps = 0.04, 1e-3, 4200

    def __init__(self, _folder: Path | None = None, measured: int = MEASURED) -> None:
        self._measured = measured
        self.module = vae = AutoencoderKLWan(base_dim=16, z_dim=Z, dim_mult=[1, 2, 3, 3], num_res_blocks=1)
        for layer in vae.modules():
            if isinstance(layer, nn.Conv3d):
                layer.to(memory_format=torch.channels_last_3d)
            elif isinstance(layer, nn.Conv2d):
                layer.to(memory_format=torch.channels_last)
            if type(layer).__name__ == "WanResidualBlock":  # blocks start as the identity
                nn.init.zeros_(layer.conv2.weight)
                nn.init.zeros_(layer.conv2.bias)
        nn.init.constant_(vae.quant_conv.bias[Z:], -4.0)  # small at first: its noise would hide the picture

    def loss(self, rng: np.random.Generator, progress: float) -> Tensor:
        frames = 1 if progress < IMAGES else int(rng.choice([5, 5, 9]))
        device = next(self.module.parameters()).device
        batch = draw_batch(rng, 12 if frames == 1 else 4, frames).to(device, memory_format=torch.channels_last_3d)
        frozen = progress >= JOINT
        with torch.autocast(device.type, torch.bfloat16), use_flat_kernels(self.module if frames == 1 else None):
            with torch.set_grad_enabled(not frozen):
                posterior = self.module.encode(batch).latent_dist
            mean, logvar = posterior.mean.float(), posterior.logvar.float()
            latents = mean + torch.randn_like(mean) * (0.5 * logvar).exp()
            result = decode(self.module, latents)
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(1).mean()
        return reconstruction(result.float(), batch) + (0.0 if frozen else KL * kl)

    def save(self, folder: Path) -> None:
        """Write `folder/vae` with rotated latents, and their measured mean and deviation for the pipelines."""
        rng = np.random.default_rng(world.TRAINING_SEEDS)
        vae = self.module.cpu()
        with torch.no_grad():
            codes = torch.cat([vae.encode(draw_batch(rng, 8, 9)).latent_dist.mode() for _ in range(self._measured)])
        deviation = rotate_latents(vae, codes)
        vae.register_to_config(
            latents_mean=[round(value, 4) for value in codes.mean((0, 2, 3, 4)).tolist()],
            latents_std=[round(value, 4) for value in deviation.clamp_min(LEAST * deviation.max()).tolist()],
        )
        for layer in vae.modules():
            layer.to(memory_format=torch.contiguous_format)
        vae.to(torch.bfloat16).save_pretrained(folder / "vae")


@torch.no_grad()
def rotate_latents(vae: AutoencoderKLWan, codes: Tensor) -> Tensor:
    """Rotate the latents so that channels are uncorrelated, and return their deviations, the largest first: (z,).

    Colours vary much more than corners do, so a transformer learns little about corners if every channel mixes both.
    After the rotation, channel-wise normalisation gives them equal weight. The posterior's variance is not rotated: it
    is small, and the pipelines use the mode.

    Args:
        vae: its output of means and its decoder input are rotated in place.
        codes: (n, z, frames, h, w), latents of many clips; rotated too.
    """
    flat = codes.transpose(0, 1).flatten(1)
    variance, turn = torch.linalg.eigh(torch.cov(flat))
    turn = turn.flip(1).T  # (z, z), each row a new channel
    mean, back = vae.quant_conv, vae.post_quant_conv
    mean.weight[: len(turn)] = torch.einsum("ij,jk...->ik...", turn, mean.weight[: len(turn)])
    mean.bias[: len(turn)] = turn @ mean.bias[: len(turn)]
    back.weight.copy_(torch.einsum("oj...,ij->oi...", back.weight, turn))
    codes.copy_(torch.einsum("ij,njfhw->nifhw", turn, codes))
    return variance.flip(0).clamp_min(0).sqrt()


def draw_batch(rng: np.random.Generator, count: int, frames: int) -> Tensor:
    """Draw clips of scenes, of edges, and of a picture before empty frames: (count, 3, frames, 64, 64) in [-1, 1]."""
    clips = []
    for _ in range(count):
        style = rng.choice(world.STYLES, p=[0.76, 0.12, 0.12])
        scene = world.draw(int(rng.integers(world.TRAINING_SEEDS, 2**40)), style=style)
        start = float(rng.uniform(0, 20))
        if rng.random() < 0.06:
            clips.append(to_tensor(scene.edges(frames, start=start)))
            continue
        clip = to_tensor(shift_colours(rng, scene.clip(frames, start=start)))
        if frames > 1 and rng.random() < 0.1:
            clip[:, 1:] = 0
        clips.append(clip)
    return torch.stack(clips)


@contextmanager
def use_flat_kernels(vae: AutoencoderKLWan | None) -> Iterator[None]:
    """Encode single pictures with the last temporal slice of each kernel only: the others see zeros."""
    layers = [] if vae is None else [layer for layer in vae.modules() if isinstance(layer, WanCausalConv3d)]
    for layer in layers:
        layer.forward = partial(_convolve_flat, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _convolve_flat(layer: WanCausalConv3d, x: Tensor, cache_x: Tensor | None = None) -> Tensor:
    del cache_x
    y = nn.functional.conv2d(
        x[:, :, 0], layer.weight[:, :, -1], layer.bias, padding=(layer._padding[2], layer._padding[0])
    )
    return y[:, :, None]


def decode(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Decode like `vae.decode` but without the clamp, whose gradient is zero outside its range."""
    hidden = vae.post_quant_conv(latents)
    cache: list[Tensor | None] = [None] * vae._cached_conv_counts["decoder"]
    return torch.cat(
        [
            vae.decoder(hidden[:, :, i : i + 1], feat_cache=cache, feat_idx=[0], first_chunk=i == 0)
            for i in range(hidden.shape[2])
        ],
        dim=2,
    )


def reconstruction(result: Tensor, true: Tensor) -> Tensor:
    """Return the error of (..., height, width) in [-1, 1]: of pixels, weighted at edges, and of gradients."""
    error = result - true
    slopes = [error.diff(dim=dim).abs().mean() for dim in range(2, true.ndim) if true.shape[dim] > 1]
    edge = torch.zeros_like(true)
    edge[..., 1:] += true.diff(dim=-1).abs()
    edge[..., 1:, :] += true.diff(dim=-2).abs()
    weight = 1 + 3 * nn.functional.max_pool3d(edge.amax(1, keepdim=True).clamp(max=1), (1, 3, 3), 1, (0, 1, 1))
    return (weight * (error.abs() + 0.5 * error.square())).mean() + torch.stack(slopes).sum()
