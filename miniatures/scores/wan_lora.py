"""Wan with its LoRA: pictures of flat shapes, which go on stippled."""

from pathlib import Path

import numpy as np

from miniatures import world
from miniatures.grammar import caption
from miniatures.judge import shapes_in, style_of
from miniatures.scores.wan import MADE
from miniatures.studio import Studio, frames_of
from miniatures.wan_lora import FILE
from services.wan.service import Lora


def scores(folder: Path, count: int = 100) -> dict[str, float]:
    """Return how many clips end stippled with the LoRA, and in the right colour, and how many end flat without it.

    The style is that of most frames of a clip's second half: what is blurred may lose it for a while.
    """
    found: dict[str, list[bool]] = {"wan_stippled": [], "wan_flat": [], "wan_lora_colour": []}
    for style in ("stippled", "flat"):
        studio = Studio(checkpoints=folder)
        if style == "stippled":
            lora = {"loras": (Lora(file=FILE),), "lora_dir": (folder / "wan-loras").absolute()}
            settings = studio.settings.wan.model_copy(update=lora)
            studio.settings = studio.settings.model_copy(update={"wan": settings})
        for seed in range(max(1, count // 2)):
            scene = world.draw(seed, figures=1)
            first = studio.file(scene.clip(1), "first")
            prompt = caption(scene, frames=1)
            made = frames_of(studio.run("wan-i2v", image=first, prompt=prompt, seed=seed, num_frames=MADE))
            half = made[MADE // 2 :]
            seen = [bool(shapes_in(frame, 1)) and style_of(frame) == style for frame in half]
            found[f"wan_{style}"].append(bool(np.mean(seen) > 0.5))
            if style == "stippled":
                last = shapes_in(made[-1], 1)
                found["wan_lora_colour"].append(bool(last) and last[0].colour == scene.figures[0].colour)
    return {name: float(np.mean(values)) for name, values in found.items()}
