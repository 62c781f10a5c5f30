"""Settings of Wan."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated

from pydantic import BeforeValidator, Field

from services.levers import Precision, StepCache
from services.wan.request import MAX_FRAMES, Expert
from services.weights.loras.settings import FixedLora, LoraSettings


def _exact(rate: object) -> object:
    """Convert a float to its decimal digits, so that 23.976 becomes an exact fraction."""
    return str(rate) if isinstance(rate, float) else rate


class ExpertLora(FixedLora):
    """A low-rank adaptation (LoRA) that is loaded at startup and active for every request."""

    expert: Expert = "both"
    """Expert that uses the LoRA: high-noise, low-noise, or all experts of the checkpoint."""

    @property
    def expert_name(self) -> str:
        return "" if self.expert == "both" else self.expert


class WanSettings(LoraSettings[ExpertLora]):
    """Settings of a replica."""

    dtype: Precision = "bfloat16"
    """Precision of the transformers and the text encoder."""
    vae_dtype: Precision = "float32"
    attention: str | None = None
    """Attention backend of diffusers, e.g. `_native_cudnn` or `_flash_3`; by default diffusers chooses."""
    step_cache: StepCache | None = None
    rate: Annotated[Fraction, BeforeValidator(_exact), Field(gt=0, le=240)] | None = None
    """Frames per second of the generated videos; by default 24 for TI2V and 16 for other checkpoints."""
    preview_every: Annotated[int, Field(ge=0)] = 0
    """Interval between previews of the middle frame, in denoising steps; 0 turns previews off."""
    max_sequence_length: Annotated[int, Field(ge=1, le=4096)] = 512
    """Maximum length of the prompt, in tokens."""
    max_frames: Annotated[int, Field(ge=1, le=MAX_FRAMES)] = 241
    max_area: Annotated[int, Field(ge=1)] = 1280 * 720
    """Largest number of pixels of a frame."""
    max_steps: Annotated[int, Field(ge=1)] = 100

    @property
    def limits(self) -> Mapping[str, int]:
        return {"num_frames": self.max_frames, "max_area": self.max_area, "steps": self.max_steps}
