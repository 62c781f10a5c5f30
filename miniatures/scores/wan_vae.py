"""Scores of Wan's VAE: clips that are encoded and decoded."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan

from miniatures import world
from miniatures.judge import psnr, shapes_in
from miniatures.pictures import to_pixels, to_tensor

FRAMES = 9


@torch.no_grad()
def scores(folder: Path, count: int = 100) -> dict[str, float]:
    """Return the mean PSNR, the share of clips with 30 dB or more, and of last frames with the right shape."""
    vae = AutoencoderKLWan.from_pretrained(folder / "wan" / "vae").eval()
    decibels, right = [], {shape: [] for shape in world.SHAPES}
    for seed in range(count):
        scene = world.draw(seed, figures=1)
        clip = scene.clip(FRAMES)
        latents = vae.encode(to_tensor(clip)[None]).latent_dist.mode()
        result = to_pixels(vae.decode(latents).sample[0])
        decibels.append(psnr(clip, result))
        seen = shapes_in(result[-1], 1)
        right[scene.figures[0].shape].append(bool(seen) and seen[0].shape == scene.figures[0].shape)
    shares = {f"vae_{shape}": float(np.mean(found)) for shape, found in right.items() if found}
    every = [one for found in right.values() for one in found]
    good = float(np.mean(np.array(decibels) >= 30))
    return {"vae_psnr": float(np.mean(decibels)), "vae_30_db": good, "vae_shape": float(np.mean(every)), **shares}
