"""How Flux is served: a text in, and perhaps a face; a stream of facts, progress and pictures out."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.errors import InvalidParameter
from services.flux.request import MAX_LORAS, MAX_PICTURES, FluxRequest, LoraName
from services.frames import Face, Fact, Item, StageDone
from services.levers import Offload, Precision, StepCache
from services.limits import drawn, within
from services.weights import RepositoryFile, Weights
from services.worker import Outlet, ServiceInfo, Worker

NAME = "flux"


class LoraRepository(RepositoryFile):
    """A LoRA on the Hugging Face hub that requests may ask for by its name here."""

    name: LoraName
    file: Annotated[str, Field(pattern=r"\.safetensors$")]
    """Its path in the repository."""


class IdentitySettings(BaseModel):
    """The nets that hold a face's identity.

    InfiniteYou's weights are CC-BY-NC-4.0: not for commercial use. Nor are insightface's, which find the face.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: Weights
    """A folder with `InfuseNetModel/` and `image_proj_model.safetensors` (or `.bin`, as InfiniteYou publishes it)."""
    subfolder: str = ""
    """Where in `weights` that folder is, e.g. `infu_flux_v1.0/aes_stage2`."""

    @model_validator(mode="after")
    def _inside(self) -> "IdentitySettings":
        path = PurePosixPath(self.subfolder)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"subfolder: must lie inside the weights, got {self.subfolder}")
        return self


class FluxSettings(BaseModel):
    """What a replica is started with.

    FLUX.1-dev's weights are under a non-commercial licence.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: Weights
    device: str = "auto"
    """A torch device; `auto` is the first GPU if there is one, else the CPU."""
    dtype: Precision = "bfloat16"
    offload: Offload = "none"
    """The nets of `identity` stay on the device whatever this says."""
    attention: str | None = None
    """An attention backend of diffusers, e.g. `_native_cudnn` or `_flash_3`; by default its own choice."""
    compile: bool = False
    """Compile the blocks on first use, which takes minutes; again for each number of LoRAs at once that is new."""
    step_cache: StepCache | None = None
    """Off while a face acts: diffusers' pipeline for it cannot use one."""
    identity: IdentitySettings | None = None
    """Without it no face can be given."""
    lora_dir: Path | None = None
    """Any safetensors file in it may be asked for; without it none."""
    lora_repositories: tuple[LoraRepository, ...] = ()
    """Files on the hub that may be asked for too. Each is downloaded when it is first asked for; whether its licence is
    accepted is checked at the start."""
    max_loras: Annotated[int, Field(ge=1, le=64)] = MAX_LORAS
    """LoRAs held in memory, and at most in one request. The one that was used longest ago goes first."""
    max_lora_rank: Annotated[int, Field(ge=1, le=4096)] = 128
    """With `compile` each LoRA takes the memory of this rank."""
    max_lora_bytes: Annotated[int, Field(ge=1)] = 2 * 1024**3
    """Of one file."""
    preview_every: Annotated[int, Field(ge=0)] = 0
    """Every so many denoising steps the progress carries a preview; 0 is never."""
    max_sequence_length: Annotated[int, Field(ge=1, le=512)] = 512
    """Tokens of the prompt that T5 reads. CLIP reads 77."""
    max_n: Annotated[int, Field(ge=1, le=MAX_PICTURES)] = MAX_PICTURES
    max_area: Annotated[int, Field(ge=16 * 16)] = 1920 * 1088
    """Pixels of a picture."""
    max_steps: Annotated[int, Field(ge=1)] = 100

    @model_validator(mode="after")
    def _each_name_once(self) -> "FluxSettings":
        names = [known.name for known in self.lora_repositories]
        if len(set(names)) < len(names):
            raise ValueError(f"lora_repositories: a name is there twice, got {names}")
        return self


@dataclass(frozen=True, slots=True, eq=False)
class Canvas:
    """A request that has been checked, with everything decided that was left open."""

    request: FluxRequest
    face: Face | None
    """None too where its strength is 0."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    seed: int
    """Of the first picture."""


class Flux:
    """FLUX.1 through diffusers, with LoRAs by the request, and with a face's identity as InfiniteYou has it.

    Source: black-forest-labs/FLUX.1-dev; InfiniteYou: Flexible Photo Recrafting While Preserving Your Identity,
    arXiv 2503.16418.
    """

    def __init__(self, settings: FluxSettings, home: Path, replica: Callable[[], str]) -> None:
        """Load the weights; blocks until they are on the device.

        Args:
            settings: what the configuration file says.
            home: REELGRAPH_HOME, where downloads lie.
            replica: says which replica this is, and on which devices.

        Raises:
            ConfigError: weights, device or a lever cannot be had.
        """
        from services.flux.model import FluxModel

        self._settings = settings
        self._replica = replica
        self._worker = Worker(NAME)
        self._model = FluxModel(settings, home)

    async def paint(self, request: FluxRequest, face: Face | None = None, key: str = "") -> AsyncGenerator[Item]:
        """Paint what the prompt says.

        The stream is: the facts `seed` and `size`, then progress of `paint` over the steps of all pictures, each
        picture after its last step as a run of one whose `first` is its index, then StageDone. Closing it stops the
        work before the next denoising step.

        Args:
            request: what to paint.
            face: who shall be seen; its key points say where in the picture the face is.
            key: names the job; a second call with it stops the first.

        Raises:
            InvalidParameter: a field does not suit this deployment, or a LoRA cannot be used.
            LimitExceeded: a field is beyond this deployment's limit.
            ModelFailed: out of memory, numbers that are not finite, or a LoRA that the hub did not give.
            DeviceFailed: the GPU is lost to this process.
            Cancelled: `stop`, or a second call with the same key.
        """
        canvas = self._plan(request, face)

        def work(outlet: Outlet[Item]) -> None:
            began = time.perf_counter()
            outlet.put(Fact("seed", canvas.seed))
            outlet.put(Fact("size", f"{canvas.width}x{canvas.height}"))
            self._model.paint(canvas, outlet)
            weights = self._settings.weights
            seconds = time.perf_counter() - began
            outlet.put(StageDone("paint", NAME, weights.source, weights.revision or "", self._replica(), seconds))

        async with aclosing(self._worker.stream(work, key)) as items:
            async for item in items:
                yield item

    async def loras_loaded(self) -> list[str]:
        """Return the names of the LoRAs in memory, the one that was used longest ago first.

        For routing: whoever multiplexes LoRAs over replicas asks each replica, or keeps what it answered last, and
        sends a request to one that already holds what the request names. Every replica can serve every name, so a
        wrong guess costs one load of a file and nothing else.
        """
        return list(self._model.loras.loaded)

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

    def _plan(self, request: FluxRequest, face: Face | None) -> Canvas:
        settings = self._settings
        within("n", request.n, settings.max_n, "pictures")
        within("steps", request.steps, settings.max_steps, "steps")
        within("loras", len(request.loras), settings.max_loras, "LoRAs")
        for lora in request.loras:
            self._model.loras.check(lora.name)
        if face is not None and settings.identity is None:
            raise InvalidParameter(
                "face: this deployment has no identity weights (identity in its configuration)", param="face"
            )
        width, height = self._size(request)
        acting = face if request.identity_strength > 0 else None
        return Canvas(request, acting, width, height, drawn(request.seed))

    def _size(self, request: FluxRequest) -> tuple[int, int]:
        multiple = self._model.multiple
        width, height = (int(side) // multiple * multiple for side in request.size.split("x"))
        if min(width, height) == 0:
            raise InvalidParameter(
                f"size: the least picture is {multiple}x{multiple}, got {request.size}", param="size"
            )
        within("size", width * height, self._settings.max_area, "pixels")
        return width, height
