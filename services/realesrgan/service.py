"""How Real-ESRGAN is served: a run of frames in, the same run out, larger."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from services.errors import InvalidParameter
from services.frames import Frames, Item, StageDone
from services.levers import Precision
from services.limits import within
from services.realesrgan.request import UpscaleRequest
from services.weights import Weights
from services.worker import Outlet, ServiceInfo, Worker

NAME = "realesrgan"
SHIPPED = Path(__file__).parent / "realesr-animevideov3.safetensors"
"""Real-ESRGAN's net for video, BSD-3-Clause; NOTICE says whose it is."""


class RealEsrganSettings(BaseModel):
    """What a replica is started with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: Weights | None = None
    """A folder or repository with one file of weights; by default realesr-animevideov3, which comes with the project.
    realesr-general-x4v3 is the same net twice as deep; RealESRGAN_x4plus costs fifteen times as much for each pixel."""
    file: str | None = None
    """Which file in it, safetensors or .pth; by default the only one."""
    device: str = "auto"
    """A torch device; `auto` is the first GPU if there is one, else the CPU."""
    dtype: Precision = "bfloat16"
    compile: bool = False
    """Compile the net on first use of each size, which then takes a minute."""
    batch: Annotated[int, Field(ge=1, le=16)] = 4
    """Frames in one pass."""
    tile: Annotated[int, Field(ge=0)] = 512
    """Pixels of a tile's side in what is given, its margins not counted; 0 takes every picture whole."""
    tile_margin: Annotated[int, Field(ge=0, le=512)] | None = None
    """Pixels that a tile sees beyond its sides. By default what the net can see, 64 at most: with that the tiles of
    realesr-animevideov3 (18 pixels) and realesr-general-x4v3 (34) fit without a seam."""
    max_area: Annotated[int, Field(ge=1)] = 7680 * 4320
    """Pixels of a frame of the result."""

    @property
    def source(self) -> str:
        """What the job record calls the weights."""
        return SHIPPED.stem if self.weights is None else self.weights.source

    @property
    def revision(self) -> str:
        return (self.weights.revision if self.weights else None) or ""


class RealEsrgan:
    """Real-ESRGAN through spandrel, which tells the architecture from the weights.

    Source: Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data, arXiv 2107.10833.
    """

    def __init__(self, settings: RealEsrganSettings, home: Path, replica: Callable[[], str]) -> None:
        """Load the weights; blocks until they are on the device.

        Args:
            settings: what the configuration file says.
            home: REELGRAPH_HOME, where downloads lie.
            replica: says which replica this is, and on which devices.

        Raises:
            ConfigError: the weights or the device cannot be had.
        """
        from services.realesrgan.model import RealEsrganModel

        self._settings = settings
        self._replica = replica
        self._worker = Worker(NAME)
        self._model = RealEsrganModel(settings, home)

    async def upscale(self, request: UpscaleRequest, frames: Frames, key: str = "") -> AsyncGenerator[Item]:
        """Enlarge a run of frames.

        The stream is the run, `scale` times as wide and as high, with its place and rate, then StageDone. Closing it
        stops the work before the next tile.

        Args:
            request: how much.
            frames: the run.
            key: names the job and the run; a second call with it stops the first.

        Raises:
            InvalidParameter: the net cannot make that scale.
            LimitExceeded: the result is beyond this deployment's limit.
            ModelFailed: out of memory, or numbers that are not finite.
            DeviceFailed: the GPU is lost to this process.
            Cancelled: `stop`, or a second call with the same key.
        """
        if request.scale > self._model.scale:
            raise InvalidParameter(
                f"scale: at most {self._model.scale}, which is what this net makes, got {request.scale}", param="scale"
            )
        within(
            "scale", frames.width * frames.height * request.scale**2, self._settings.max_area, "pixels of the result"
        )

        def work(outlet: Outlet[Item]) -> None:
            began = time.perf_counter()
            pixels = self._model.upscale(frames.pixels, request.scale, outlet.check)
            outlet.put(Frames(pixels, frames.first, frames.rate))
            seconds = time.perf_counter() - began
            settings = self._settings
            outlet.put(StageDone("upscale", NAME, settings.source, settings.revision, self._replica(), seconds))

        async with aclosing(self._worker.stream(work, key)) as items:
            async for item in items:
                yield item

    async def stop(self, key: str) -> None:
        """Cancel what was started with `key`, if it still runs."""
        self._worker.stop(key)

    async def info(self) -> ServiceInfo:
        """Say what is loaded here and whether it is at work."""
        return ServiceInfo(NAME, self._settings.source, self._settings.revision, self._replica(), self._worker.busy)

    def check_health(self) -> None:
        """Raise DeviceFailed when an earlier request left the device unusable."""
        self._worker.check()
