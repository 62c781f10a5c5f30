"""Where jobs are ordered, without a server: a store, uploads, and jobs that have made some of their frames."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from composition.artifacts import Artifacts, ArtifactSettings
from composition.bodies import Body
from composition.decode import MediaLimits
from composition.encode import png
from composition.forms import Part
from composition.full_pipeline import FullPipelineRequest
from composition.graph import GraphRequest
from composition.orders import Orders, Rules
from composition.rolling_edit import RollingEditRequest
from composition.scenes import StoryboardRequest
from composition.store import FRAME, Lease, Page, Store
from composition.svd import AnimateRequest
from composition.tables import File, Job, Still
from composition.uploads import Uploads
from composition.v2v import V2VRequest
from services.frames import Pixels
from tests.composition.serving import noise

EDGES = 4
SERVED = ("flux", "svd")
LIMITS = {
    "v2v": {"num_frames": 17, "max_area": 4096},
    "rolling-edit": {"steps": 20, "max_area": 4096},
    "full-pipeline": {"steps": 50, "animate.num_frames": 30},
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "v2v": {"max_area": 4096, "num_frames": 17},
    "rolling-edit": {"steps": 4, "max_area": 2048},
    "full-pipeline": {"size": "64x64", "animate": {"num_frames": 8, "steps": 3}},
}


class Counter:
    """Takes orders of `ann`. In a `stocked` folder she has uploaded a first frame, edges and a clip."""

    def __init__(
        self,
        folder: Path,
        limits: Mapping[str, Mapping[str, float]] = LIMITS,
        served: tuple[str, ...] = SERVED,
    ) -> None:
        self.folder = folder
        self.store = Store(f"sqlite:///{folder / 'store.db'}")
        self.artifacts = Artifacts(ArtifactSettings(url=str(folder / "artifacts")))
        self.uploads = Uploads(self.store, self.artifacts, MediaLimits(), 1 << 30)
        self.requests: dict[str, type[GraphRequest]] = {
            "v2v": V2VRequest,
            "rolling-edit": RollingEditRequest,
            "svd": AnimateRequest,
            "full-pipeline": FullPipelineRequest,
            "storyboard": StoryboardRequest,
        }
        kept = self.store, self.artifacts
        self.orders = Orders(self.requests, Rules(DEFAULTS, limits, served), self.uploads, kept)
        self._files = {file.filename: file for file in self.store.files("ann", Page(100))[0]}

    @property
    def first(self) -> File:
        return self._files["first"]

    @property
    def edges(self) -> File:
        return self._files["edges"]

    @property
    def clip(self) -> File:
        return self._files["clip"]

    async def upload(self, data: bytes, name: str = "x") -> File:
        return await self.uploads.admit(Part(io.BytesIO(data), name), "ann", "input", "file")

    async def edit(self, owner: str = "ann", **fields: Any) -> Job:
        """Order a rolling edit; a field that is None is left out."""
        given = {"init_frame": self.first.id, "edge_frames": self.edges.id, **fields}
        return await self._ordered(owner, "rolling-edit", given)

    async def branch(self, video: str, frame: object, owner: str = "ann", **fields: Any) -> Job:
        """Order a rolling edit that begins at a frame of another."""
        return await self._ordered(owner, "rolling-edit", {"branch_from": {"video": video, "frame": frame}, **fields})

    async def video(self, **fields: Any) -> Job:
        """Order the continuation of a clip."""
        return await self._ordered("ann", "v2v", {"input_video": self.clip.id, **fields})

    async def ordered(self, model: str, **fields: Any) -> Job:
        """Order anything."""
        return await self._ordered("ann", model, fields)

    async def _ordered(self, owner: str, model: str, fields: dict[str, Any]) -> Job:
        given = {"model": model, **fields}
        return await self.orders.job(Body({name: v for name, v in given.items() if v is not None}), owner)

    async def begun(self, job: Job, frames: int) -> Job:
        """Store a job and give it its first so many frames; it is not finished."""
        self.store.create_job(job, 99)
        claimed = self.store.claim(60.0)
        assert claimed
        assert claimed.id == job.id
        for index in range(frames):
            key = f"videos/{job.id}/{index}.png"
            self.artifacts.put(key, png(frame_of(index)))
            row = Still(job_id=job.id, index=index, name=FRAME, key=key)
            self.store.record(self.lease(job), {"frames_done": index + 1}, [], [row])
        return self.store.job(job.id)

    def lease(self, job: Job) -> Lease:
        return Lease(job.id, self.store.job(job.id).fence)

    def data(self, file: File) -> bytes:
        return b"".join(self.artifacts.read(file.key))


def frame_of(index: int) -> Pixels:
    """The frame of that number, of every job that has begun."""
    return noise(100 + index, 64, 48)
