"""How HunyuanDiT is served: a picture in, a stream of facts, progress and one picture out."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from services.frames import Fact, Frames, Item, StageDone
from services.hunyuan_dit.request import RestyleRequest
from services.levers import Offload, Precision
from services.limits import drawn, within, working_size
from services.weights import Weights
from services.worker import Outlet, ServiceInfo, Worker

NAME = "hunyuan-dit"


class HunyuanDitSettings(BaseModel):
    """What a replica is started with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: Weights
    device: str = "auto"
    """A torch device; `auto` is the first GPU if there is one, else the CPU."""
    dtype: Precision = "float16"
    offload: Offload = "none"
    """`group` cannot be had: the transformer does not support it."""
    forward_chunking: Annotated[int, Field(ge=1)] | None = None
    """Tokens that a feed-forward layer takes at a time, which saves memory; by default all."""
    compile: bool = False
    """Compile the transformer on first use, and again for other sizes, which then takes minutes."""
    max_area: Annotated[int, Field(ge=32 * 32)] = 1024 * 1024
    """Pixels at which a picture may be sampled."""
    max_steps: Annotated[int, Field(ge=1)] = 100


@dataclass(frozen=True, slots=True, eq=False)
class Restyling:
    """A request that has been checked, with everything decided that was left open."""

    request: RestyleRequest
    image: Frames
    width: int
    """Pixels, at which it is sampled."""
    height: int
    """Pixels."""
    seed: int


class HunyuanDit:
    """HunyuanDiT through diffusers, begun from a picture with noise on it instead of from noise alone (SDEdit).

    The weights are under Tencent's Hunyuan community licence, which is not an open-source licence.

    Source: Hunyuan-DiT, arXiv 2405.08748; SDEdit, arXiv 2108.01073.
    """

    def __init__(self, settings: HunyuanDitSettings, home: Path, replica: Callable[[], str]) -> None:
        """Load the weights; blocks until they are on the device.

        Args:
            settings: what the configuration file says.
            home: REELGRAPH_HOME, where downloads lie.
            replica: says which replica this is, and on which devices.

        Raises:
            ConfigError: weights, device or a lever cannot be had.
        """
        from services.hunyuan_dit.model import HunyuanDitModel

        self._settings = settings
        self._replica = replica
        self._worker = Worker(NAME)
        self._model = HunyuanDitModel(settings, home)

    async def restyle(self, request: RestyleRequest, image: Frames, key: str = "") -> AsyncGenerator[Item]:
        """Paint `image` anew in the style that the prompt says.

        The stream is: the facts `seed` and `size`, progress of `denoise`, the picture in its own size, then StageDone.
        Closing it stops the work before the next denoising step. With `strength` 0 nothing is sampled: there is no
        progress, and the picture comes back as it is.

        Args:
            request: what to do.
            image: one frame.
            key: names the job; a second call with it stops the first.

        Raises:
            InvalidParameter: a field does not suit this checkpoint.
            LimitExceeded: a field is beyond this deployment's limit.
            ModelFailed: out of memory, or numbers that are not finite.
            DeviceFailed: the GPU is lost to this process.
            Cancelled: `stop`, or a second call with the same key.
        """
        restyling = self._plan(request, image)

        def work(outlet: Outlet[Item]) -> None:
            self._work(restyling, outlet)

        async with aclosing(self._worker.stream(work, key)) as items:
            async for item in items:
                yield item

    def _work(self, restyling: Restyling, outlet: Outlet[Item]) -> None:
        began = time.perf_counter()
        outlet.put(Fact("seed", restyling.seed))
        outlet.put(Fact("size", f"{restyling.width}x{restyling.height}"))
        if restyling.request.strength > 0:
            self._model.restyle(restyling, outlet)
        else:
            outlet.put(Frames(restyling.image.pixels[:1], rate=restyling.image.rate))
        weights = self._settings.weights
        seconds = time.perf_counter() - began
        outlet.put(StageDone("restyle", NAME, weights.source, weights.revision or "", self._replica(), seconds))

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

    def _plan(self, request: RestyleRequest, image: Frames) -> Restyling:
        within("steps", request.steps, self._settings.max_steps, "steps")
        within("max_area", request.max_area, self._settings.max_area, "pixels")
        width, height = working_size(image.width, image.height, request.max_area)
        return Restyling(request, image, width, height, drawn(request.seed))
