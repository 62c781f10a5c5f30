"""How Wan is served: one picture in, a stream of facts, progress and frames out."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from services.errors import InvalidParameter
from services.frames import Fact, Frames, Item, StageDone
from services.levers import Offload, Precision, StepCache
from services.limits import drawn, fit, within
from services.wan.request import MAX_FRAMES, WanRequest
from services.weights import Weights
from services.worker import Outlet, ServiceInfo, Worker

NAME = "wan"


def _exact(rate: object) -> object:
    """Read 23.976 as its decimal digits say, not as the nearest double."""
    return str(rate) if isinstance(rate, float) else rate


class Lora(BaseModel):
    """A low-rank adaptation that is loaded at the start and always on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: Annotated[str, BeforeValidator(str)]
    """A safetensors file; a relative path lies in `lora_dir`."""
    weight: Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)] = 1.0
    expert: Literal["high", "low", "both"] = "both"
    """The high-noise or the low-noise expert; `both` is every expert the checkpoint has."""


class WanSettings(BaseModel):
    """What a replica is started with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: Weights
    device: str = "auto"
    """A torch device; `auto` is the first GPU if there is one, else the CPU."""
    dtype: Precision = "bfloat16"
    """Of the transformers and the text encoder."""
    vae_dtype: Precision = "float32"
    offload: Offload = "none"
    attention: str | None = None
    """An attention backend of diffusers, e.g. `_native_cudnn` or `_flash_3`; by default its own choice."""
    compile: bool = False
    """Compile the transformers' blocks on first use, which then takes minutes."""
    step_cache: StepCache | None = None
    loras: tuple[Lora, ...] = ()
    lora_dir: Path | None = None
    """When set, every LoRA file must lie in it."""
    rate: Annotated[Fraction, BeforeValidator(_exact), Field(gt=0, le=240)] | None = None
    """Frames per second of what the checkpoint makes; by default 24 for TI2V, else 16."""
    preview_every: Annotated[int, Field(ge=0)] = 0
    """Every so many denoising steps the progress carries a preview of the middle frame; 0 is never."""
    max_sequence_length: Annotated[int, Field(ge=1, le=4096)] = 512
    """Tokens of the prompt."""
    max_frames: Annotated[int, Field(ge=1, le=MAX_FRAMES)] = 241
    max_area: Annotated[int, Field(ge=1)] = 1280 * 720
    """Pixels of a frame."""
    max_steps: Annotated[int, Field(ge=1)] = 100

    @model_validator(mode="after")
    def _loras_are_safe(self) -> "WanSettings":
        for lora in self.loras:
            path = self.path_of(lora)
            if path.suffix != ".safetensors":
                raise ValueError(f"loras: {path.name} must be a safetensors file: other formats can run code")
            if self.lora_dir is not None and not path.is_relative_to(self.lora_dir.resolve()):
                raise ValueError(f"loras: {path} is not inside lora_dir {self.lora_dir}")
        return self

    def path_of(self, lora: Lora) -> Path:
        """Return where the file of `lora` lies, links followed."""
        return ((self.lora_dir or Path()) / lora.file).resolve()


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """A request that has been checked, with everything decided that was left open."""

    request: WanRequest
    image: Frames
    last_image: Frames | None
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    seed: int
    start: int
    """The first frame to send."""


class Wan:
    """Wan image-to-video (Wan2.1 I2V, Wan2.2 I2V-A14B, Wan2.2 TI2V-5B) through diffusers.

    Source: Wan: Open and Advanced Large-Scale Video Generative Models, arXiv 2503.20314.
    """

    def __init__(self, settings: WanSettings, home: Path, replica: Callable[[], str]) -> None:
        """Load the weights; blocks until they are on the device.

        Args:
            settings: what the configuration file says.
            home: REELGRAPH_HOME, where downloads lie.
            replica: says which replica this is, and on which devices.

        Raises:
            ConfigError: the weights, a LoRA, the device or a lever cannot be had.
        """
        from services.wan.model import WanModel

        self._settings = settings
        self._replica = replica
        self._worker = Worker(NAME)
        self._model = WanModel(settings, home)

    async def generate(
        self, request: WanRequest, image: Frames, last_image: Frames | None = None, start: int = 0, key: str = ""
    ) -> AsyncGenerator[Item]:
        """Make a video that begins with `image`, and ends with `last_image` where that is given.

        The stream is: the facts `seed` and `size`, progress of `denoise`, then frames and progress of `decode`
        alternating, then StageDone. Closing it stops the work before the next denoising step or decoded frame.

        Args:
            request: what to make.
            image: one frame; what does not fit the video's aspect is cut off evenly at two sides.
            last_image: one frame, treated alike; only for checkpoints with a mask channel (not TI2V).
            start: index of the first frame to send; those before it are made, and kept back.
            key: names the job; a second call with it stops the first.

        Raises:
            InvalidParameter: a field does not suit this checkpoint.
            LimitExceeded: a field is beyond this deployment's limit.
            ModelFailed: out of memory, or numbers that are not finite.
            DeviceFailed: the GPU is lost to this process.
            Cancelled: `stop`, or a second call with the same key.
        """
        shot = self._plan(request, image, last_image, start)

        def work(outlet: Outlet[Item]) -> None:
            began = time.perf_counter()
            outlet.put(Fact("seed", shot.seed))
            outlet.put(Fact("size", f"{shot.width}x{shot.height}"))
            self._model.generate(shot, outlet)
            weights = self._settings.weights
            seconds = time.perf_counter() - began
            outlet.put(StageDone("generate", NAME, weights.source, weights.revision or "", self._replica(), seconds))

        async with aclosing(self._worker.stream(work, key)) as items:
            async for item in items:
                yield item

    async def stop(self, key: str) -> None:
        """Cancel what was started with `key`, if it still runs."""
        self._worker.stop(key)

    async def info(self) -> ServiceInfo:
        """Say what is loaded here and whether it is at work."""
        weights = self._settings.weights
        revision, rate = weights.revision or "", self._model.rate
        return ServiceInfo(NAME, weights.source, revision, self._replica(), self._worker.busy, rate)

    def check_health(self) -> None:
        """Raise DeviceFailed when an earlier request left the device unusable."""
        self._worker.check()

    def _plan(self, request: WanRequest, image: Frames, last_image: Frames | None, start: int) -> Shot:
        within("num_frames", request.num_frames, self._settings.max_frames, "frames")
        within("steps", request.steps, self._settings.max_steps, "steps")
        if not 0 <= start <= request.num_frames:
            raise InvalidParameter(f"start: must be 0 to {request.num_frames}, got {start}", param="start")
        self._check_last_image(request, last_image)
        self._check_guidance(request)
        width, height = self._size(request, image)
        seed = drawn(request.seed)
        return Shot(request, image, last_image, width, height, seed, start)

    def _check_last_image(self, request: WanRequest, last_image: Frames | None) -> None:
        if last_image is None:
            return
        if not self._model.takes_last_image:
            raise InvalidParameter("last_image: this checkpoint cannot end at a given picture", param="last_image")
        if request.num_frames == 1:
            raise InvalidParameter("last_image: needs num_frames of 5 or more, got 1", param="last_image")

    def _check_guidance(self, request: WanRequest) -> None:
        if request.guidance_scale_2 is None:
            return
        if not self._model.has_two_experts:
            raise InvalidParameter("guidance_scale_2: this checkpoint has one expert", param="guidance_scale_2")
        if request.guidance_scale <= 1 < request.guidance_scale_2:
            # diffusers looks at the first scale only to decide whether there is guidance at all
            raise InvalidParameter(
                f"guidance_scale_2: has no effect while guidance_scale is 1 or less, got {request.guidance_scale_2}",
                param="guidance_scale_2",
            )

    def _size(self, request: WanRequest, image: Frames) -> tuple[int, int]:
        multiple, longest = self._model.multiple, self._model.longest_side
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
        if max(width, height) > longest:
            raise InvalidParameter(
                f"{field}: no side may be longer than {longest} pixels, got {width}x{height}", param=field
            )
        return width, height
