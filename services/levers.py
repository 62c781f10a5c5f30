"""Settings that several models share. They are applied in `device.py`."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.weights.weights import Weights

Precision = Literal["bfloat16", "float16", "float32"]
Offload = Literal["none", "model", "group", "sequential"]
"""What waits in the CPU's memory: nothing, whole models, layers fetched ahead, or every layer. Never the VAE."""


class StepCache(BaseModel):
    """Skip the blocks after the first one while that one's residual hardly changes between two steps.

    Lossy. Source: First Block Cache of ParaAttention; useless for distilled models of 4 to 8 steps.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["first_block"] = "first_block"
    threshold: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = 0.08
    """Relative change of the residual below which the blocks are skipped; 0.05 to 0.2 in practice."""


class ModelSettings(BaseModel, ABC):
    """Settings of a replica."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: str = "auto"
    """A torch device, e.g. `cuda:1`; `auto` is the first GPU where there is one, else the CPU."""

    @property
    def limits(self) -> Mapping[str, int]:
        """Field of a request → the largest value that this deployment takes."""
        return {}

    @property
    @abstractmethod
    def source(self) -> str:
        """Where the weights come from: a repository, `path:FOLDER`, or a file that comes with the project."""

    @property
    @abstractmethod
    def revision(self) -> str:
        """The commit of the repository; empty where there is none."""


class CheckpointSettings(ModelSettings):
    """Settings of a replica with one checkpoint."""

    weights: Weights

    @property
    def source(self) -> str:
        return self.weights.source

    @property
    def revision(self) -> str:
        return self.weights.revision or ""
