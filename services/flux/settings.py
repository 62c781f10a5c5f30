"""Settings of Flux."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.flux.request import MAX_PICTURES
from services.levers import Offload, Precision, StepCache
from services.weights.loras.settings import FixedLora, LoraSettings
from services.weights.weights import Weights

IdentityVariant = Literal["aes_stage2", "sim_stage1"]
PUBLISHED = "infu_flux_v1.0"
"""Folder of the variants in InfiniteYou's repository."""


class IdentitySettings(BaseModel):
    """Settings of InfiniteYou, which preserves the identity of a face.

    InfiniteYou's weights are licensed under CC-BY-NC-4.0, for non-commercial use only. The same holds for insightface's
    model packs, which detect the face.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: Weights
    """Folder with `InfuseNetModel/` and `image_proj_model.safetensors` (or `.bin`, as published by InfiniteYou)."""
    subfolder: str = ""
    """Path of that folder within `weights`."""
    variant: IdentityVariant | None = None
    """One of the two published forms, instead of `subfolder`: `aes_stage2` makes better pictures and follows the prompt
    more closely, `sim_stage1` resembles the person more. Each takes 6 GB of GPU memory; to let requests choose, serve
    two models. From a hub only the files of this form are downloaded, unless `weights.files` names others."""

    @property
    def folder(self) -> str:
        """Path of the nets within `weights`."""
        return self.subfolder if self.variant is None else f"{PUBLISHED}/{self.variant}"

    @model_validator(mode="before")
    @classmethod
    def _fetch_only_the_variant(cls, values: object) -> object:
        if not isinstance(values, Mapping):
            return values
        given = cast("Mapping[str, Any]", values)
        if not given.keys() >= {"variant", "weights"} or given["variant"] is None:
            return given
        weights = Weights.model_validate(given["weights"])
        if weights.repository is None or weights.files:
            return given
        return {**given, "weights": weights.model_copy(update={"files": (f"{PUBLISHED}/{given['variant']}/*",)})}

    @model_validator(mode="after")
    def _inside(self) -> "IdentitySettings":
        path = PurePosixPath(self.subfolder)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"subfolder: must lie inside the weights, got {self.subfolder}")
        if self.subfolder and self.variant is not None:
            raise ValueError(f"variant: give either this or subfolder, got {self.variant} and {self.subfolder}")
        return self


class FluxSettings(LoraSettings[FixedLora]):
    """Settings of a replica.

    The weights of FLUX.1-dev are under a non-commercial licence.
    """

    dtype: Precision = "bfloat16"
    offload: Offload = "none"
    """What to keep in CPU memory. The networks of `identity` always stay on the device."""
    attention: str | None = None
    """Attention backend of diffusers, e.g. `_native_cudnn` or `_flash_3`; by default diffusers chooses."""
    step_cache: StepCache | None = None
    """Step cache. It is not used for requests with a face, whose pipeline in diffusers does not support it."""
    identity: IdentitySettings | None = None
    """Required for requests with a face."""
    preview_every: Annotated[int, Field(ge=0)] = 0
    """Interval between previews, in denoising steps; 0 turns previews off."""
    max_sequence_length: Annotated[int, Field(ge=1, le=512)] = 512
    """Number of prompt tokens that T5 reads. CLIP reads 77."""
    max_n: Annotated[int, Field(ge=1, le=MAX_PICTURES)] = MAX_PICTURES
    max_area: Annotated[int, Field(ge=16 * 16)] = 1920 * 1088
    """Largest number of pixels of an image."""
    max_steps: Annotated[int, Field(ge=1)] = 100

    @property
    def limits(self) -> Mapping[str, int]:
        return {"n": self.max_n, "max_area": self.max_area, "steps": self.max_steps}
