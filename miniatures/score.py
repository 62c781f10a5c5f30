"""Measure checkpoints by their results: `python -m miniatures.score wan internvl`.

Each model runs in its service (VAEs directly) on scenes outside the training set, and `miniatures.judge` reads the
results. The scores are printed and written to the checkpoint's `training.json`.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path

import torch

from miniatures.train import CARD, CHECKPOINTS, whole

PARTS: dict[str, tuple[str, ...]] = {
    "wan": ("wan_vae", "wan"),
    "internvl": ("internvl",),
    "flux": ("image_vae", "flux"),
    "loras": ("flux_lora",),
    "wan-loras": ("wan_lora",),
    "svd": ("svd",),
    "qwen-edit": ("qwen_edit",),
    "hunyuan-dit": ("hunyuan_dit",),
    "recogniser": ("recogniser",),
    "identity": ("identity",),
}
"""Checkpoint → modules of `miniatures.scores`."""


def score(name: str, folder: Path, count: int) -> dict[str, float]:
    """Return a checkpoint's scores by name; shares are between 0 and 1."""
    found: dict[str, float] = {}
    for part in PARTS[name]:
        found |= importlib.import_module(f"miniatures.scores.{part}").scores(folder, count)
    return {key: round(float(value), 4) for key, value in found.items()}


def table(folder: Path) -> str:
    """Return the trainings and scores of all checkpoints as a Markdown table."""
    rows = ["| checkpoint | trained | scores |", "| --- | --- | --- |"]
    for name in PARTS:
        card = json.loads((folder / name / CARD).read_text())
        parts = [f"{part}: {made['steps']} steps, {made['minutes']:.0f} min" for part, made in card["parts"].items()]
        scores = [f"{key} {value:.4g}" for key, value in card["scores"].items()]
        rows.append(f"| {name} | {'; '.join(parts)} | {', '.join(scores)} |")
    return "\n".join(rows)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m miniatures.score", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(PARTS)}; all by default")
    parser.add_argument("--count", type=whole, default=100, help="scenes")
    parser.add_argument("--threads", type=whole, default=1)
    parser.add_argument("--table", action="store_true", help="print the recorded scores as Markdown, without measuring")
    parser.add_argument("--checkpoints", type=Path, default=CHECKPOINTS)
    options = parser.parse_args(arguments)
    if options.table:
        print(table(options.checkpoints))
        return 0
    names = options.names or list(PARTS)
    for name in names:
        if name not in PARTS or not (options.checkpoints / name / CARD).is_file():
            parser.error(f"NAME: no checkpoint in {options.checkpoints / name}; known names: {', '.join(PARTS)}")
    torch.set_num_threads(options.threads)
    for name in names:
        scores = score(name, options.checkpoints, options.count)
        for key, value in scores.items():
            print(f"{name:12} {key:24} {value:8.3f}", flush=True)
        path = options.checkpoints / name / CARD
        card = json.loads(path.read_text())
        card["scores"] = {"scenes": options.count, **scores}
        path.write_text(json.dumps(card, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
