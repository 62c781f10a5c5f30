"""Schedulers that several models need. With `device.py` and `pixels.py` the only shared torch."""

from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor


class CapturingEuler(FlowMatchEulerDiscreteScheduler):
    """Flow-matching Euler that keeps the velocity of its last step, guidance and rescaling included."""

    velocity: Tensor | None = None

    def step(self, model_output: Tensor, *args: Any, **kwargs: Any) -> Any:
        self.velocity = model_output
        return super().step(model_output, *args, **kwargs)
