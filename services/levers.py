"""Settings shared by several models. `device.py` applies them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.weights.weights import Weights

Precision = Literal["bfloat16", "float16", "float32"]
Offload = Literal["none", "model", "group", "sequential"]
"""What to keep in CPU memory: nothing, whole networks, layers that are prefetched, or each layer. Never the VAE."""


class StepCache(BaseModel):
    """First Block Cache of ParaAttention: skip the other blocks if the first block's residual changes little in a step.

    It is lossy, and does not help distilled models with 4 to 8 steps.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["first_block"] = "first_block"
    threshold: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = 0.08
    """Relative change of the residual below which the blocks are skipped; usually 0.05 to 0.2."""


class ModelSettings(BaseModel, ABC):
    """Settings of a replica."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: str = "auto"
    """A torch device, e.g. `cuda:1`; `auto` is the first GPU, or the CPU if there is no GPU."""

    @property
    def limits(self) -> Mapping[str, int]:
        """Request field → largest value that this deployment accepts."""
        return {}

    @property
    def unmeasured(self) -> Mapping[str, str]:
        """Score that this deployment does not measure → the setting that it lacks."""
        return {}

    @property
    @abstractmethod
    def source(self) -> str:
        """Source of the weights: a repository, `path:FOLDER`, or the name of a file included in the project."""

    @property
    @abstractmethod
    def revision(self) -> str:
        """Commit of the repository; empty if the source is not a repository."""


class CheckpointSettings(ModelSettings):
    """Settings of a replica with one checkpoint."""

    weights: Weights
    max_pflop: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Largest cost of a request in 10^15 floating-point operations, beside the limits of its fields; by default no
    limit. `reel models check` prints what requests cost."""

    @property
    def source(self) -> str:
        return self.weights.source

    @property
    def revision(self) -> str:
        return self.weights.revision or ""
