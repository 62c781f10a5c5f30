"""Scores of the image VAE: pictures that are encoded and decoded."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from miniatures import world
from miniatures.judge import psnr, shapes_in
from miniatures.pictures import to_pixels, to_tensor


@torch.no_grad()
def scores(folder: Path, count: int = 100) -> dict[str, float]:
    """Return the mean PSNR, the share of pictures with 30 dB or more, and the share with the right shape."""
    vae = AutoencoderKL.from_pretrained(folder / "flux" / "vae").eval()
    decibels: list[float] = []
    right: dict[str, list[bool]] = {shape: [] for shape in world.SHAPES}
    for seed in range(count):
        scene = world.draw(seed, figures=1)
        picture = scene.clip(1)
        latents = vae.encode(to_tensor(picture)[None, :, 0]).latent_dist.mode()
        result = to_pixels(vae.decode(latents).sample[0, :, None])
        decibels.append(psnr(picture, result))
        seen = shapes_in(result[0], 1)
        right[scene.figures[0].shape].append(bool(seen) and seen[0].shape == scene.figures[0].shape)
    shares = {f"vae_{shape}": float(np.mean(found)) for shape, found in right.items() if found}
    every = [one for found in right.values() for one in found]
    good = float(np.mean(np.array(decibels) >= 30))
    return {"vae_psnr": float(np.mean(decibels)), "vae_30_db": good, "vae_shape": float(np.mean(every)), **shares}
