"""How ModelScope's text-to-video is served: a text in, a stream of facts, progress and frames out."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.errors import InvalidParameter
from services.frames import MAX_RUN, Fact, Item, StageDone
from services.levers import Offload, Precision
from services.limits import drawn, within
from services.text_to_video.request import MAX_FRAMES, TextToVideoRequest
from services.weights import Weights
from services.worker import Outlet, ServiceInfo, Worker

NAME = "text-to-video"


class TextToVideoSettings(BaseModel):
    """What a replica is started with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: Weights
    variant: str | None = None
    """Which of a checkpoint's files to read, e.g. `fp16` for `*.fp16.safetensors`; by default the plain ones."""
    device: str = "auto"
    """A torch device; `auto` is the first GPU if there is one, else the CPU."""
    dtype: Precision = "float16"
    offload: Offload = "none"
    solver: Literal["dpm++"] | None = None
    """DPM-Solver++, with which the model card makes a video in 25 steps; by default the checkpoint's own, DDIM."""
    forward_chunking: bool = False
    """Compute the UNet's feed-forward layers for one frame at a time: less memory, slower."""
    decode_batch: Annotated[int, Field(ge=1, le=MAX_RUN)] = 8
    """Frames that are decoded and sent together; fewer take less memory."""
    max_frames: Annotated[int, Field(ge=2, le=MAX_FRAMES)] = 200
    max_area: Annotated[int, Field(ge=1)] = 576 * 320
    """Pixels of a frame."""
    max_steps: Annotated[int, Field(ge=1)] = 100


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """A request that has been checked, with everything decided that was left open."""

    request: TextToVideoRequest
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    seed: int
    start: int
    """The first frame to send."""


class TextToVideo:
    """ModelScope's text-to-video through diffusers, and checkpoints of the same architecture (zeroscope).

    The weights of ali-vilab/text-to-video-ms-1.7b are CC-BY-NC-4.0: not for commercial use.

    Source: ModelScope Text-to-Video Technical Report, arXiv 2308.06571.
    """

    def __init__(self, settings: TextToVideoSettings, home: Path, replica: Callable[[], str]) -> None:
        """Load the weights; blocks until they are on the device.

        Args:
            settings: what the configuration file says.
            home: REELGRAPH_HOME, where downloads lie.
            replica: says which replica this is, and on which devices.

        Raises:
            ConfigError: the weights, the device or a lever cannot be had.
        """
        from services.text_to_video.model import TextToVideoModel

        self._settings = settings
        self._replica = replica
        self._worker = Worker(NAME)
        self._model = TextToVideoModel(settings, home)

    async def film(self, request: TextToVideoRequest, start: int = 0, key: str = "") -> AsyncGenerator[Item]:
        """Make a video of what the prompt says.

        The stream is: the facts `seed` and `size`, progress of `denoise`, then frames and progress of `decode`
        alternating, then StageDone. Closing it stops the work before the next denoising step or decoded batch.

        Args:
            request: what to make.
            start: index of the first frame to send; batches of frames before it are not decoded.
            key: names the job; a second call with it stops the first.

        Raises:
            InvalidParameter: a field does not suit this checkpoint.
            LimitExceeded: a field is beyond this deployment's limit.
            ModelFailed: out of memory, or numbers that are not finite.
            DeviceFailed: the GPU is lost to this process.
            Cancelled: `stop`, or a second call with the same key.
        """
        shot = self._plan(request, start)

        def work(outlet: Outlet[Item]) -> None:
            began = time.perf_counter()
            outlet.put(Fact("seed", shot.seed))
            outlet.put(Fact("size", f"{shot.width}x{shot.height}"))
            self._model.film(shot, outlet)
            weights = self._settings.weights
            seconds = time.perf_counter() - began
            outlet.put(StageDone("film", NAME, weights.source, weights.revision or "", self._replica(), seconds))

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

    def _plan(self, request: TextToVideoRequest, start: int) -> Shot:
        within("num_frames", request.num_frames, self._settings.max_frames, "frames")
        within("steps", request.steps, min(self._settings.max_steps, self._model.most_steps), "steps")
        if not 0 <= start <= request.num_frames:
            raise InvalidParameter(f"start: must be 0 to {request.num_frames}, got {start}", param="start")
        width, height = self._size(request)
        return Shot(request, width, height, drawn(request.seed), start)

    def _size(self, request: TextToVideoRequest) -> tuple[int, int]:
        multiple = self._model.multiple
        width, height = (int(side) // multiple * multiple for side in request.size.split("x"))
        if min(width, height) == 0:
            raise InvalidParameter(f"size: the least frame is {multiple}x{multiple}, got {request.size}", param="size")
        within("size", width * height, self._settings.max_area, "pixels")
        return width, height
