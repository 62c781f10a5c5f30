"""Schedulers that several models use."""

from typing import Any

from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor


class CapturingEuler(FlowMatchEulerDiscreteScheduler):
    """Flow-matching Euler scheduler that stores the velocity of its last step, after guidance and rescaling."""

    velocity: Tensor | None = None

    def step(self, model_output: Tensor, *args: Any, **kwargs: Any) -> Any:
        self.velocity = model_output
        return super().step(model_output, *args, **kwargs)
