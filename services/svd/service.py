"""How Stable Video Diffusion is served: one picture in, a stream of facts, progress and frames out."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from services.errors import InvalidParameter
from services.frames import Fact, Frames, Item, StageDone
from services.levers import Offload, Precision
from services.limits import drawn, fit, within
from services.svd.request import MAX_FRAMES, SvdRequest
from services.weights import Weights
from services.worker import Outlet, ServiceInfo, Worker

NAME = "svd"


class SvdSettings(BaseModel):
    """What a replica is started with.

    For a card of 8 GB: `offload: model`, `forward_chunking: true`, `decode_window: 2`, `decode_overlap: 0`, which is
    what diffusers' documentation gives for less than 8 GB. For 16 GB: `offload: model`, `decode_window: 4`,
    `decode_overlap: 2`. The defaults are for 24 GB and more.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: Weights
    variant: str | None = None
    """Which of a checkpoint's files to read, e.g. `fp16` for `*.fp16.safetensors`; by default the plain ones."""
    device: str = "auto"
    """A torch device; `auto` is the first GPU if there is one, else the CPU."""
    dtype: Precision = "float16"
    """Of everything; a VAE that asks for it still encodes the picture in float32."""
    offload: Offload = "none"
    forward_chunking: bool = False
    """Compute the UNet's feed-forward layers for one frame at a time: less memory, slower."""
    compile: bool = False
    """Compile the UNet on first use, which then takes minutes, and again for each new size."""
    decode_window: Annotated[int, Field(ge=1, le=MAX_FRAMES)] = 8
    """Frames that are decoded and sent together. The decoder looks forward and back, so more flicker less."""
    decode_overlap: Annotated[int, Field(ge=0, le=32)] = 3
    """Frames on either side of a window that are decoded with it and thrown away, so that windows join smoothly."""
    max_frames: Annotated[int, Field(ge=2, le=MAX_FRAMES)] = 50
    max_area: Annotated[int, Field(ge=1)] = 576 * 1024
    """Pixels of a frame."""
    max_steps: Annotated[int, Field(ge=1)] = 100


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """A request that has been checked, with everything decided that was left open."""

    request: SvdRequest
    image: Frames
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    seed: int
    start: int
    """The first frame to send."""


class Svd:
    """Stable Video Diffusion image-to-video (SVD, SVD-XT) through diffusers.

    Source: Stable Video Diffusion: Scaling Latent Video Diffusion Models to Large Datasets, arXiv 2311.15127.
    """

    def __init__(self, settings: SvdSettings, home: Path, replica: Callable[[], str]) -> None:
        """Load the weights; blocks until they are on the device.

        Args:
            settings: what the configuration file says.
            home: REELGRAPH_HOME, where downloads lie.
            replica: says which replica this is, and on which devices.

        Raises:
            ConfigError: the weights, the device or a lever cannot be had.
        """
        from services.svd.model import SvdModel

        self._settings = settings
        self._replica = replica
        self._worker = Worker(NAME)
        self._model = SvdModel(settings, home)

    async def animate(self, request: SvdRequest, image: Frames, start: int = 0, key: str = "") -> AsyncGenerator[Item]:
        """Make a video that begins with `image`.

        The stream is: the facts `seed` and `size`, progress of `denoise`, then frames and progress of `decode`
        alternating, then StageDone. Closing it stops the work before the next denoising step or decoded window.

        Args:
            request: what to make.
            image: one frame; what does not fit the video's aspect is cut off evenly at two sides.
            start: index of the first frame to send; those before it are kept back.
            key: names the job; a second call with it stops the first.

        Raises:
            InvalidParameter: a field does not suit this checkpoint.
            LimitExceeded: a field is beyond this deployment's limit.
            ModelFailed: out of memory, or numbers that are not finite.
            DeviceFailed: the GPU is lost to this process.
            Cancelled: `stop`, or a second call with the same key.
        """
        shot = self._plan(request, image, start)

        def work(outlet: Outlet[Item]) -> None:
            began = time.perf_counter()
            outlet.put(Fact("seed", shot.seed))
            outlet.put(Fact("size", f"{shot.width}x{shot.height}"))
            self._model.animate(shot, outlet)
            weights = self._settings.weights
            seconds = time.perf_counter() - began
            outlet.put(StageDone("animate", NAME, weights.source, weights.revision or "", self._replica(), seconds))

        async with aclosing(self._worker.stream(work, key)) as items:
            async for item in items:
                yield item

    async def stop(self, key: str) -> None:
        """Cancel what was started with `key`, if it still runs."""
        self._worker.stop(key)

    async def info(self) -> ServiceInfo:
        """Say what is loaded here and whether it is at work."""
        weights = self._settings.weights
        return ServiceInfo(NAME, weights.source, weights.revision or "", self._replica(), self._worker.busy)

    def check_health(self) -> None:
        """Raise DeviceFailed when an earlier request left the device unusable."""
        self._worker.check()

    def _plan(self, request: SvdRequest, image: Frames, start: int) -> Shot:
        within("num_frames", request.num_frames, self._settings.max_frames, "frames")
        within("steps", request.steps, self._settings.max_steps, "steps")
        if not 0 <= start <= request.num_frames:
            raise InvalidParameter(f"start: must be 0 to {request.num_frames}, got {start}", param="start")
        width, height = self._size(request, image)
        return Shot(request, image, width, height, drawn(request.seed), start)

    def _size(self, request: SvdRequest, image: Frames) -> tuple[int, int]:
        multiple = self._model.multiple
        if request.size is None:
            field, value = "max_area", str(request.max_area)
            within("max_area", request.max_area, self._settings.max_area, "pixels")
            width, height = fit(image.width, image.height, request.max_area, multiple)
            too_small = width * height > request.max_area
        else:
            field, value = "size", request.size
            width, height = (int(side) // multiple * multiple for side in request.size.split("x"))
            too_small = min(width, height) == 0
            within("size", width * height, self._settings.max_area, "pixels")
        if too_small:
            raise InvalidParameter(f"{field}: the least frame is {multiple}x{multiple}, got {value}", param=field)
        return width, height
