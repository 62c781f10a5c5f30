"""Settings of InstantID's face detection."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from services.instantid.request import Requirements
from services.levers import ModelSettings
from services.weights.weights import Weights

Probability = Annotated[float, Field(gt=0, lt=1)]


class MtcnnSettings(BaseModel):
    """MTCNN, whose weights come with the project (MIT)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: Literal["mtcnn"] = "mtcnn"
    min_size: Annotated[int, Field(ge=12)] = 20
    """Pixels of the smallest face that is looked for."""
    max_side: Annotated[int, Field(ge=64)] = 1024
    """Pixels. In a longer picture `min_size` grows as if it had been scaled to this, so that it takes no longer."""
    factor: Annotated[float, Field(gt=0.1, lt=1)] = 0.709
    """From one size of faces that are looked for to the next."""
    thresholds: tuple[Probability, Probability, Probability] = (0.6, 0.7, 0.7)
    """How sure the first, the second and the third net must be."""


class InsightFaceSettings(BaseModel):
    """A model pack of insightface, e.g. `antelopev2`, as InfiniteYou uses it.

    The packs may be used for non-commercial research only. They are not downloaded: whoever accepts the licence unpacks
    one. Needs the packages `insightface` and `onnxruntime` (`onnxruntime-gpu` on a GPU).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: Literal["insightface"]
    pack: Path
    """The folder in which the pack's `.onnx` files lie."""
    sizes: Annotated[tuple[Annotated[int, Field(ge=32, le=4096, multiple_of=32)], ...], Field(min_length=1)] = (
        640,
        320,
        160,
    )
    """Pixels of the square a picture is fitted into, one after the other until there is a face: faces that nearly fill
    the picture are found only when they are made small."""
    threshold: Probability = 0.5


class InstantIdSettings(Requirements, ModelSettings):
    """Settings of a replica."""

    recogniser: Weights
    """A folder with ArcFace's IR-SE50 as facexlib and InfiniteYou have it."""
    recogniser_file: str = "recognition_arcface_ir_se50.pth"
    """Where in that folder the weights are: a safetensors file, or a pickle that holds nothing else."""
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
