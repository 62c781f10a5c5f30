"""Pictures as tensors, for whichever model: to them, from them, and smaller. With `device.py` the only shared torch."""

from functools import lru_cache

import torch
from torch import Tensor

from services.frames import Pixels


def tensor_of(pixels: Pixels, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """(n, h, w, 3) uint8 → (n, 3, h, w) in [0, 1]. Copied: Ray's arrays are read-only, which no tensor can be."""
    return torch.tensor(pixels, device=device).permute(0, 3, 1, 2).to(dtype) / 255


def pixels_of(pictures: Tensor) -> Pixels:
    """(n, 3, h, w) about [0, 1], clamped here → (n, h, w, 3) uint8."""
    levels = (pictures.float().clamp(0, 1) * 255).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def averaged(pictures: Tensor, height: int, width: int) -> Tensor:
    """Return pictures shrunk so that each pixel is the mean of the area it covers.

    By two products of matrices: on a GPU the gradient of adaptive pooling depends on chance.
    """
    down, across = (_shares(old, new) for old, new in zip(pictures.shape[-2:], (height, width), strict=True))
    return down.to(pictures) @ pictures @ across.to(pictures).T


@lru_cache(maxsize=64)
def _shares(old: int, new: int) -> Tensor:
    """(new, old) float64: how much of each old pixel lies in each new one, relative to that one's length."""
    edges = torch.arange(new + 1, dtype=torch.float64) * old / new
    pixels = torch.arange(old, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    return overlap.clamp_min(0) * new / old
