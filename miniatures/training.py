"""The loop that all trainings share: a budget, a schedule, an average of the weights, and going on where it stopped."""

import math
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from miniatures.muon import Muon

WARM_UP = 50
"""Steps in which the step size grows."""
SAVE_EVERY_S = 120.0
LOG_EVERY_S = 20.0


class Refused(Exception):
    """What was asked for cannot be trained; the message says why."""


class Recipe(Protocol):
    """What is trained, and on what."""

    lr: float
    """Of matrices."""
    adam_lr: float
    """Of all else."""
    steps: int
    """How many make the checkpoint that ships."""

    @property
    def module(self) -> nn.Module:
        """Holds all that is trained, in float32."""
        ...

    def loss(self, rng: np.random.Generator, progress: float) -> Tensor:
        """Draw a batch and return its loss.

        Args:
            rng: the step's own; torch's generator is seeded for the step too.
            progress: how much of the training is over, in [0, 1).
        """
        ...


@dataclass(frozen=True)
class Budget:
    """How long to train."""

    steps: int
    minutes: float | None = None
    """Instead of `steps`: the schedule then follows the clock, and no two runs are quite the same."""

    def __str__(self) -> str:
        return f"{self.steps} steps" if self.minutes is None else f"{self.minutes:g} minutes"

    def progress(self, step: int, elapsed: float) -> float:
        return step / self.steps if self.minutes is None else elapsed / (60 * self.minutes)


@dataclass(frozen=True)
class Trained:
    """What a training took."""

    steps: int
    seconds: float
    loss: float
    """The last steps' average."""


def train(
    recipe: Recipe,
    seed: int,
    budget: Budget,
    device: torch.device,
    state: Path | None = None,
    save_every_s: float = SAVE_EVERY_S,
) -> Trained:
    """Train `recipe.module` in place; at the end it holds the average of its weights.

    Args:
        recipe: what is trained.
        seed: of all randomness; each step has its own, so that a training that goes on draws what it would have.
        budget: how long.
        device: where to; the module is moved there.
        state: a file in which the training is kept, and from which it goes on; to be removed by who saves the weights.
        save_every_s: how often it is kept.

    Raises:
        Refused: `state` is of another training.
    """
    training = _Training(recipe, device, f"seed {seed}, {budget}")
    if state is not None and state.is_file():
        training.go_on_from(state, device)
    began = time.monotonic() - training.elapsed
    saved = said = time.monotonic()
    while (progress := budget.progress(training.step, time.monotonic() - began)) < 1:
        training.learn(seed, progress)
        now = time.monotonic()
        training.elapsed = now - began
        if now - said > LOG_EVERY_S:
            said = now
            training.tell(progress)
        if state is not None and now - saved > save_every_s:
            saved = now
            training.keep(state)
    if state is not None:
        training.keep(state)
    training.finish()
    return Trained(training.step, time.monotonic() - began, training.running)


def shared(folder: Path, owner: Path) -> None:
    """Put a link to `owner`, in another checkpoint, in the place of `folder`, whose weights are the same.

    Raises:
        ValueError: they are not.
    """
    if folder.is_symlink():
        return
    for path in folder.glob("*.safetensors"):
        if path.read_bytes() != (owner / path.name).read_bytes():
            raise ValueError(f"{path} is not {owner / path.name}")
    shutil.rmtree(folder)
    folder.symlink_to(os.path.relpath(owner.resolve(), folder.parent.resolve()), target_is_directory=True)


class _Training:
    """One training as it stands."""

    def __init__(self, recipe: Recipe, device: torch.device, what: str) -> None:
        self._recipe = recipe
        self._what = what
        self._module = recipe.module.to(device)
        trained = [parameter for parameter in self._module.parameters() if parameter.requires_grad]
        self._optimiser = Muon(trained, recipe.lr, recipe.adam_lr)
        self._average = {name: value.detach().clone() for name, value in self._module.state_dict().items()}
        self.step, self.elapsed, self.running = 0, 0.0, math.nan

    def learn(self, seed: int, progress: float) -> None:
        """Make one step."""
        warm = min(1.0, (self.step + 1) / WARM_UP)
        for group in self._optimiser.param_groups:
            group["lr"] = group["base"] * warm * (0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * progress)))
        torch.manual_seed(seed * 1_000_003 + self.step)
        loss = self._recipe.loss(np.random.default_rng((seed, self.step)), progress)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._module.parameters(), 1.0)
        self._optimiser.step()
        self.step += 1
        self._follow(min(0.995, (self.step + 1) / (self.step + 10)))
        value = loss.item()
        self.running = value if math.isnan(self.running) else 0.98 * self.running + 0.02 * value

    @torch.no_grad()
    def _follow(self, decay: float) -> None:
        for name, value in self._module.state_dict().items():
            if value.is_floating_point():
                self._average[name].lerp_(value, 1 - decay)
            else:
                self._average[name].copy_(value)

    def tell(self, progress: float) -> None:
        told = f"step {self.step}, {100 * progress:.0f} %, {self.elapsed:.0f} s"
        print(f"{told}, loss {self.running:.4f}", flush=True)

    def finish(self) -> None:
        self._module.load_state_dict(self._average)

    def keep(self, path: Path) -> None:
        """Written beside and put in place: what is cut off while it writes goes on from the state before."""
        draft = path.with_suffix(".draft")
        whole = {
            "what": self._what,
            "module": self._module.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "average": self._average,
            "step": self.step,
            "elapsed": self.elapsed,
            "running": self.running,
        }
        torch.save(whole, draft)
        draft.replace(path)

    def go_on_from(self, path: Path, device: torch.device) -> None:
        kept = torch.load(path, map_location=device, weights_only=True)
        if kept["what"] != self._what:
            raise Refused(f"{path} is of a training of {kept['what']}, not of {self._what}: end that, or remove it")
        self._module.load_state_dict(kept["module"])
        self._optimiser.load_state_dict(kept["optimiser"])
        self._average = kept["average"]
        self.step, self.elapsed, self.running = kept["step"], kept["elapsed"], kept["running"]
