"""The Muon optimizer: momentum with orthogonalised updates for matrices, AdamW for all other parameters.

Source: K. Jordan, https://kellerjordan.github.io/posts/muon/. torch's own version accepts two-dimensional parameters
only, and most parameters here are convolutions.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration that brings singular values close to 1 in five steps."""


class Muon(torch.optim.Optimizer):
    """Muon with AdamW.

    Args:
        parameters: parameters to train.
        lr: step size of matrices and convolutions.
        adam_lr: step size of vectors and of matrices with a side of 4 or less.
    """

    def __init__(self, parameters: Iterable[Parameter], lr: float = 0.02, adam_lr: float = 1e-3) -> None:
        matrices, rest = [], []
        for parameter in parameters:
            wide = parameter.ndim >= 2 and min(parameter.shape[0], parameter[0].numel()) > 4
            (matrices if wide else rest).append(parameter)
        groups = [
            {"params": matrices, "matrices": True, "lr": lr, "base": lr},
            {"params": rest, "matrices": False, "lr": adam_lr, "base": adam_lr},
        ]
        super().__init__([group for group in groups if group["params"]], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update each parameter that has a gradient."""
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    (_orthogonal if group["matrices"] else _adam)(parameter, self.state[parameter], group["lr"])


def _orthogonal(parameter: Tensor, state: dict[str, Any], lr: float, momentum: float = 0.9) -> None:
    gradient = parameter.grad.float()
    average = state["average"] if state else state.setdefault("average", torch.zeros_like(gradient))
    average.mul_(momentum).add_(gradient)
    matrix = gradient.add(average, alpha=momentum).reshape(len(gradient), -1)
    tall = matrix.shape[0] > matrix.shape[1]
    update = matrix.T if tall else matrix
    update = (update / (update.norm() + 1e-7)).bfloat16()
    a, b, c = NEWTON_SCHULZ
    for _ in range(5):
        square = update @ update.T
        update = a * update + (b * square + c * square @ square) @ update
    update = (update.T if tall else update).float().reshape(gradient.shape)
    parameter.add_(update, alpha=-lr * max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5)


def _adam(parameter: Tensor, state: dict[str, Any], lr: float, betas: tuple[float, float] = (0.9, 0.98)) -> None:
    gradient = parameter.grad.float()
    first = state.setdefault("first", torch.zeros_like(gradient))
    second = state.setdefault("second", torch.zeros_like(gradient))
    state["steps"] = steps = state.get("steps", 0) + 1
    first.lerp_(gradient, 1 - betas[0])
    second.lerp_(gradient.square(), 1 - betas[1])
    scale = (second / (1 - betas[1] ** steps)).sqrt().add_(1e-8)
    parameter.addcdiv_(first, scale, value=-lr / (1 - betas[0] ** steps))
