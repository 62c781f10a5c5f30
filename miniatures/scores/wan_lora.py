"""Scores of Wan with its LoRA: pictures of flat shapes, which continue in outlined style."""

from collections import Counter
from pathlib import Path

import numpy as np

from miniatures import world
from miniatures.grammar import caption
from miniatures.judge import has_outline, shapes_in
from miniatures.scores.wan import MADE
from miniatures.studio import Studio, frames_of
from miniatures.wan_lora import FILE
from services.wan.settings import ExpertLora


def scores(folder: Path, count: int = 100) -> dict[str, float]:
    """Return shares of clips that end outlined with the LoRA, that keep their colour, and that stay flat without it.

    Each is judged by most frames of the clip's second half, as a blurred shape may lose its rim for a few frames.
    """
    found: dict[str, list[bool]] = {"wan_outlined": [], "wan_flat": [], "wan_lora_colour": []}
    for lora in ((ExpertLora(file=FILE),), ()):
        studio = Studio(checkpoints=folder)
        adapted = {"loras": lora, "lora_dir": (folder / "wan-loras").absolute()}
        wan = studio.models["wan"]
        studio.models["wan"] = wan.model_copy(update={"settings": wan.settings.model_copy(update=adapted)})
        for seed in range(max(1, count // 2)):
            scene = world.draw(seed, figures=1)
            first = studio.file(scene.clip(1), "first")
            prompt = caption(scene, frames=1)
            result = frames_of(studio.run("wan-i2v", image=first, prompt=prompt, seed=seed, num_frames=MADE))
            half = result[MADE // 2 :]
            outlined = float(np.mean([has_outline(frame) for frame in half])) > 0.5
            if not lora:
                found["wan_flat"].append(not outlined)
                continue
            colours = Counter(seen.colour for frame in half for seen in shapes_in(frame, 1))
            found["wan_outlined"].append(outlined)
            found["wan_lora_colour"].append(scene.figures[0].colour in dict(colours.most_common(1)))
    return {name: float(np.mean(values)) for name, values in found.items()}
