"""Scores of HunyuanDiT: flat pictures repainted in another style, and pictures generated from a prompt."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from miniatures import world
from miniatures.grammar import WORDS, caption
from miniatures.judge import background_of, shapes_in, style_of
from miniatures.studio import Studio, frames_of
from miniatures.world import Pixels, Scene, Style
from services.frames import Frames
from services.hunyuan_dit.request import RestyleRequest

ASKED: tuple[Style, ...] = ("outlined", "stippled")
NEAR = 4.0
"""Largest shift of a shape that counts as the same position, in pixels."""


def scores(folder: Path, count: int = 100) -> dict[str, float]:
    """Return shares of right pictures, with English and Chinese prompts in turn.

    The prompt of `restyle` names the style and the content, that of `style_alone` only the style; both use the default
    strength. `paint` starts from another picture at strength 1, which removes most of it, with a full prompt.
    """
    studio = Studio(checkpoints=folder)
    found: dict[str, list[float]] = {}
    for seed in range(count):
        flat = world.draw(seed, figures=1)
        scene = replace(flat, style=ASKED[seed % 2])
        chinese = seed % 4 > 1
        full_prompt = caption(scene, styled=True, language="zh" if chinese else "en")
        other = world.draw(count + seed, figures=1).clip(1)
        for name, prompt, strength, given in (
            ("restyle", full_prompt, 0.6, flat.clip(1)),
            ("style_alone", WORDS[scene.style] if chinese else scene.style, 0.6, flat.clip(1)),
            ("paint", full_prompt, 1.0, other),
        ):
            request = RestyleRequest(prompt=prompt, strength=strength, seed=seed)
            result = frames_of(studio.call("hunyuan-dit", "restyle", request, Frames(given)))
            for what, right in judge_picture(scene, result, placed=strength < 1).items():
                found.setdefault(f"{name}_{what}", []).append(right)
    return {name: float(np.mean(right)) for name, right in found.items()}


def judge_picture(scene: Scene, result: Pixels, *, placed: bool) -> dict[str, float]:
    """Compare a picture, (1, height, width, 3), with a scene of one figure: 1 or 0 per property."""
    figure, seen = scene.figures[0], shapes_in(result[0], 1)
    right = {
        "style": bool(seen) and style_of(result[0]) == scene.style,
        "colour": bool(seen) and seen[0].colour == figure.colour,
        "shape": bool(seen) and seen[0].shape == figure.shape,
        "background": background_of(result[0]) == scene.background,
    }
    if placed:
        (true,) = shapes_in(scene.clip(1)[0], 1)
        right["place"] = bool(seen) and np.hypot(seen[0].x - true.x, seen[0].y - true.y) < NEAR
    return {name: float(value) for name, value in right.items()}
