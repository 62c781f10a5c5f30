"""The two ways of making a film out of a picture: streamed by the graph, and one stage behind the other."""

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

from composition.graphs.calls import Handle, Models, Transport, opened, stream
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
"""The folder of the checkpoint of full size."""


@dataclass(frozen=True)
class Case:
    """What is made, by what."""

    width: int
    """Pixels, before enlarging."""
    height: int
    steps: int
    frames: int = 25
    full_size: bool = False
    """Whether SVD has the real architecture, with random weights, instead of being small."""
    dtype: str = "float32"
    """Of SVD."""
    device: str = "cpu"

    @property
    def request(self) -> FullPipelineRequest:
        size = f"{self.width}x{self.height}"
        animate = SvdRequest(num_frames=self.frames, steps=self.steps, size=size, seed=1)
        return FullPipelineRequest(prompt="a meadow", animate=animate, seed=1)

    def models(self, home: Path) -> tuple[SvdSettings, RealEsrganSettings]:
        """How the two are loaded; `home` holds the checkpoint of full size."""
        weights = Weights(path=home / FULL_SIZE) if self.full_size else written("svd", "xt", home)
        fields: dict[str, Any] = {"weights": weights, "device": self.device, "dtype": self.dtype}
        return SvdSettings.model_validate(fields), RealEsrganSettings(device=self.device)


@dataclass(frozen=True)
class Film:
    """How making one went, in seconds."""

    seconds: Mapping[str, float]
    """By stage: how long it was at work."""
    first_enlarged: float
    """From the beginning, as are the next three."""
    first_segment: float
    """The first segment of the enlarged video is whole."""
    last_window: float
    """SVD's last frame is there."""
    makespan: float
    digest: str
    """Of the bytes of both videos."""


@dataclass
class Cutter:
    """Cuts one video's frames into segments, as a job's recorder does."""

    total: int
    """Frames of the whole."""
    data: bytearray = field(default_factory=bytearray)
    _encoder: SegmentEncoder | None = None
    segments: int = 0
    """Those that are whole."""
    _waiting: list[Frames] = field(default_factory=list[Frames])
    _first: int = 0
    """Number of the first frame that is in no segment yet."""

    def take(self, frames: Frames) -> None:
        """Take the run that comes next. Raises ValueError when frames are missing."""
        due = self._first + len(self._waiting)
        if frames.first != due:
            raise ValueError(f"frame {frames.first} came where {due} was due")
        if self._encoder is None:
            self._encoder = SegmentEncoder(frames.width, frames.height, frames.rate, total_frames=self.total)
            self.data += self._encoder.init()
        for number, pixels in enumerate(frames.pixels, frames.first):
            self._waiting.append(Frames(pixels[None], number, frames.rate))
            wanted = FullPipelineRequest.SEGMENTS[min(self.segments, 1)]
            if len(self._waiting) == wanted or number + 1 == self.total:
                self.data += self._encoder.segment(self._waiting, self._first, self.segments + 1)
                self.segments += 1
                self._first += len(self._waiting)
                self._waiting = []

    @property
    def whole(self) -> bool:
        return self._first == self.total


class Tape:
    """Encodes both videos, and notes when what was there."""

    def __init__(self, frames: int) -> None:
        self._began = time.perf_counter()
        self._frames = frames
        self._cutters = {VIDEO: Cutter(frames), HD: Cutter(frames)}
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._at: dict[str, float] = {}

    def note(self, item: Item) -> None:
        """Note when a frame came, and how long a stage was at work."""
        now = time.perf_counter() - self._began
        if isinstance(item, Frames) and item.stop == self._frames:
            self._at["last_window"] = now
        elif isinstance(item, Result) and item.name == HD:
            self._at.setdefault("first_enlarged", now)
        elif isinstance(item, StageDone):
            self._seconds[{"animate": SVD, "upscale": NET}[item.stage]] += item.seconds

    def encode(self, item: Item) -> None:
        """Encode frames; other items are passed over. Blocks."""
        began = time.perf_counter()
        if isinstance(item, Frames):
            self._cutters[VIDEO].take(item)
        elif isinstance(item, Result) and item.name == HD:
            self._cutters[HD].take(item.frames)
            if self._cutters[HD].segments:
                self._at.setdefault("first_segment", time.perf_counter() - self._began)
        self._seconds[MP4] += time.perf_counter() - began

    def film(self) -> Film:
        """What came of it, once all is there. Raises ValueError when frames are missing."""
        makespan = time.perf_counter() - self._began
        if not all(cutter.whole for cutter in self._cutters.values()):
            raise ValueError(f"one of the videos has fewer than {self._frames} frames")
        whole = hashlib.sha256(b"".join(cutter.data for cutter in self._cutters.values()))
        return Film(self._seconds, makespan=makespan, digest=whole.hexdigest(), **self._at)


# --- streamed -----------------------------------------------------------------------------------------------------


class Filming:
    """Takes the graph's items as a job runner does."""

    def __init__(self, graph: Handle[Runnable]) -> None:
        self._graph = graph

    async def film(self, request: FullPipelineRequest, known: Known, frames: int) -> Film:
        tape = Tape(frames)
        async with opened(stream(self._graph, Runnable.run, request, known), Transport()) as items:
            async for item in items:
                tape.note(item)
                await asyncio.to_thread(tape.encode, item)
        return tape.film()


def application(case: Case, home: Path) -> Application:
    """The graph and its models, each in a process of its own."""
    svd, realesrgan = case.models(home)
    share = 0.4 if case.device == "cuda" else 0.0
    models = {
        "svd": _bound(Svd, share, svd, home, partial(str, "svd")),
        "realesrgan": _bound(RealEsrgan, share, realesrgan, home, partial(str, "realesrgan")),
    }
    settings = GraphSettings(artifacts=ArtifactSettings(url=str(home / "artifacts")))
    return _bound(Filming, 0.0, _bound(FullPipeline, 0.0, Models(cast("Any", models)), settings, Transport()))


def _bound(cls: type, gpus: float, *args: object) -> Application:
    """Bind a class as one replica, with one thread, and a part of a GPU."""
    environment = {"env_vars": {"OMP_NUM_THREADS": "1"}}
    options = {"num_cpus": 0.1, "num_gpus": gpus, "runtime_env": environment}
    return cast("Any", serve.deployment(cls, ray_actor_options=options)).bind(*args)


# --- one behind the other -----------------------------------------------------------------------------------------


@lru_cache
def _loaded(case: Case, home: Path) -> tuple[Svd, RealEsrgan]:
    """The two models in this process."""
    svd, realesrgan = case.models(home)
    return Svd(svd, home, partial(str, "svd")), RealEsrgan(realesrgan, home, partial(str, "realesrgan"))


def behind(case: Case, home: Path, picture: Frames, threads: int) -> Film:
    """Make it in this process with so many threads, one stage behind the other."""
    import torch  # not where the streamed side only passes frames on

    torch.set_num_threads(threads)
    return asyncio.run(_one_by_one(case, *_loaded(case, home), picture))


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
