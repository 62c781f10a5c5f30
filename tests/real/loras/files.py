"""LoRA files as trainers write them, and the same changes made by hand."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypedDict, Unpack

import torch
from torch import Tensor

from services.weights.loras.adaptation import Architecture
from tests.real.loras.transformers import convert, find_target, list_own_shapes

RANK = 4


class How(TypedDict, total=False):
    """How a trainer writes its keys: the arguments of Trainer."""

    write: Callable[[str], str]
    down: str
    up: str
    alpha: float
    scale: float
    dtype: torch.dtype


@dataclass
class Trainer:
    """Writes the keys of a layout."""

    architecture: Architecture
    write: Callable[[str], str] = lambda name: name
    """Name of a layer → its key without the ending."""
    own: bool = True
    """Whether layers are named by the model's own code and not by diffusers."""
    down: str = ".lora_down.weight"
    up: str = ".lora_up.weight"
    alpha: float | None = None
    """Value of the alpha tensors; None: the file has none."""
    scale: float = 1.0
    """What the product is scaled by, if there are no alpha tensors."""
    dtype: torch.dtype = torch.float32
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """Contents of the file."""
    changes: dict[str, Tensor] = field(default_factory=dict)
    """Parameter → its change, by hand."""
    random: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(7))

    def find_shape(self, parameter: str) -> tuple[int, ...]:
        shapes = list_own_shapes(self.architecture) if self.own else find_target(self.architecture).parameters
        return shapes[parameter]

    def draw(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.random).to(self.dtype)

    def add(self, layers: Iterable[str]) -> "Trainer":
        """Add low-rank changes of layers."""
        for layer in layers:
            outputs, inputs = self.find_shape(f"{layer}.weight")
            down, up = self.draw(RANK, inputs), self.draw(outputs, RANK)
            stem = self.write(layer)
            self.tensors |= {stem + self.down: down, stem + self.up: up}
            scale = self.scale
            if self.alpha is not None:
                self.tensors[f"{stem}.alpha"] = torch.tensor(self.alpha)
                scale = self.alpha / RANK
            self.changes[f"{layer}.weight"] = scale * (up.float() @ down.float())
        return self

    def add_differences(self, parameters: Mapping[str, str]) -> "Trainer":
        """Add differences of parameters. `parameters`: key after the prefix → parameter."""
        for key, parameter in parameters.items():
            difference = self.draw(*self.find_shape(parameter))
            self.tensors[self.write("") + key] = difference
            self.changes[parameter] = difference.float()
        return self

    def list_changes(self) -> dict[str, Tensor]:
        """Return the changes by hand, by diffusers' names; those that are zero are left out."""
        changes = convert(self.architecture, self.changes) if self.own else self.changes
        return {name: change for name, change in changes.items() if change.any()}


def train(architecture: Architecture, *hows: How, own: bool = True, **how: Unpack[How]) -> Trainer:
    """Return a trainer; later arguments take precedence."""
    merged = How()
    for each in (*hows, how):
        merged |= each
    return Trainer(architecture, own=own, **merged)


def flatten(prefix: str) -> Callable[[str], str]:
    """Return a writer of keys whose dots are replaced by underscores."""
    return lambda name: prefix + name.replace(".", "_")


def begin(prefix: str) -> Callable[[str], str]:
    """Return a writer of keys with a prefix."""
    return lambda name: prefix + name


def clip_l(prefix: str = "lora_te1_text_model_encoder_layers_{}_{}", layers: int = 12) -> dict[str, Tensor]:
    """Return the part of CLIP-L: six linear layers in each block."""
    names = ("self_attn_q_proj", "self_attn_k_proj", "self_attn_v_proj", "self_attn_out_proj", "mlp_fc1", "mlp_fc2")
    stems = [prefix.format(layer, name) for layer in range(layers) for name in names]
    return {
        f"{stem}.{end}": torch.ones(shape)
        for stem in stems
        for end, shape in (("lora_down.weight", (1, 4)), ("lora_up.weight", (4, 1)), ("alpha", ()))
    }


def t5(prefix: str = "lora_te3_encoder_block_{}_layer_0_SelfAttention_q") -> dict[str, Tensor]:
    """Return the part of T5: the queries of 24 blocks."""
    return {
        f"{prefix.format(block)}.{end}": torch.ones(shape)
        for block in range(24)
        for end, shape in (("lora_down.weight", (1, 4)), ("lora_up.weight", (4, 1)), ("alpha", ()))
    }
