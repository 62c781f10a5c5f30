"""Settings of InstantID's face detection."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from services.instantid.request import Requirements
from services.levers import ModelSettings
from services.weights.web_file import WebFile
from services.weights.weights import Weights

Probability = Annotated[float, Field(gt=0, lt=1)]


class MtcnnSettings(BaseModel):
    """Settings of MTCNN, whose weights are included in the project (MIT licence)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: Literal["mtcnn"] = "mtcnn"
    min_size: Annotated[int, Field(ge=12)] = 20
    """Smallest face to detect, in pixels."""
    max_side: Annotated[int, Field(ge=64)] = 1024
    """Longer side of an image, in pixels, above which `min_size` grows in proportion, to bound the detection time."""
    factor: Annotated[float, Field(gt=0.1, lt=1)] = 0.709
    """Scale factor between the levels of the image pyramid."""
    thresholds: tuple[Probability, Probability, Probability] = (0.6, 0.7, 0.7)
    """Detection thresholds of the first, second and third network."""


class InsightFaceSettings(BaseModel):
    """Settings of a model pack of insightface, e.g. `antelopev2`, which InfiniteYou uses.

    The packs are licensed for non-commercial research only. They are not downloaded automatically: the operator accepts
    the licence and unpacks one. Requires the packages `insightface` and `onnxruntime` (`onnxruntime-gpu` on a GPU).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: Literal["insightface"]
    pack: Path
    """Folder with the pack's `.onnx` files."""
    sizes: Annotated[tuple[Annotated[int, Field(ge=32, le=4096, multiple_of=32)], ...], Field(min_length=1)] = (
        640,
        320,
        160,
    )
    """Sides of the detector's square input, in pixels, tried in order until a face is found: faces that nearly fill the
    image are detected only at small sizes."""
    threshold: Probability = 0.5


class InstantIdSettings(Requirements, ModelSettings):
    """Settings of a replica."""

    recogniser: Weights | WebFile
    """Folder or repository with the ArcFace IR-SE50 weights, or their file by `{url, sha256}`, as in
    facexlib and InfiniteYou."""
    recogniser_file: str = "recognition_arcface_ir_se50.pth"
    """Path of the weights in a folder or repository: a safetensors file, or a pickle that contains only tensors."""
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
