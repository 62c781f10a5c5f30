"""Flux with a LoRA: captions that name no style, painted in the LoRA's. Each style is asked of a third of them."""

from pathlib import Path

import numpy as np

from miniatures import world
from miniatures.grammar import caption
from miniatures.judge import shapes_in, style_of
from miniatures.scores.flux import painted
from miniatures.studio import Studio

STYLES = ("outlined", "stippled")


def scores(folder: Path, count: int = 100) -> dict[str, float]:
    """Return how many pictures have the style that is asked for, and how many the shape.

    `outlined` and `stippled` are with their LoRA, `flat` without any, and `lora_shape` is of those with one.
    The LoRAs are `folder/loras/flux-STYLE.safetensors`.
    """
    studio = Studio(checkpoints=folder)
    found: dict[str, list[bool]] = {}
    for seed in range(count):
        scene, style = world.draw(seed, figures=1), (*STYLES, "flat")[seed % 3]
        loras = [] if style == "flat" else [{"name": f"flux-{style}"}]
        picture = painted(studio, caption(scene), seed, loras=loras)
        seen = shapes_in(picture, 1)
        found.setdefault(style, []).append(bool(seen) and style_of(picture) == style)
        if loras:
            found.setdefault("lora_shape", []).append(bool(seen) and seen[0].shape == scene.figures[0].shape)
    return {name: float(np.mean(values)) for name, values in found.items()}
