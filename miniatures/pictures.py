"""Conversion between pictures and tensors."""

import numpy as np
import torch
from torch import Tensor

from miniatures.world import Pixels


def to_tensor(pixels: Pixels) -> Tensor:
    """Convert (frames, height, width, 3) uint8 to (3, frames, height, width) float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(3, 0, 1, 2).float() / 127.5 - 1


def to_pixels(video: Tensor) -> Pixels:
    """Convert (3, frames, height, width) in [-1, 1] to (frames, height, width, 3) uint8."""
    return (
        ((video.detach().float().permute(1, 2, 3, 0) + 1) * 127.5).clamp(0, 255).round().to(torch.uint8).cpu().numpy()
    )


def shift_colours(rng: np.random.Generator, pixels: Pixels, share: float = 0.2) -> Pixels:
    """Scale and shift the colour channels of a share of the pictures: decoded videos never match the palette."""
    if rng.random() > share:
        return pixels
    gain, offset = rng.uniform(0.7, 1.0, 3), rng.uniform(0, 70, 3)
    return (pixels * gain + offset).clip(0, 255).astype(np.uint8)
