"""Conversion of pictures to and from tensors, and area downscaling."""

from functools import lru_cache

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from services.frames import Frames, Pixels
from services.framing import Framing


def tensor_of(pixels: Pixels, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Convert (n, h, w, 3) uint8 pixels to a (n, 3, h, w) tensor in [0, 1]. Copies: arrays from Ray are read-only."""
    return torch.tensor(pixels, device=device).permute(0, 3, 1, 2).to(dtype) / 255


def pixels_of(pictures: Tensor) -> Pixels:
    """Convert a (n, 3, h, w) tensor, which is clamped to [0, 1], to (n, h, w, 3) uint8 pixels."""
    levels = (pictures.float().clamp(0, 1) * 255).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def averaged(pictures: Tensor, height: int, width: int) -> Tensor:
    """Downscale (n, c, h, w) pictures to `height` x `width` pixels by area averaging.

    Uses two matrix products, because the gradient of adaptive pooling is not deterministic on a GPU.
    """
    down, across = (_shares(old, new) for old, new in zip(pictures.shape[-2:], (height, width), strict=True))
    return down.to(pictures) @ pictures @ across.to(pictures).T


@lru_cache(maxsize=64)
def _shares(old: int, new: int) -> Tensor:
    """Return a (new, old) float64 matrix: the fraction of each new pixel that each old pixel covers, along one axis."""
    edges = torch.arange(new + 1, dtype=torch.float64) * old / new
    pixels = torch.arange(old, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    return overlap.clamp_min(0) * new / old


def fit_picture(frames: Frames, framing: Framing) -> Image.Image:
    """Return the first frame, fitted into the canvas: padded with its edge pixels, centre-cropped or stretched.

    It is a PIL picture, because the pipelines do not scale tensors for CLIP.
    """
    picture, size = Image.fromarray(frames.pixels[0]), (framing.width, framing.height)
    if framing.fit == "crop":  # as Wan's own code does
        return ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
    if framing.fit == "stretch":
        return picture.resize(size, Image.Resampling.LANCZOS)
    box = framing.place(frames.width, frames.height)
    scaled = np.asarray(picture.resize((box.width, box.height), Image.Resampling.LANCZOS))
    return Image.fromarray(box.surround(scaled[None], *size)[0])
