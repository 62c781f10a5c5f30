"""Settings of Wan."""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from services.levers import CheckpointSettings, Offload, Precision, StepCache
from services.wan.request import MAX_FRAMES
from services.weights.loras import UnsafeLora, check_lora


def _exact(rate: object) -> object:
    """Read 23.976 as its decimal digits say, not as the nearest double."""
    return str(rate) if isinstance(rate, float) else rate


class Lora(BaseModel):
    """A low-rank adaptation that is loaded at the start and always on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: Annotated[str, BeforeValidator(str)]
    """A safetensors file; a relative path lies in `lora_dir`."""
    weight: Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)] = 1.0
    expert: Literal["high", "low", "both"] = "both"
    """The high-noise or the low-noise expert; `both` is every expert the checkpoint has."""


class WanSettings(CheckpointSettings):
    """Settings of a replica."""

    dtype: Precision = "bfloat16"
    """Of the transformers and the text encoder."""
    vae_dtype: Precision = "float32"
    offload: Offload = "none"
    attention: str | None = None
    """An attention backend of diffusers, e.g. `_native_cudnn` or `_flash_3`; by default its own choice."""
    compile: bool = False
    """Compile the transformers' blocks on first use, which then takes minutes."""
    step_cache: StepCache | None = None
    loras: tuple[Lora, ...] = ()
    lora_dir: Path | None = None
    """When set, every LoRA file must lie in it."""
    rate: Annotated[Fraction, BeforeValidator(_exact), Field(gt=0, le=240)] | None = None
    """Frames per second of what the checkpoint makes; by default 24 for TI2V, else 16."""
    preview_every: Annotated[int, Field(ge=0)] = 0
    """Every so many denoising steps the progress carries a preview of the middle frame; 0 is never."""
    max_sequence_length: Annotated[int, Field(ge=1, le=4096)] = 512
    """Tokens of the prompt."""
    max_frames: Annotated[int, Field(ge=1, le=MAX_FRAMES)] = 241
    max_area: Annotated[int, Field(ge=1)] = 1280 * 720
    """Pixels of a frame."""
    max_steps: Annotated[int, Field(ge=1)] = 100

    @property
    def limits(self) -> Mapping[str, int]:
        return {"num_frames": self.max_frames, "max_area": self.max_area, "steps": self.max_steps}

    @model_validator(mode="after")
    def _loras_are_safe(self) -> "WanSettings":
        for lora in self.loras:
            try:
                check_lora(lora.file, self.path_of(lora), self.lora_dir)
            except UnsafeLora as error:
                raise ValueError(f"loras: {error}") from error
        return self

    def path_of(self, lora: Lora) -> Path:
        """Return where the file of `lora` lies, links followed."""
        return ((self.lora_dir or Path()) / lora.file).resolve()
