"""Settings of InstantID's face detection."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from services.instantid.request import Requirements
from services.levers import ModelSettings
from services.weights.weights import Weights

Probability = Annotated[float, Field(gt=0, lt=1)]


class MtcnnSettings(BaseModel):
    """Settings of MTCNN. Its weights are part of the project (MIT)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: Literal["mtcnn"] = "mtcnn"
    min_size: Annotated[int, Field(ge=12)] = 20
    """Size of the smallest face to search for, in pixels."""
    max_side: Annotated[int, Field(ge=64)] = 1024
    """Longer side in pixels above which `min_size` grows in proportion, so that the search time stays bounded."""
    factor: Annotated[float, Field(gt=0.1, lt=1)] = 0.709
    """Scale factor of the picture from one step of the search to the next, where larger faces are found."""
    thresholds: tuple[Probability, Probability, Probability] = (0.6, 0.7, 0.7)
    """Minimum face probability in the first, the second and the third network."""


class InsightFaceSettings(BaseModel):
    """Settings of an insightface model pack, e.g. `antelopev2`, which InfiniteYou uses.

    The packs may be used for non-commercial research only. They are not downloaded: the operator accepts the licence
    and unpacks one. Needs the packages `insightface` and `onnxruntime` (`onnxruntime-gpu` on a GPU).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: Literal["insightface"]
    pack: Path
    """Folder of the pack's `.onnx` files."""
    sizes: Annotated[tuple[Annotated[int, Field(ge=32, le=4096, multiple_of=32)], ...], Field(min_length=1)] = (
        640,
        320,
        160,
    )
    """Sides in pixels of the square the picture is fitted into, tried in order until a face is found: faces that nearly
    fill the picture are found only at a small size."""
    threshold: Probability = 0.5
    """Minimum face probability."""


class InstantIdSettings(Requirements, ModelSettings):
    """Settings of a replica."""

    recogniser: Weights
    """Weights of ArcFace's IR-SE50, as distributed by facexlib and InfiniteYou."""
    recogniser_file: str = "recognition_arcface_ir_se50.pth"
    """Path of the weights within `recogniser`: a safetensors file, or a pickle that contains only tensors."""
    detector: Annotated[MtcnnSettings | InsightFaceSettings, Field(discriminator="kind")] = MtcnnSettings()

    @property
    def source(self) -> str:
        return self.recogniser.source

    @property
    def revision(self) -> str:
        return self.recogniser.revision or ""

    @field_validator("recogniser_file")
    @classmethod
    def _inside(cls, file: str) -> str:
        if Path(file).is_absolute() or ".." in Path(file).parts:
            raise ValueError(f"must be inside the recogniser's folder, got {file}")
        return file
