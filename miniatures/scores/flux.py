"""Flux: captions, painted as the service paints them.

The scenes are held out, their captions are not: there are 224 of one figure before a plain background, and Flux knows
most of them from other pictures, with the figure at other places and in other sizes.
"""

from pathlib import Path
from typing import Any

import numpy as np

from miniatures import world
from miniatures.grammar import Language, caption
from miniatures.judge import Picture, background_of, shapes_in
from miniatures.studio import Studio, frames_of
from miniatures.world import Scene
from services.flux.request import FluxRequest
from services.frames import Face


def scores(folder: Path, count: int = 100) -> dict[str, float]:
    """Return how many pictures of one figure have its colour, its shape, their background, and all of it.

    `chinese` is of captions in Chinese, a quarter as many, with all of it.
    """
    studio = Studio(checkpoints=folder)
    found: dict[str, list[bool]] = {}
    for seed in range(count):
        scene = world.draw(seed, figures=1)
        languages: list[Language] = ["en", "zh"] if seed % 4 == 0 else ["en"]
        for language in languages:
            result = judged(scene, painted(studio, caption(scene, language=language), seed))
            if language == "zh":
                result = {"chinese": result["all"]}
            for name, value in result.items():
                found.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}


def painted(studio: Studio, prompt: str, seed: int, face: Face | None = None, **fields: Any) -> Picture:
    """The picture of a prompt, with what the local configuration has for all else."""
    asked = {**studio.models["flux"].defaults, "prompt": prompt, "seed": seed, **fields}
    return frames_of(studio.call("flux", "generate_image", FluxRequest.model_validate(asked), face))[0]


def judged(scene: Scene, picture: Picture) -> dict[str, bool]:
    """Compare a picture with what was said of a scene of one figure, and that it holds no other."""
    figure, seen = scene.figures[0], shapes_in(picture)
    right = {
        "colour": bool(seen) and seen[0].colour == figure.colour,
        "shape": bool(seen) and seen[0].shape == figure.shape,
        "background": background_of(picture) == scene.background,
    }
    return {**right, "all": all(right.values()) and len(seen) == 1}
