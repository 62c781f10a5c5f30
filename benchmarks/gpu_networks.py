"""The networks of known checkpoints at full size, with random weights, built in the memory of a device."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from services.checkpoint import Component
from services.weights.networks import find_class

SEED = 9


@dataclass(frozen=True, slots=True)
class Parts:
    """The networks of a model, on one device."""

    networks: Mapping[str, Any]
    """Name of the component → the network."""
    device: torch.device
    dtype: torch.dtype
    """Data type in which the model denoises."""

    def draw(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Return normal noise; by default in the model's data type."""
        return torch.randn(shape, device=self.device, dtype=self.dtype if dtype is None else dtype)

    def count(self, *shape: int) -> Tensor:
        """Return a tensor of ones of the type of tokens, masks and time steps."""
        return torch.ones(shape, device=self.device, dtype=torch.long)


def build(component: Component, device: torch.device, dtype: torch.dtype) -> Any:
    """Build a network on a device, without a copy in host memory, and draw its weights.

    The tensors that diffusers keeps in float32 when it loads a checkpoint are float32 here, too.

    Raises:
        torch.OutOfMemoryError: the device has too little memory.
    """
    made = find_class(component)
    with device, _as_default(dtype):
        if component.library == "transformers":
            network = made(made.config_class(**component.config))
        else:
            network = made(**component.config)
    network.eval().requires_grad_(False)
    kept: Any = getattr(network, "_keep_in_fp32_modules", None) if component.library == "diffusers" else None
    for name, weight in network.named_parameters():
        is_kept = not set(kept or ()).isdisjoint(name.split("."))
        weight.data = weight.data.to(torch.float32 if is_kept else dtype)
    draw_weights(network, device)
    return network


def draw_weights(network: nn.Module, device: torch.device) -> None:
    """Draw all matrices and kernels, scaled so that values neither grow nor vanish; zeros would need less power."""
    generator = torch.Generator(device).manual_seed(SEED)
    for weight in network.parameters():
        if weight.ndim > 1:
            weight.data.normal_(0, weight[0].numel() ** -0.5, generator=generator)


@contextmanager
def _as_default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
