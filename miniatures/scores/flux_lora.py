"""Scores of Flux's LoRAs: captions that name no style, with one LoRA, the other, or none for a third of them each."""

from pathlib import Path

import numpy as np

from miniatures import world
from miniatures.grammar import caption
from miniatures.judge import shapes_in, style_of
from miniatures.scores.flux import paint
from miniatures.studio import Studio

STYLES = ("outlined", "stippled")


def scores(folder: Path, count: int = 100) -> dict[str, float]:
    """Return shares of pictures with the expected style, and with the right shape.

    `outlined` and `stippled` use their LoRA, `flat` none; `lora_shape` is the share of right shapes with a LoRA.
    The LoRAs are `folder/loras/flux-STYLE.safetensors`.
    """
    studio = Studio(checkpoints=folder)
    found: dict[str, list[bool]] = {}
    for seed in range(count):
        scene, style = world.draw(seed, figures=1), (*STYLES, "flat")[seed % 3]
        loras = [] if style == "flat" else [{"name": f"flux-{style}"}]
        picture = paint(studio, caption(scene), seed, loras=loras)
        seen = shapes_in(picture, 1)
        found.setdefault(style, []).append(bool(seen) and style_of(picture) == style)
        if loras:
            found.setdefault("lora_shape", []).append(bool(seen) and seen[0].shape == scene.figures[0].shape)
    return {name: float(np.mean(values)) for name, values in found.items()}
