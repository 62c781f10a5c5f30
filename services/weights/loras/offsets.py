"""Changes of biases and norms, which some LoRA files contain beside their low-rank matrices."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


class Offsets:
    """Adds tensors to a network's parameters, and restores them exactly.

    Args:
        network: before low-rank layers are added to it, because these rename parameters.
    """

    def __init__(self, network: nn.Module) -> None:
        self._parameters = dict(network.named_parameters())
        self._originals: dict[str, Tensor] = {}

    @torch.no_grad()
    def apply(self, offsets: Iterable[tuple[Mapping[str, Tensor], float]]) -> None:
        """Add tensors to parameters, summed in float32, in addition to what is applied already.

        Args:
            offsets: pairs of tensors by the parameter's name, and their weight.
        """
        sums: dict[str, Tensor] = {}
        for tensors, weight in offsets:
            for name, tensor in tensors.items():
                sums[name] = sums.get(name, torch.zeros(())) + weight * tensor.float()
        for name, total in sums.items():
            parameter = self._parameters[name]
            self._originals.setdefault(name, parameter.detach().clone())
            parameter.copy_(parameter.float() + total.to(parameter.device))  # in place, as compiled code requires

    @torch.no_grad()
    def undo(self) -> None:
        """Restore all parameters."""
        while self._originals:
            name, original = self._originals.popitem()
            self._parameters[name].copy_(original)
