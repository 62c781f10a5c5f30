"""A working decoder of the miniature's architecture, trained for half a minute on the shipped clip.

A random decoder does not show whether a change to latents is acceptable, because it never decodes to a picture.
"""

from dataclasses import dataclass

import torch
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everybody knows it by

from benchmarks.ttlg_cases import MINIATURE, Z, random_vae
from services.qwen_edit.decoders import StillDecoder

PATCH = 8
"""Pixels per latent."""
UPDATES = 500
BATCH, SIDE = 8, 64
"""Crops per update, and their side in pixels."""
LR = 2e-3


@dataclass(frozen=True)
class PatchEncoder:
    """Encodes patches of 8 x 8 pixels as their first 16 principal components, scaled to a deviation of 1."""

    mean: Tensor
    components: Tensor
    spread: Tensor

    @classmethod
    def of(cls, frames: Tensor) -> "PatchEncoder":
        """Fit the encoder to frames, (n, 3, h, w) in [0, 1]."""
        patches = _patches(frames).flatten(0, 2)
        mean = patches.mean(0)
        values, vectors = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
        return cls(mean, vectors[:, -Z:], values[-Z:].sqrt())

    def __call__(self, frames: Tensor) -> Tensor:
        """Encode (n, 3, h, w) in [0, 1] to (n, 16, h/8, w/8)."""
        latents = (_patches(frames) - self.mean) @ self.components / self.spread
        return latents.permute(0, 3, 1, 2).contiguous()


def _patches(frames: Tensor) -> Tensor:
    return F.pixel_unshuffle(frames * 2 - 1, PATCH).permute(0, 2, 3, 1)


def train_decoder(frames: Tensor, encode: PatchEncoder) -> StillDecoder:
    """Train a decoder of the output of `encode` for frames, (n, 3, h, w) in [0, 1]."""
    decoder = StillDecoder(random_vae(0, **MINIATURE), torch.float32, save_memory=False).requires_grad_(True)
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=LR)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LR, total_steps=UPDATES, pct_start=0.05)
    generator = torch.Generator().manual_seed(0)
    limits = torch.tensor([len(frames), frames.shape[2] - SIDE, frames.shape[3] - SIDE])
    for _ in track(range(UPDATES), description="training a decoder"):
        places = (torch.rand(BATCH, 3, generator=generator) * limits).long()
        crops = [frames[n, :, y // 8 * 8 :, x // 8 * 8 :][:, :SIDE, :SIDE] for n, y, x in places.tolist()]
        truth = torch.stack(crops)
        made = decoder(encode(truth)) * 0.5 + 0.5
        differences = [made - truth, *(made.diff(dim=d) - truth.diff(dim=d) for d in (2, 3))]
        loss = torch.stack([difference.abs().mean() for difference in differences]).sum()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return decoder.requires_grad_(False)


def psnr(made: Tensor, truth: Tensor) -> float:
    """Return the PSNR in dB of pictures in [0, 1]."""
    return float(-10 * (made - truth).square().mean().log10())
