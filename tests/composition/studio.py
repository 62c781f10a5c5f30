"""The full pipeline without Ray: its graph, and fake services whose pixels depend on all their inputs."""

import zlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np

from composition.graphs.calls import Models, Transport
from composition.graphs.full_pipeline.graph import FullPipeline
from composition.graphs.full_pipeline.request import FullPipelineRequest
from composition.graphs.run import NOTHING_KNOWN, GraphSettings, Known
from composition.media.encode import encode_png
from composition.records.artifacts import ArtifactSettings
from services.flux.request import FluxRequest
from services.frames import Face, Fact, Frames, Item, Pixels, Progress, StageDone
from services.hunyuan_dit.request import RestyleRequest
from services.model import Role
from services.realesrgan.request import UpscaleRequest
from services.svd.request import SvdRequest
from tests.composition.rolling import Full, Gone
from tests.composition.serving import Handle

WIDTH, HEIGHT, FRAMES = 32, 16, 10
WINDOW = 3
"""Number of frames decoded together."""
ROLES: dict[str, Role] = {
    "flux": "text-to-image",
    "instantid": "face",
    "hunyuan-dit": "restyle",
    "svd": "image-to-video",
    "realesrgan": "upscale",
}
"""Role by model kind."""
MODELS = tuple(ROLES)


def pixels_of(*causes: object, count: int = 1) -> Pixels:
    seed = zlib.crc32(b"".join(cause if isinstance(cause, bytes) else repr(cause).encode() for cause in causes))
    return np.random.default_rng(seed).integers(0, 256, (count, HEIGHT, WIDTH, 3), np.uint8)


def done(stage: str, model: str) -> StageDone:
    return StageDone(stage, model, "nowhere", "", f"{model}#0", 0.5)


class Studio:
    """A fake service that stands in for all five models.

    Args:
        failing: exceptions by place: `model:number` of a call, `window:frame` of a decoded window or `run:frame`.
    """

    def __init__(self, failing: dict[str, Exception] | None = None) -> None:
        self.failing = failing or {}
        self.asked: list[tuple[str, Any]] = []
        self.stopped: list[str] = []
        self.poses: list[Face | None] = []
        self.working = 0

    def _enter(self, model: str, request: object) -> None:
        self.asked.append((model, request))
        self._fail(f"{model}:{self.count(model) - 1}")

    def _fail(self, place: str) -> None:
        if place in self.failing:
            raise self.failing[place]

    def count(self, model: str) -> int:
        return len(self.of(model))

    def of(self, model: str) -> list[Any]:
        return [request for asked, request in self.asked if asked == model]

    async def find_face(self, image: Frames, key: str = "") -> AsyncGenerator[Item]:
        self._enter("instantid", image)
        embedding = np.zeros(512, np.float32)
        embedding[image.pixels.astype(int).sum() % 512] = 1
        yield Fact("faces", 1)
        yield Face(embedding, np.full((5, 2), 0.5, np.float32), np.array([0, 0, 1, 1], np.float32))
        yield done("face", "instantid")

    async def generate_image(
        self, request: FluxRequest, face: Face | None = None, key: str = "", pose: Face | None = None
    ) -> AsyncGenerator[Item]:
        self._enter("flux", request)
        self.poses.append(pose)
        yield Fact("seed", request.seed)
        yield Fact("size", "32x16")
        yield Progress("paint", 1, request.steps)
        whose = face.embedding.tobytes() if face is not None and request.identity_strength > 0 else b""
        yield Frames(pixels_of(request.model_dump(), whose))
        yield done("paint", "flux")

    async def restyle(self, request: RestyleRequest, image: Frames, key: str = "") -> AsyncGenerator[Item]:
        self._enter("hunyuan-dit", request)
        yield Fact("seed", request.seed)
        yield Progress("denoise", 1, request.steps)
        yield Frames(pixels_of(request.model_dump(), image.pixels.tobytes()))
        yield done("restyle", "hunyuan-dit")

    async def animate(
        self, request: SvdRequest, image: Frames, last_image: Frames | None = None, start: int = 0, key: str = ""
    ) -> AsyncGenerator[Item]:
        self._enter("svd", request)
        self.working += 1
        try:
            for name, value in (("seed", request.seed), ("size", "60x40"), ("canvas", "64x64")):
                yield Fact(name, value)
            yield Progress("denoise", 1, request.steps)
            whole = pixels_of(request.model_dump(), image.pixels.tobytes(), count=request.num_frames)
            for low in range(start // WINDOW * WINDOW, request.num_frames, WINDOW):
                self._fail(f"window:{low}")
                first, stop = max(low, start), min(low + WINDOW, request.num_frames)
                yield Frames(np.ascontiguousarray(whole[first:stop]), first, Fraction(request.fps))
                yield Progress("decode", stop, request.num_frames)
            yield done("animate", "svd")
        finally:
            self.working -= 1

    async def upscale(self, request: UpscaleRequest, frames: Frames, key: str = "") -> AsyncGenerator[Item]:
        self._enter("realesrgan", frames)
        self._fail(f"run:{frames.first}")
        # As in a real network, a frame's result depends slightly on the other frames of its batch.
        noise = np.uint8(frames.count)
        large = frames.pixels.repeat(request.scale, 1).repeat(request.scale, 2) ^ noise
        yield Frames(np.ascontiguousarray(large), frames.first, frames.rate)
        yield done("upscale", "realesrgan")

    async def stop(self, key: str) -> None:
        self.stopped.append(key)


class Room:
    """The graph with a separate folder on disk."""

    def __init__(
        self, folder: Path, studio: Studio | None = None, models: tuple[str, ...] = MODELS, **defaults: Any
    ) -> None:
        self.folder = folder
        self.studio = studio or Studio()
        self.handles = {model: Handle(self.studio) for model in models}
        settings = GraphSettings(artifacts=ArtifactSettings(url=str(folder / "artifacts")), defaults=defaults)
        taken: dict[Role, Any] = {ROLES[model]: handle for model, handle in self.handles.items()}
        self.graph = FullPipeline(Models(taken), settings, Transport(lost=(Gone,), busy=(Full,)))

    def face(self, seed: int = 1) -> str:
        path = self.folder / f"face{seed}.png"
        path.write_bytes(encode_png(np.random.default_rng(seed).integers(0, 256, (20, 20, 3), np.uint8)))
        return str(path)

    def request(self, **fields: Any) -> FullPipelineRequest:
        given = {"prompt": "a red fox", "seed": 7, "animate": {"num_frames": FRAMES}, "upscale": {"scale": 2}, **fields}
        return FullPipelineRequest.model_validate({name: v for name, v in given.items() if v is not None})

    def run(self, request: FullPipelineRequest, known: Known = NOTHING_KNOWN) -> AsyncGenerator[Item]:
        return cast("AsyncGenerator[Item]", self.graph.run(request, known))

    async def items(self, known: Known = NOTHING_KNOWN, **fields: Any) -> list[Item]:
        async with aclosing(self.run(self.request(**fields), known)) as items:
            return [item async for item in items]

    async def rested(self) -> None:
        for handle in self.handles.values():
            await handle.rested()
        assert self.studio.working == 0
