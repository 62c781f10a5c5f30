"""Settings of Flux."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.flux.request import MAX_LORAS, MAX_PICTURES, LoraName
from services.levers import CheckpointSettings, Offload, Precision, StepCache
from services.weights.weights import RepositoryFile, Weights


class LoraRepository(RepositoryFile):
    """A LoRA on the Hugging Face hub that requests may ask for by its name here."""

    name: LoraName
    file: Annotated[str, Field(pattern=r"\.safetensors$")]
    """Its path in the repository."""


class IdentitySettings(BaseModel):
    """The nets that hold a face's identity.

    InfiniteYou's weights are CC-BY-NC-4.0: not for commercial use. Nor are insightface's, which find the face.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: Weights
    """A folder with `InfuseNetModel/` and `image_proj_model.safetensors` (or `.bin`, as InfiniteYou publishes it)."""
    subfolder: str = ""
    """Where in `weights` that folder is, e.g. `infu_flux_v1.0/aes_stage2`."""

    @model_validator(mode="after")
    def _inside(self) -> "IdentitySettings":
        path = PurePosixPath(self.subfolder)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"subfolder: must lie inside the weights, got {self.subfolder}")
        return self


class FluxSettings(CheckpointSettings):
    """Settings of a replica.

    FLUX.1-dev's weights are under a non-commercial licence.
    """

    dtype: Precision = "bfloat16"
    offload: Offload = "none"
    """The nets of `identity` stay on the device whatever this says."""
    attention: str | None = None
    """An attention backend of diffusers, e.g. `_native_cudnn` or `_flash_3`; by default its own choice."""
    compile: bool = False
    """Compile the blocks on first use, which takes minutes; again for each number of LoRAs at once that is new."""
    step_cache: StepCache | None = None
    """Off while a face acts: diffusers' pipeline for it cannot use one."""
    identity: IdentitySettings | None = None
    """Without it no face can be given."""
    lora_dir: Path | None = None
    """Any safetensors file in it may be asked for; without it none."""
    lora_repositories: tuple[LoraRepository, ...] = ()
    """Files on the hub that may be asked for too. Each is downloaded when it is first asked for; whether its licence is
    accepted is checked at the start."""
    max_loras: Annotated[int, Field(ge=1, le=64)] = MAX_LORAS
    """LoRAs held in memory, and at most in one request. The one that was used longest ago goes first."""
    max_lora_rank: Annotated[int, Field(ge=1, le=4096)] = 128
    """With `compile` each LoRA takes the memory of this rank."""
    max_lora_bytes: Annotated[int, Field(ge=1)] = 2 * 1024**3
    """Of one file."""
    preview_every: Annotated[int, Field(ge=0)] = 0
    """Every so many denoising steps the progress carries a preview; 0 is never."""
    max_sequence_length: Annotated[int, Field(ge=1, le=512)] = 512
    """Tokens of the prompt that T5 reads. CLIP reads 77."""
    max_n: Annotated[int, Field(ge=1, le=MAX_PICTURES)] = MAX_PICTURES
    max_area: Annotated[int, Field(ge=16 * 16)] = 1920 * 1088
    """Pixels of a picture."""
    max_steps: Annotated[int, Field(ge=1)] = 100

    @property
    def limits(self) -> Mapping[str, int]:
        return {"n": self.max_n, "max_area": self.max_area, "steps": self.max_steps}

    @model_validator(mode="after")
    def _each_name_once(self) -> "FluxSettings":
        names = [known.name for known in self.lora_repositories]
        if len(set(names)) < len(names):
            raise ValueError(f"lora_repositories: a name is there twice, got {names}")
        return self
