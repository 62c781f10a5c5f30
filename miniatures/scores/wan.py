"""Scores of Wan: image-to-video from a caption, and V2V, where InternVL captions the clip."""

from pathlib import Path

import numpy as np

from miniatures import world
from miniatures.grammar import caption
from miniatures.judge import heading_of, psnr, shapes_in, turn_of
from miniatures.studio import Studio, frames_of

GIVEN, MADE = 17, 17
"""Frames of the clip that V2V continues, and frames to generate."""


def scores(folder: Path, count: int = 100) -> dict[str, float]:
    """Return shares and decibels of image-to-video with true captions, and of V2V with InternVL's captions.

    A heading is right if the shape moves away as in the true clip, including bounces; for shapes that turn in place,
    `turn` is scored instead.
    """
    studio = Studio(checkpoints=folder)
    single: dict[str, list[float]] = {}
    for seed in range(count):
        scene = world.draw(seed, figures=1)
        first = studio.file(scene.clip(1), "first")
        result = frames_of(
            studio.run("wan-i2v", image=first, prompt=caption(scene, frames=1), seed=seed, num_frames=MADE)
        )
        for name, value in judge_clip(scene, scene.clip(MADE), result).items():
            single.setdefault(f"i2v_{name}", []).append(value)
        given = studio.file(scene.clip(GIVEN), "given")
        result = frames_of(studio.run("v2v", input_video=given, seed=seed, num_frames=MADE))
        for name, value in judge_clip(scene, scene.clip(MADE, start=GIVEN - 1), result).items():
            single.setdefault(f"v2v_{name}", []).append(value)
    return {name: float(np.mean(values)) for name, values in single.items()}


def judge_clip(scene: world.Scene, true: world.Pixels, result: world.Pixels) -> dict[str, float]:
    """Compare a clip of one figure with its true continuation: one number per property, to be averaged."""
    figure = scene.figures[0]
    last = shapes_in(result[-1], 1)
    values = {
        "first_db": psnr(result[0], true[0]),
        "colour": float(bool(last) and last[0].colour == figure.colour),
        "shape": float(bool(last) and last[0].shape == figure.shape),
    }
    if figure.turn:
        return {**values, "turn": float(turn_of(result) == figure.turn)}
    return {**values, "direction": float(heading_of(result) == heading_of(true))}
