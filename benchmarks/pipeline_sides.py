"""Two ways to make a film from a picture: streamed by the graph, and one stage after the other."""

import asyncio
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from ray import serve
from ray.serve import Application

from composition.graphs.calls import Handle, Models, Transport, open_stream, stream
from composition.graphs.full_pipeline import GRAPH
from composition.graphs.full_pipeline.graph import RUN, FullPipeline
from composition.graphs.full_pipeline.request import HD, FullPipelineRequest
from composition.graphs.graph import Runnable
from composition.graphs.run import GraphSettings, Known
from composition.media.encode import SegmentEncoder
from composition.records.artifacts import ArtifactSettings
from composition.variants import VIDEO
from miniatures.random import written
from services.frames import Frames, Item, Result, StageDone
from services.realesrgan.service import RealEsrgan
from services.realesrgan.settings import RealEsrganSettings
from services.svd.request import SvdRequest
from services.svd.service import Svd
from services.svd.settings import SvdSettings
from services.weights.weights import Weights

SVD, NET, MP4 = "SVD", "Real-ESRGAN", "mp4"
STAGES: tuple[str, ...] = (SVD, NET, MP4)
FULL_SIZE = "svd-full-size"
"""Folder name of the full-size checkpoint."""


@dataclass(frozen=True)
class Case:
    """Size of the film, and the models that make it."""

    width: int
    """Width of the picture in pixels, before upscaling."""
    height: int
    steps: int
    frames: int = 25
    full_size: bool = False
    """Whether SVD has the full-size architecture (with random weights) or a small one."""
    dtype: str = "float32"
    """Data type of SVD."""
    device: str = "cpu"

    @property
    def request(self) -> FullPipelineRequest:
        size = f"{self.width}x{self.height}"
        animate = SvdRequest(num_frames=self.frames, steps=self.steps, size=size, seed=1)
        return FullPipelineRequest(prompt="a meadow", animate=animate, seed=1)

    def models(self, home: Path) -> tuple[SvdSettings, RealEsrganSettings]:
        """Return the settings of both models; `home` holds the full-size checkpoint."""
        weights = Weights(path=home / FULL_SIZE) if self.full_size else written("svd", "xt", home)
        fields: dict[str, Any] = {"weights": weights, "device": self.device, "dtype": self.dtype}
        return SvdSettings.model_validate(fields), RealEsrganSettings(device=self.device)


@dataclass(frozen=True)
class Film:
    """Measurements of one film; times in seconds."""

    seconds: Mapping[str, float]
    """Stage → working time."""
    first_enlarged: float
    """Time of the first upscaled frame, from the start; so are the next three."""
    first_segment: float
    """Time at which the first segment of the upscaled video is complete."""
    last_window: float
    """Time of SVD's last frame."""
    makespan: float
    digest: str
    """Hash of the bytes of both videos."""


@dataclass
class Cutter:
    """Cuts the frames of one video into segments, as a job's recorder does."""

    total: int
    """Number of frames of the video."""
    data: bytearray = field(default_factory=bytearray)
    _encoder: SegmentEncoder | None = None
    segments: int = 0
    """Number of complete segments."""
    _waiting: list[Frames] = field(default_factory=list[Frames])
    _first: int = 0
    """Index of the first frame that is not in a segment yet."""

    def take(self, frames: Frames) -> None:
        """Add the next run. Raises ValueError if frames are missing."""
        due = self._first + len(self._waiting)
        if frames.first != due:
            raise ValueError(f"expected frame {due}, got frame {frames.first}")
        if self._encoder is None:
            self._encoder = SegmentEncoder(frames.width, frames.height, frames.rate, total_frames=self.total)
            self.data += self._encoder.encode_init()
        for number, pixels in enumerate(frames.pixels, frames.first):
            self._waiting.append(Frames(pixels[None], number, frames.rate))
            wanted = GRAPH.segments[min(self.segments, 1)]
            if len(self._waiting) == wanted or number + 1 == self.total:
                self.data += self._encoder.encode_segment(self._waiting, self._first, self.segments + 1)
                self.segments += 1
                self._first += len(self._waiting)
                self._waiting = []

    @property
    def whole(self) -> bool:
        return self._first == self.total


class Tape:
    """Encodes both videos and records the times of their frames."""

    def __init__(self, frames: int) -> None:
        self._began = time.perf_counter()
        self._frames = frames
        self._cutters = {VIDEO: Cutter(frames), HD: Cutter(frames)}
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._at: dict[str, float] = {}

    def note(self, item: Item) -> None:
        """Record the time of a frame, or the working time of a stage."""
        now = time.perf_counter() - self._began
        if isinstance(item, Frames) and item.stop == self._frames:
            self._at["last_window"] = now
        elif isinstance(item, Result) and item.name == HD:
            self._at.setdefault("first_enlarged", now)
        elif isinstance(item, StageDone):
            self._seconds[{"animate": SVD, "upscale": NET}[item.stage]] += item.seconds

    def encode(self, item: Item) -> None:
        """Encode frames; ignore other items. Blocks."""
        began = time.perf_counter()
        if isinstance(item, Frames):
            self._cutters[VIDEO].take(item)
        elif isinstance(item, Result) and item.name == HD:
            self._cutters[HD].take(item.frames)
            if self._cutters[HD].segments:
                self._at.setdefault("first_segment", time.perf_counter() - self._began)
        self._seconds[MP4] += time.perf_counter() - began

    def film(self) -> Film:
        """Return the measurements of a complete film. Raises ValueError if frames are missing."""
        makespan = time.perf_counter() - self._began
        if not all(cutter.whole for cutter in self._cutters.values()):
            raise ValueError(f"a video has fewer than {self._frames} frames")
        whole = hashlib.sha256(b"".join(cutter.data for cutter in self._cutters.values()))
        return Film(self._seconds, makespan=makespan, digest=whole.hexdigest(), **self._at)


# --- streamed -----------------------------------------------------------------------------------------------------


class Filming:
    """Consumes the items of the graph as a job runner does."""

    def __init__(self, graph: Handle[Runnable]) -> None:
        self._graph = graph

    async def film(self, request: FullPipelineRequest, known: Known, frames: int) -> Film:
        tape = Tape(frames)
        async with open_stream(stream(self._graph, Runnable.run, request, known), Transport()) as items:
            async for item in items:
                tape.note(item)
                await asyncio.to_thread(tape.encode, item)
        return tape.film()


def make_application(case: Case, home: Path) -> Application:
    """Return the application of the graph and its models, each in its own process."""
    svd, realesrgan = case.models(home)
    share = 0.4 if case.device == "cuda" else 0.0
    models = {
        "svd": _bound(Svd, share, svd, home, partial(str, "svd")),
        "realesrgan": _bound(RealEsrgan, share, realesrgan, home, partial(str, "realesrgan")),
    }
    settings = GraphSettings(artifacts=ArtifactSettings(url=str(home / "artifacts")))
    return _bound(Filming, 0.0, _bound(FullPipeline, 0.0, Models(cast("Any", models)), settings, Transport()))


def _bound(cls: type, gpus: float, *args: object) -> Application:
    """Bind a class as a deployment with one replica, one thread and a share of a GPU."""
    environment = {"env_vars": {"OMP_NUM_THREADS": "1"}}
    options = {"num_cpus": 0.1, "num_gpus": gpus, "runtime_env": environment}
    return cast("Any", serve.deployment(cls, ray_actor_options=options)).bind(*args)


# --- one after the other ------------------------------------------------------------------------------------------


@lru_cache
def _load_models(case: Case, home: Path) -> tuple[Svd, RealEsrgan]:
    """Load both models in this process."""
    svd, realesrgan = case.models(home)
    return Svd(svd, home, partial(str, "svd")), RealEsrgan(realesrgan, home, partial(str, "realesrgan"))


def run_sequentially(case: Case, home: Path, picture: Frames, threads: int) -> Film:
    """Make the film in this process with this number of threads, one stage after the other."""
    import torch  # the streamed side needs no torch to pass frames on

    torch.set_num_threads(threads)
    return asyncio.run(_one_by_one(case, *_load_models(case, home), picture))


async def _one_by_one(case: Case, svd: Svd, realesrgan: RealEsrgan, picture: Frames) -> Film:
    asked = case.request
    assert asked.animate is not None
    assert asked.upscale is not None
    tape, made = Tape(case.frames), list[Item]()
    async for item in svd.animate(asked.animate, picture):
        tape.note(item)
        made.append(item)
    runs = [item for item in made if isinstance(item, Frames)]
    pixels = np.concatenate([run.pixels for run in runs])
    for first in range(0, len(pixels), RUN):
        run = Frames(pixels[first : first + RUN], first, runs[0].rate)
        async for item in realesrgan.upscale(asked.upscale, run):
            result = Result(HD, item) if isinstance(item, Frames) else item
            tape.note(result)
            made.append(result)
    for item in made:
        tape.encode(item)
    return tape.film()
