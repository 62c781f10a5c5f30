"""Settings that several models share. No torch: what they do to a model is in `device.py`."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

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
