"""Scores of Stable Video Diffusion (pictures set in motion) and of its VAE (clips encoded and decoded)."""

from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from diffusers import AutoencoderKLTemporalDecoder

from miniatures import world
from miniatures.judge import heading_of, path_of, psnr, shapes_in
from miniatures.pictures import to_pixels, to_tensor
from miniatures.studio import Studio, frames_of
from miniatures.svd import FRAMES, USUAL_BUCKET, set_direction

DECODED = 6
"""Frames that the VAE decodes at once."""
MIDDLE = 2.0
"""Distance from the middle, in pixels, within which either direction is right."""
LEAST_WAY = 6.0
"""Smallest movement that counts as motion, in pixels; a third of the expected one."""


def scores(folder: Path, count: int = 100) -> dict[str, float]:
    """Return shares and decibels of clips that start from a picture of one shape, and of the VAE alone."""
    studio = Studio(checkpoints=folder)
    found: dict[str, list[float]] = {}
    for seed in range(count):
        scene = set_direction(world.draw(seed, figures=1))
        first = studio.file(scene.clip(1), "first")
        fields = {"num_frames": FRAMES, "motion_bucket_id": USUAL_BUCKET, "size": f"{scene.width}x{scene.height}"}
        result = frames_of(studio.run("svd", image=first, seed=seed, **fields))
        for name, value in judge_clip(scene, result).items():
            found.setdefault(name, []).append(value)
    return {name: fmean(values) for name, values in found.items()} | score_vae(folder / "svd" / "vae", count)


def judge_clip(scene: world.Scene, result: world.Pixels) -> dict[str, float]:
    """Compare a clip of one shape with its true continuation: one number per property, to be averaged."""
    figure, true = scene.figures[0], scene.clip(len(result))
    last = shapes_in(result[-1], 1)
    way = np.abs(path_of(result) - path_of(result)[0])
    values = {
        "first_db": psnr(result[0], true[0]),
        "psnr": psnr(result, true),
        "colour": float(bool(last) and last[0].colour == figure.colour),
        "shape": float(bool(last) and last[0].shape == figure.shape),
        "moves": float(np.nan_to_num(way).max() >= LEAST_WAY),
    }
    if abs(figure.x - scene.width / 2) < MIDDLE:
        return values
    return {**values, "direction": float(heading_of(result) == heading_of(true))}


@torch.no_grad()
def score_vae(folder: Path, count: int) -> dict[str, float]:
    """Return the mean PSNR of clips after encoding and decoding, and the share of last frames with the right shape."""
    vae = AutoencoderKLTemporalDecoder.from_pretrained(folder).eval()
    decibels, shapes = [], []
    for seed in range(count):
        scene = world.draw(seed, figures=1)
        clip = scene.clip(DECODED)
        latents = vae.encode(to_tensor(clip).transpose(0, 1)).latent_dist.mode()
        result = to_pixels(vae.decode(latents, num_frames=DECODED).sample.transpose(0, 1))
        seen = shapes_in(result[-1], 1)
        decibels.append(psnr(clip, result))
        shapes.append(bool(seen) and seen[0].shape == scene.figures[0].shape)
    return {"vae_psnr": fmean(decibels), "vae_shape": fmean(shapes)}
