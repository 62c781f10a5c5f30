"""Settings of Wan."""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from services.levers import CheckpointSettings, Offload, Precision, StepCache
from services.wan.request import MAX_FRAMES
from services.weights.loras.files import UnsafeLora, check_lora


def _exact(rate: object) -> object:
    """Convert a float to its decimal digits, so that 23.976 becomes an exact fraction."""
    return str(rate) if isinstance(rate, float) else rate


class Lora(BaseModel):
    """A low-rank adaptation (LoRA) that is loaded at startup and always active."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: Annotated[str, BeforeValidator(str)]
    """Path of a safetensors file; a relative path starts at `lora_dir`."""
    weight: Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)] = 1.0
    expert: Literal["high", "low", "both"] = "both"
    """Expert that uses the LoRA: high-noise, low-noise, or all experts of the checkpoint."""


class WanSettings(CheckpointSettings):
    """Settings of a replica."""

    dtype: Precision = "bfloat16"
    """Precision of the transformers and the text encoder."""
    vae_dtype: Precision = "float32"
    offload: Offload = "none"
    attention: str | None = None
    """Attention backend of diffusers, e.g. `_native_cudnn` or `_flash_3`; by default diffusers chooses."""
    compile: bool = False
    """Compile the transformers' blocks on first use, which takes minutes."""
    step_cache: StepCache | None = None
    loras: tuple[Lora, ...] = ()
    lora_dir: Path | None = None
    """Folder that must contain all LoRA files, if set."""
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

    @model_validator(mode="after")
    def _loras_are_safe(self) -> "WanSettings":
        for lora in self.loras:
            try:
                check_lora(lora.file, self.path_of(lora), self.lora_dir)
            except UnsafeLora as error:
                raise ValueError(f"loras: {error}") from error
        return self

    def path_of(self, lora: Lora) -> Path:
        """Return the path of the file of `lora`, with symbolic links resolved."""
        return ((self.lora_dir or Path()) / lora.file).resolve()
