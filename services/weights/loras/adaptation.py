"""What a LoRA file changes in a transformer.

Source: LoRA: Low-Rank Adaptation of Large Language Models, arXiv 2106.09685.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

Architecture = Literal["flux", "wan", "qwen-image"]
"""A family of transformers whose layers have the same names in LoRA files."""


@dataclass(frozen=True, slots=True)
class Target:
    """The transformer that a LoRA is read for."""

    architecture: Architecture
    layers: Mapping[str, tuple[int, int]]
    """Name of each linear layer, as in diffusers → number of inputs and outputs."""
    parameters: Mapping[str, tuple[int, ...]]
    """Name of each parameter, as in diffusers → shape."""


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """A low-rank change of one linear layer: `up @ down` is added to its weight."""

    down: Tensor
    """(rank, inputs)."""
    up: Tensor
    """(outputs, rank), with the file's alpha over the rank folded in."""

    @property
    def rank(self) -> int:
        return self.down.shape[0]


@dataclass(frozen=True, slots=True, eq=False)
class Adaptation:
    """The changes of one LoRA file to a transformer, at weight 1."""

    layout: str
    """Name of the file's layout, e.g. `sd-scripts`."""
    layers: Mapping[str, LowRank]
    """Name of a linear layer, as in diffusers → its change."""
    offsets: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """Name of a parameter, e.g. a bias or a norm's weight → the tensor that is added to it."""
    omitted: tuple[str, ...] = ()
    """Parts of the file that are not applied, e.g. `CLIP-L (72 layers)`, for the notice in the record."""

    @property
    def rank(self) -> int:
        """Highest rank over the layers; 0 if there is none."""
        return max((change.rank for change in self.layers.values()), default=0)
