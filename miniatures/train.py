"""Train a checkpoint: `python -m miniatures.train wan`.

A checkpoint consists of parts that are trained one after the other. Each part is saved when it is finished, and an
interrupted training is resumed. How a checkpoint was trained is written to its `training.json`; existing scores are
removed from it, because they belong to other weights.
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
from diffusers.utils import logging

from miniatures.training import Budget, Recipe, Refused, Trained, train

CHECKPOINTS = Path(__file__).parent / "checkpoints"
CARD = "training.json"


@dataclass(frozen=True)
class Part:
    """A part of a checkpoint. `recipe` names a class in `module`, whose argument is the folder of all checkpoints."""

    name: str
    module: str
    recipe: str
    needs: tuple[str, ...] = ()
    """Files of other checkpoints that this part needs, relative to the folder of all checkpoints."""

    def state(self, target: Path) -> Path:
        """Return the file with the state of an unfinished training, for the checkpoint folder `target`."""
        return target / f".{self.name}.state"


class Saved(Recipe, Protocol):
    """A recipe that can write its trained weights, in bfloat16, into its checkpoint folder."""

    def save(self, folder: Path) -> None: ...


WAN, WAN_VAE = "wan/model_index.json", "wan/vae/config.json"
FLUX, FLUX_VAE = "flux/model_index.json", "flux/vae/config.json"
PARTS: dict[str, tuple[Part, ...]] = {
    "wan": (
        Part("vae", "miniatures.wan_vae", "WanVaeRecipe"),
        Part("transformer", "miniatures.wan", "WanRecipe", (WAN_VAE,)),
    ),
    "internvl": (Part("model", "miniatures.internvl", "InternVLRecipe"),),
    "flux": (
        Part("vae", "miniatures.image_vae", "ImageVaeRecipe"),
        Part("transformer", "miniatures.flux", "FluxRecipe", (FLUX_VAE,)),
    ),
    "loras": (
        Part("flux-outlined", "miniatures.flux_lora", "OutlinedRecipe", (FLUX,)),
        Part("flux-stippled", "miniatures.flux_lora", "StippledRecipe", (FLUX,)),
    ),
    "wan-loras": (Part("wan-outlined", "miniatures.wan_lora", "WanLoraRecipe", (WAN,)),),
    "recogniser": (Part("net", "miniatures.recogniser", "RecogniserRecipe"),),
    "identity": (Part("nets", "miniatures.identity", "IdentityRecipe", (FLUX, "recogniser/arcface.safetensors")),),
    "svd": (
        Part("vae", "miniatures.svd_vae", "SvdVaeRecipe"),
        Part("unet", "miniatures.svd", "SvdRecipe", ("svd/vae/config.json",)),
    ),
    "qwen-edit": (Part("transformer", "miniatures.qwen_edit", "QwenEditRecipe", (WAN_VAE,)),),
    "hunyuan-dit": (Part("transformer", "miniatures.hunyuan_dit", "HunyuanDitRecipe", (FLUX_VAE,)),),
}
"""Checkpoint → parts, in an order in which all can be trained: LoRAs and identity need Flux and Wan, identity also
the recogniser; Qwen-Image-Edit uses Wan's VAE, HunyuanDiT Flux's."""


def make(name: str, part: Part, folder: Path, seed: int, budget: Budget | None, device: str) -> None:
    """Train one part and write it into `folder/name`, with a record of the training.

    Args:
        name: checkpoint.
        part: part of the checkpoint.
        folder: folder of all checkpoints.
        seed: seed of the weights and of all batches.
        budget: length of the training; None: the recipe's number of steps.
        device: a torch device, or `auto`: a GPU if available.

    Raises:
        Refused: a required checkpoint is missing, the saved state is of another training, or the device does not exist.
    """
    where = _device(device)
    target = folder / name
    missing = [need for need in part.needs if not (folder / need).is_file()]
    if missing:
        raise Refused(f"{name}, {part.name}: {folder / missing[0]} not found; train {missing[0].split('/')[0]} first")
    target.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    recipe = cast("Saved", getattr(importlib.import_module(part.module), part.recipe)(folder))
    count = sum(p.numel() for p in recipe.module.parameters() if p.requires_grad)
    print(f"{name}, {part.name}: {count / 1e6:.2f} million weights on {where}", flush=True)
    budget = budget or Budget(recipe.steps)
    trained = train(recipe, seed, budget, where, part.state(target))
    recipe.save(target)
    _forget_paths(target)
    length = f"--steps {budget.steps}" if budget.minutes is None else f"--minutes {budget.minutes:g}"
    command = f"python -m miniatures.train {name} --part {part.name} {length} --seed {seed}"
    _note(
        target / CARD,
        part.name,
        {"command": command, "seed": seed, **_record_length(trained), "device": _device_name(where)},
    )
    part.state(target).unlink(missing_ok=True)
    print(f"{name}, {part.name}: {trained.steps} steps, {trained.seconds:.0f} s, loss {trained.loss:.4f}", flush=True)


def _record_length(trained: Trained) -> dict[str, float]:
    minutes, loss = round(trained.seconds / 60, 1), round(trained.loss, 5)
    return {"steps": trained.steps, "minutes": minutes, "loss": loss}


def _note(path: Path, part: str, made: dict[str, object]) -> None:
    """Write the record of a part's training into the card, and remove scores: they belong to other weights."""
    card = json.loads(path.read_text()) if path.is_file() else {"parts": {}}
    card["parts"][part] = made
    card["scores"] = {}
    path.write_text(json.dumps(card, indent=1) + "\n")


def _forget_paths(folder: Path) -> None:
    """Remove the local paths that diffusers writes into its configuration files."""
    for path in folder.rglob("config.json"):
        config = json.loads(path.read_text())
        if config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2) + "\n")


def _device(name: str) -> torch.device:
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise Refused(f"--device {name}: {error}") from error
    return device


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {torch.get_num_threads()} threads"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m miniatures.train", description=__doc__)
    parser.add_argument("name", choices=PARTS)
    parser.add_argument("--part", help="train only this part")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=positive, help="minutes per part")
    length.add_argument("--steps", type=whole, help="steps per part; by default those of the shipped checkpoint")
    parser.add_argument("--seed", type=int, default=1, help="0 or more")
    parser.add_argument("--device", default="auto", help="a torch device; auto: a GPU if available")
    parser.add_argument("--threads", type=whole, default=1, help="CPU threads; the same number reproduces a result")
    parser.add_argument("--out", type=Path, default=CHECKPOINTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()  # hides a warning for each batch with a Chinese prompt too long for CLIP
    parts = [part for part in PARTS[options.name] if options.part in (None, part.name)]
    if not parts:
        parser.error(
            f"--part: must be one of {', '.join(part.name for part in PARTS[options.name])}, got {options.part}"
        )
    if options.seed < 0:
        parser.error(f"--seed: must be 0 or more, got {options.seed}")
    budget = Budget(options.steps or 1, options.minutes) if options.steps or options.minutes else None
    begun = (index for index, part in enumerate(parts) if part.state(options.out / options.name).is_file())
    for part in parts[next(begun, 0) :]:
        try:
            make(options.name, part, options.out, options.seed, budget, options.device)
        except Refused as error:
            print(error, file=sys.stderr)
            return 1
    return 0


def positive(text: str) -> float:
    """Parse a number above 0. Raises ValueError."""
    if not 0 < (value := float(text)) < float("inf"):
        raise ValueError(text)
    return value


def whole(text: str) -> int:
    """Parse a whole number above 0. Raises ValueError."""
    if (value := int(text)) <= 0:
        raise ValueError(text)
    return value


if __name__ == "__main__":
    sys.exit(main())
