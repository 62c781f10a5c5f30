"""Measure checkpoints by what they show: `python -m miniatures.score wan internvl`.

Each is run by its service, VAEs by themselves, on scenes that no training has seen, and the result is read by
`miniatures.judge`. The scores are printed and written beside the checkpoint.
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
    """Return what the scores of a checkpoint are called and how high they are; shares are between 0 and 1."""
    found: dict[str, float] = {}
    for part in PARTS[name]:
        found |= importlib.import_module(f"miniatures.scores.{part}").scores(folder, count)
    return {key: round(float(value), 4) for key, value in found.items()}


def table(folder: Path) -> str:
    """What is written beside the checkpoints, as Markdown."""
    rows = ["| checkpoint | trained | scores |", "| --- | --- | --- |"]
    for name in PARTS:
        card = json.loads((folder / name / CARD).read_text())
        parts = [f"{part}: {made['steps']} steps, {made['minutes']:.0f} min" for part, made in card["parts"].items()]
        scores = [f"{key} {value:.4g}" for key, value in card["scores"].items()]
        rows.append(f"| {name} | {'; '.join(parts)} | {', '.join(scores)} |")
    return "\n".join(rows)


def main(arguments: list[str] | None = None) -> int:
    """The entry point."""
    parser = argparse.ArgumentParser(prog="python -m miniatures.score", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PARTS)}; by default all")
    parser.add_argument("--count", type=whole, default=100, help="scenes")
    parser.add_argument("--threads", type=whole, default=1)
    parser.add_argument("--table", action="store_true", help="measure nothing: print what was measured, as Markdown")
    parser.add_argument("--checkpoints", type=Path, default=CHECKPOINTS)
    given = parser.parse_args(arguments)
    if given.table:
        print(table(given.checkpoints))
        return 0
    names = given.names or list(PARTS)
    for name in names:
        if name not in PARTS or not (given.checkpoints / name / CARD).is_file():
            parser.error(f"NAME: there is no checkpoint {given.checkpoints / name}; there may be {', '.join(PARTS)}")
    torch.set_num_threads(given.threads)
    for name in names:
        scores = score(name, given.checkpoints, given.count)
        for key, value in scores.items():
            print(f"{name:12} {key:24} {value:8.3f}", flush=True)
        path = given.checkpoints / name / CARD
        card = json.loads(path.read_text())
        card["scores"] = {"scenes": given.count, **scores}
        path.write_text(json.dumps(card, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
