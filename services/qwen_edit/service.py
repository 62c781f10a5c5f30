"""How Qwen-Image-Edit is served: pictures in, a stream of facts, progress, scores and one picture out."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.errors import InvalidParameter
from services.frames import Fact, Frames, Item, StageDone
from services.levers import Offload, Precision, StepCache
from services.limits import drawn, within, working_size
from services.qwen_edit.request import EditRequest
from services.weights import Weights
from services.worker import Outlet, ServiceInfo, Worker

NAME = "qwen-edit"

Trunk = Literal["random"] | Path
"""A file with torchvision's weights, or weights drawn from a fixed seed."""


class QwenEditSettings(BaseModel):
    """What a replica is started with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: Weights
    device: str = "auto"
    """A torch device; `auto` is the first GPU if there is one, else the CPU."""
    dtype: Precision = "bfloat16"
    decoder_dtype: Precision | None = None
    """Of the decoder that guidance differentiates; by default `dtype`."""
    offload: Offload = "none"
    attention: str | None = None
    """An attention backend of diffusers, e.g. `_native_cudnn` or `_flash_3`; by default its own choice."""
    compile: bool = False
    """Compile the transformer's blocks on first use, which then takes minutes."""
    step_cache: StepCache | None = None
    reference_area: Annotated[int, Field(ge=32 * 32)] = 1024 * 1024
    """Pixels to which every given picture is scaled for the VAE; the model was trained with the default."""
    condition_area: Annotated[int, Field(ge=56 * 56)] = 384 * 384
    """Pixels to which every given picture is scaled for Qwen2.5-VL."""
    vgg16: Trunk | None = None
    """VGG16, for the Gram loss; without it there is none."""
    lpips: Trunk | None = None
    """AlexNet, for the LPIPS scores; without it there are none."""
    tiny_decoder: Path | None = None
    """TAEHV's `taew2_1`, to be differentiated instead of the VAE's own decoder."""
    save_memory: bool = True
    """Compute the decoder's activations again in the backward pass instead of keeping them."""
    max_area: Annotated[int, Field(ge=32 * 32)] = 1024 * 1024
    """Pixels at which a picture may be sampled."""
    max_steps: Annotated[int, Field(ge=1)] = 100
    max_inner_steps: Annotated[int, Field(ge=1)] = 10


@dataclass(frozen=True, slots=True, eq=False)
class Sitting:
    """A request that has been checked, with everything decided that was left open."""

    request: EditRequest
    image: Frames
    """The picture to edit."""
    edges: Frames | None
    """The picture that shows the edges, or from which they are taken."""
    first: Frames
    """The clip's first frame, whose style is kept and to which the result is compared."""
    size: tuple[int, int]
    """Width and height of the result, in pixels."""
    width: int
    """Pixels, at which it is sampled."""
    height: int
    """Pixels."""
    seed: int


class QwenEdit:
    """Qwen-Image-Edit-2509 through diffusers, with loss guidance at test time.

    Source: Qwen-Image Technical Report, arXiv 2508.02324.
    """

    def __init__(self, settings: QwenEditSettings, home: Path, replica: Callable[[], str]) -> None:
        """Load the weights; blocks until they are on the device.

        Args:
            settings: what the configuration file says.
            home: REELGRAPH_HOME, where downloads lie.
            replica: says which replica this is, and on which devices.

        Raises:
            ConfigError: weights, device or a lever cannot be had.
        """
        from services.qwen_edit.model import QwenEditModel

        self._settings = settings
        self._replica = replica
        self._worker = Worker(NAME)
        self._model = QwenEditModel(settings, home)

    async def edit(
        self,
        request: EditRequest,
        image: Frames,
        edges: Frames | None = None,
        first: Frames | None = None,
        key: str = "",
    ) -> AsyncGenerator[Item]:
        """Edit a picture.

        The stream is: facts (`seed`, `size`, which nets measure), progress of `denoise`, sketches if asked for, Scores,
        the picture in `size`, then StageDone. Closing it stops the work before the next denoising step or
        the next update of the guidance.

        Args:
            request: what to do.
            image: one frame, the picture to edit.
            edges: one frame, its edges white on black or, with `edge_filter`, any picture; resized to the result's.
            first: one frame, the first of the clip; by default `image`.
            key: names the job; a second call with it stops the first.

        Raises:
            InvalidParameter: a field does not suit this deployment or the pictures.
            LimitExceeded: a field is beyond this deployment's limit.
            ModelFailed: out of memory, or numbers that are not finite.
            DeviceFailed: the GPU is lost to this process.
            Cancelled: `stop`, or a second call with the same key.
        """
        sitting = self._plan(request, image, edges, first or image)

        def work(outlet: Outlet[Item]) -> None:
            self._work(sitting, outlet)

        async with aclosing(self._worker.stream(work, key)) as items:
            async for item in items:
                yield item

    def _work(self, sitting: Sitting, outlet: Outlet[Item]) -> None:
        began = time.perf_counter()
        outlet.put(Fact("seed", sitting.seed))
        outlet.put(Fact("size", f"{sitting.width}x{sitting.height}"))
        for name in ("vgg16", "lpips"):
            outlet.put(Fact(name, self._trunk(name)))
        self._model.edit(sitting, outlet)
        weights = self._settings.weights
        seconds = time.perf_counter() - began
        outlet.put(StageDone("edit", NAME, weights.source, weights.revision or "", self._replica(), seconds))

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

    def _trunk(self, name: Literal["vgg16", "lpips"]) -> str:
        """What the job record says of a net that measures: scores by random weights must not pass for others."""
        if name not in self._model.measures:
            return "not there"
        source = self._settings.vgg16 if name == "vgg16" else self._settings.lpips
        return "random weights" if source == "random" else Path(str(source)).name

    def _plan(self, request: EditRequest, image: Frames, edges: Frames | None, first: Frames) -> Sitting:
        settings, ttlg = self._settings, request.ttlg
        within("steps", request.steps, settings.max_steps, "steps")
        within("max_area", request.max_area, settings.max_area, "pixels")
        within("ttlg.inner_steps", ttlg.inner_steps, settings.max_inner_steps, "updates")
        if ttlg.edge_scale > 0 and edges is None:
            raise InvalidParameter(
                "ttlg.edge_scale: there are no edges to guide by; set it to 0", param="ttlg.edge_scale"
            )
        if ttlg.gram_scale > 0 and "vgg16" not in self._model.measures:
            raise InvalidParameter(
                "ttlg.gram_scale: must be 0, because this deployment has no VGG16 (vgg16 in its configuration)",
                param="ttlg.gram_scale",
            )
        size = image.width, image.height
        if request.size is not None:
            across, down = map(int, request.size.split("x"))
            within("size", across * down, settings.max_area, "pixels")
            size = across, down
        width, height = working_size(*size, request.max_area)
        self._model.check_shape(image.width, image.height, "image")
        if edges is not None:  # which are resized to what is sampled
            self._model.check_shape(width, height, "size" if request.size else "image")
        seed = drawn(request.seed)
        return Sitting(request, image, edges, first, size, width, height, seed)
