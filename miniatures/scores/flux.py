"""Flux: captions, painted as the service paints them.

The scenes are held out, their captions are not: there are 224 of one figure before a plain background, and Flux knows
most of them from other pictures, with the figure at other places and in other sizes.
"""

import asyncio
from pathlib import Path

import numpy as np

from miniatures import world
from miniatures.grammar import Language, caption
from miniatures.judge import Picture, background_of, shapes_in
from miniatures.world import Scene
from services.flux.request import FluxRequest
from services.flux.service import Flux, FluxSettings
from services.frames import Frames
from services.weights import Weights

TOKENS = 64
"""As the local configuration has it."""


def scores(folder: Path, count: int = 100, steps: int = 8, guidance_scale: float = 3.5) -> dict[str, float]:
    """Return how many pictures of one figure have its colour, its shape, their background, and all of it.

    `chinese` is of captions in Chinese, a quarter as many, with all of it.

    Args:
        folder: the checkpoints.
        count: captions.
        steps: of denoising.
        guidance_scale: as a request has it.
    """
    settings = FluxSettings(
        weights=Weights(path=(folder / "flux").resolve()), device="cpu", dtype="float32", max_sequence_length=TOKENS
    )
    flux = Flux(settings, folder, lambda: "flux#scores")
    found: dict[str, list[bool]] = {}
    for seed in range(count):
        scene = world.draw(seed, figures=1)
        languages: list[Language] = ["en", "zh"] if seed % 4 == 0 else ["en"]
        for language in languages:
            request = FluxRequest(
                prompt=caption(scene, language=language),
                size=f"{scene.width}x{scene.height}",
                steps=steps,
                guidance_scale=guidance_scale,
                seed=seed,
            )
            result = judged(scene, asyncio.run(painted(flux, request)))
            if language == "zh":
                result = {"chinese": result["all"]}
            for name, value in result.items():
                found.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}


async def painted(flux: Flux, request: FluxRequest) -> Picture:
    """The picture of a request."""
    (picture,) = [item.pixels[0] async for item in flux.paint(request) if isinstance(item, Frames)]
    return picture


def judged(scene: Scene, picture: Picture) -> dict[str, bool]:
    """Compare a picture with what was said of a scene of one figure, and that it holds no other."""
    figure, seen = scene.figures[0], shapes_in(picture)
    right = {
        "colour": bool(seen) and seen[0].colour == figure.colour,
        "shape": bool(seen) and seen[0].shape == figure.shape,
        "background": background_of(picture) == scene.background,
    }
    return {**right, "all": all(right.values()) and len(seen) == 1}
