"""How faces are found: one picture in, facts and one face out."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from services.frames import Frames, Item, StageDone
from services.instantid.request import Requirements
from services.weights import Weights
from services.worker import Outlet, ServiceInfo, Worker

NAME = "instantid"
STAGE = "face"

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


class InstantIdSettings(Requirements):
    """What a replica is started with."""

    recogniser: Weights
    """A folder with ArcFace's IR-SE50 as facexlib and InfiniteYou have it."""
    recogniser_file: str = "recognition_arcface_ir_se50.pth"
    """Where in that folder the weights are: a safetensors file, or a pickle that holds nothing else."""
    detector: Annotated[MtcnnSettings | InsightFaceSettings, Field(discriminator="kind")] = MtcnnSettings()
    device: str = "auto"
    """A torch device; `auto` is the first GPU if there is one, else the CPU."""

    @field_validator("recogniser_file")
    @classmethod
    def _inside(cls, file: str) -> str:
        if Path(file).is_absolute() or ".." in Path(file).parts:
            raise ValueError(f"must be inside the recogniser's folder, got {file}")
        return file


class InstantId:
    """Finds the face in a picture: box, key points, an aligned crop, and an embedding that says whose it is.

    What InstantID (arXiv 2401.07519) and InfiniteYou (arXiv 2503.16418) begin with.
    """

    def __init__(self, settings: InstantIdSettings, home: Path, replica: Callable[[], str]) -> None:
        """Load the weights; blocks until they are on the device.

        Args:
            settings: what the configuration file says.
            home: REELGRAPH_HOME, where downloads lie.
            replica: says which replica this is, and on which devices.

        Raises:
            ConfigError: detector, recogniser or device cannot be had.
        """
        from services.instantid.model import InstantIdModel

        self._settings = settings
        self._replica = replica
        self._worker = Worker(NAME)
        self._model = InstantIdModel(settings, home)

    async def face(self, image: Frames, key: str = "") -> AsyncGenerator[Item]:
        """Find the largest face in a picture.

        The stream is: the fact `faces` (how many were found), the fact `notice` where there is something to know about
        the one that is taken, the Face, then StageDone. Closing it stops the work between two steps of the search.

        Args:
            image: one frame.
            key: names the job; a second call with it stops the first.

        Raises:
            InvalidParameter: there is no face, or it is too small or turned too far to the side.
            LimitExceeded: the picture has more pixels than this deployment allows.
            ModelFailed: out of memory, or numbers that are not finite.
            DeviceFailed: the GPU is lost to this process.
            Cancelled: `stop`, or a second call with the same key.
        """
        self._settings.check_picture(image)

        def work(outlet: Outlet[Item]) -> None:
            began = time.perf_counter()
            self._model.find(image, outlet)
            weights = self._settings.recogniser
            seconds = time.perf_counter() - began
            outlet.put(StageDone(STAGE, NAME, weights.source, weights.revision or "", self._replica(), seconds))

        async with aclosing(self._worker.stream(work, key)) as items:
            async for item in items:
                yield item

    async def stop(self, key: str) -> None:
        """Cancel what was started with `key`, if it still runs."""
        self._worker.stop(key)

    async def info(self) -> ServiceInfo:
        """Say what is loaded here and whether it is at work."""
        weights = self._settings.recogniser
        return ServiceInfo(NAME, weights.source, weights.revision or "", self._replica(), self._worker.busy)

    def check_health(self) -> None:
        """Raise DeviceFailed when an earlier request left the device unusable."""
        self._worker.check()
