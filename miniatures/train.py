"""Make a checkpoint: `python -m miniatures.train wan`.

A checkpoint is made of parts, trained one after the other; each is saved when it is done, and a training that was cut
off goes on where it was. What made a checkpoint is written beside it, into `training.json`.
"""

import argparse
import importlib
import json
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import torch

from miniatures.training import Budget, Recipe, train

CHECKPOINTS = Path(__file__).parent / "checkpoints"
CARD = "training.json"


@dataclass(frozen=True)
class Part:
    """A part of a checkpoint: `recipe` is a class of `module`, made with the folder of all checkpoints."""

    name: str
    module: str
    recipe: str


class Saved(Recipe, Protocol):
    """A recipe that can write what it trained, in bfloat16, into the folder of its checkpoint."""

    def save(self, folder: Path) -> None: ...


PARTS: dict[str, tuple[Part, ...]] = {
    "wan": (Part("vae", "miniatures.wan_vae", "WanVaeRecipe"), Part("transformer", "miniatures.wan", "WanRecipe")),
    "internvl": (Part("model", "miniatures.internvl", "InternVLRecipe"),),
    "flux": (
        Part("vae", "miniatures.image_vae", "ImageVaeRecipe"),
        Part("transformer", "miniatures.flux", "FluxRecipe"),
    ),
    "loras": (
        Part("flux-outlined", "miniatures.flux_lora", "OutlinedRecipe"),
        Part("flux-stippled", "miniatures.flux_lora", "StippledRecipe"),
        Part("wan-outlined", "miniatures.wan_lora", "WanLoraRecipe"),
    ),
    "recogniser": (Part("net", "miniatures.recogniser", "RecogniserRecipe"),),
    "identity": (Part("nets", "miniatures.identity", "IdentityRecipe"),),
    "svd": (Part("vae", "miniatures.svd_vae", "SvdVaeRecipe"), Part("unet", "miniatures.svd", "SvdRecipe")),
    "qwen-edit": (Part("transformer", "miniatures.qwen_edit", "QwenEditRecipe"),),
    "hunyuan-dit": (Part("transformer", "miniatures.hunyuan_dit", "HunyuanDitRecipe"),),
}
"""By checkpoint, in an order in which all can be made: LoRAs and identity build on Flux and Wan, identity on the
recogniser too; Qwen-Image-Edit takes Wan's VAE, HunyuanDiT Flux's."""


def make(name: str, part: Part, folder: Path, seed: int, budget: Budget | None, device: str) -> None:
    """Train one part and write it into `folder/name`, with what it took.

    Args:
        name: the checkpoint.
        part: of it.
        folder: of all checkpoints.
        seed: of the weights and all batches.
        budget: how long; None: as many steps as the recipe says.
        device: a torch device, or `auto`: the GPU where there is one.
    """
    where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    recipe = cast("Saved", getattr(importlib.import_module(part.module), part.recipe)(folder))
    count = sum(p.numel() for p in recipe.module.parameters() if p.requires_grad)
    print(f"{name}, {part.name}: {count / 1e6:.2f} million weights on {where}", flush=True)
    trained = train(recipe, seed, budget or Budget(recipe.steps), where, target / f".{part.name}.state")
    recipe.save(target)
    path = target / CARD
    card = json.loads(path.read_text()) if path.is_file() else {"parts": {}, "scores": {}}
    card["parts"][part.name] = {
        "command": f"python -m miniatures.train {name} --part {part.name} --steps {trained.steps} --seed {seed}",
        "seed": seed,
        "steps": trained.steps,
        "minutes": round(trained.seconds / 60, 1),
        "device": _device_name(where),
        "loss": round(trained.loss, 5),
    }
    path.write_text(json.dumps(card, indent=1) + "\n")
    print(f"{name}, {part.name}: {trained.steps} steps, {trained.seconds:.0f} s, loss {trained.loss:.4f}", flush=True)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {torch.get_num_threads()} threads"


def main(arguments: list[str] | None = None) -> int:
    """The entry point."""
    parser = argparse.ArgumentParser(prog="python -m miniatures.train", description=__doc__)
    parser.add_argument("name", choices=PARTS)
    parser.add_argument("--part", help="only this one")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="for each part")
    length.add_argument("--steps", type=int, help="for each part; by default as many as made what ships")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU; another number gives other last bits")
    parser.add_argument("--out", type=Path, default=CHECKPOINTS)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    parts = [part for part in PARTS[given.name] if given.part in (None, part.name)]
    if not parts:
        parser.error(f"--part: {given.name} has {', '.join(part.name for part in PARTS[given.name])}")
    budget = Budget(given.steps or 1, given.minutes) if given.steps or given.minutes else None
    for part in parts:
        make(given.name, part, given.out, given.seed, budget, given.device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
