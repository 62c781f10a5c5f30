"""The training loop of all recipes: budget, learning-rate schedule, averaged weights, and resuming."""

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
"""Steps over which the learning rate rises."""
SAVE_EVERY_S = 120.0
LOG_EVERY_S = 20.0


class Refused(Exception):
    """The requested training is not possible; the message says why."""


class Recipe(Protocol):
    """A module to train, its batches and its loss."""

    lr: float
    """Learning rate of matrices."""
    adam_lr: float
    """Learning rate of all other parameters."""
    steps: int
    """Number of steps of the shipped checkpoint."""

    @property
    def module(self) -> nn.Module:
        """The module with all trained weights, in float32."""
        ...

    def loss(self, rng: np.random.Generator, progress: float) -> Tensor:
        """Draw a batch and return its loss.

        Args:
            rng: random generator of this step; torch's generator is seeded for the step too.
            progress: completed share of the training, in [0, 1).
        """
        ...


@dataclass(frozen=True)
class Budget:
    """Length of a training, in steps or in minutes."""

    steps: int
    minutes: float | None = None
    """Replaces `steps`: the schedule then follows the clock, and runs are not exactly reproducible."""

    def __str__(self) -> str:
        return f"{self.steps} steps" if self.minutes is None else f"{self.minutes:g} minutes"

    def progress(self, step: int, elapsed: float) -> float:
        return step / self.steps if self.minutes is None else elapsed / (60 * self.minutes)


@dataclass(frozen=True)
class Trained:
    """Steps, time and loss of a finished training."""

    steps: int
    seconds: float
    loss: float
    """Average over the last steps."""


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
        recipe: what to train.
        seed: seed of all randomness. Each step has its own generator, so a resumed training draws the same batches.
        budget: length of the training.
        device: device to which the module is moved.
        state: file in which the training is saved and from which it resumes; the caller removes it at the end.
        save_every_s: seconds between two saves.

    Raises:
        Refused: `state` belongs to another training.
    """
    training = _Training(recipe, device, f"seed {seed}, {budget}")
    if state is not None and state.is_file():
        training.go_on_from(state, device)
    began = time.monotonic() - training.elapsed
    saved = reported = time.monotonic()
    while (progress := budget.progress(training.step, time.monotonic() - began)) < 1:
        training.learn(seed, progress)
        now = time.monotonic()
        training.elapsed = now - began
        if now - reported > LOG_EVERY_S:
            reported = now
            training.tell(progress)
        if state is not None and now - saved > save_every_s:
            saved = now
            training.keep(state)
    if state is not None:
        training.keep(state)
    training.finish()
    return Trained(training.step, time.monotonic() - began, training.running)


def link_shared(folder: Path, owner: Path) -> None:
    """Replace `folder` by a link to `owner`, a folder of another checkpoint with the same weights.

    Raises:
        ValueError: the weights differ.
    """
    if folder.is_symlink():
        return
    for path in folder.glob("*.safetensors"):
        if path.read_bytes() != (owner / path.name).read_bytes():
            raise ValueError(f"{path} differs from {owner / path.name}")
    shutil.rmtree(folder)
    folder.symlink_to(os.path.relpath(owner.resolve(), folder.parent.resolve()), target_is_directory=True)


class _Training:
    """The state of a training."""

    def __init__(self, recipe: Recipe, device: torch.device, what: str) -> None:
        self._recipe = recipe
        self._what = what
        self._module = recipe.module.to(device)
        trained = [parameter for parameter in self._module.parameters() if parameter.requires_grad]
        self._optimiser = Muon(trained, recipe.lr, recipe.adam_lr)
        self._average = {name: value.detach().clone() for name, value in self._module.state_dict().items()}
        self.step, self.elapsed, self.running = 0, 0.0, math.nan

    def learn(self, seed: int, progress: float) -> None:
        """Run one step."""
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
        line = f"step {self.step}, {100 * progress:.0f} %, {self.elapsed:.0f} s"
        print(f"{line}, loss {self.running:.4f}", flush=True)

    def finish(self) -> None:
        self._module.load_state_dict(self._average)

    def keep(self, path: Path) -> None:
        """Save the state atomically: an interrupted write leaves the previous state."""
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
        saved = torch.load(path, map_location=device, weights_only=True)
        if saved["what"] != self._what:
            raise Refused(f"{path} belongs to a training of {saved['what']}, not of {self._what}; finish or remove it")
        self._module.load_state_dict(saved["module"])
        self._optimiser.load_state_dict(saved["optimiser"])
        self._average = saved["average"]
        self.step, self.elapsed, self.running = saved["step"], saved["elapsed"], saved["running"]
