"""Creates jobs without a server: a database, uploads, and jobs with some finished frames."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from composition.http.bodies import Body
from composition.http.forms import Part
from composition.http.orders import JobBuilder
from composition.http.uploads import Uploads
from composition.media.encode import encode_png
from composition.media.limits import MediaLimits
from composition.records.artifacts import Artifacts
from composition.records.store import Lease, Page
from composition.records.tables import File, Job, Still
from composition.variants import FRAME
from services.frames import Pixels
from tests.composition.deployed import Cluster, Hosted
from tests.composition.serving import noise

EDGES = 4
SERVED = ("flux", "svd")
"""Models of the full pipeline that are served by default."""
LIMITS: dict[str, dict[str, float]] = {
    "wan": {"num_frames": 17, "max_area": 4096},
    "qwen-edit": {"steps": 20, "max_area": 4096},
    "flux": {"steps": 50},
    "svd": {"num_frames": 30},
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "wan": {"max_area": 4096, "num_frames": 17},
    "qwen-edit": {"steps": 4, "max_area": 2048},
    "flux": {"size": "64x64"},
    "svd": {"num_frames": 8, "steps": 3},
}
UNMEASURED: dict[str, dict[str, str]] = {"qwen-edit": {"lpips_to_prev": "lpips"}}
RATE = 16.0
"""Frames per second of Wan's videos."""


class Counter:
    """Creates jobs for the owner `ann`, who in a `stocked` folder has uploaded a first frame, edges and a clip."""

    def __init__(
        self,
        folder: Path,
        limits: Mapping[str, Mapping[str, float]] = LIMITS,
        served: tuple[str, ...] = SERVED,
    ) -> None:
        self.folder = folder
        self.cluster = Cluster(folder)
        self.cluster.host_models(
            {
                kind: Hosted(
                    kind,
                    limits=limits.get(kind, {}),
                    defaults=DEFAULTS.get(kind, {}),
                    rate=rate,
                    unmeasured=UNMEASURED.get(kind, {}),
                )
                for kind, rate in {"internvl": None, "wan": RATE, "qwen-edit": None, **dict.fromkeys(served)}.items()
            }
        )
        self.cluster.host_graphs("v2v", "rolling-edit", "full-pipeline", "storyboard", "single")
        self.store = self.cluster.store
        self.artifacts = Artifacts(self.cluster.where)
        self.uploads = Uploads(self.store, self.artifacts, MediaLimits(), 1 << 30)
        self.jobs = JobBuilder(self.cluster.served, self.uploads, self.store, self.artifacts)
        self._files = {file.filename: file for file in self.store.list_files("ann", Page(100))[0]}

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
        return await self.uploads.store_part(Part(io.BytesIO(data), name), "ann", "input", "file")

    async def edit(self, owner: str = "ann", **fields: Any) -> Job:
        """Create a rolling edit; fields that are None are left out."""
        given = {"init_frame": self.first.id, "edge_frames": self.edges.id, **fields}
        return await self._ordered(owner, "rolling-edit", given)

    async def branch(self, video: str, frame: object, owner: str = "ann", **fields: Any) -> Job:
        """Create a rolling edit that starts from a frame of another one."""
        return await self._ordered(owner, "rolling-edit", {"branch_from": {"video": video, "frame": frame}, **fields})

    async def video(self, **fields: Any) -> Job:
        """Create a continuation of the clip."""
        return await self._ordered("ann", "v2v", {"input_video": self.clip.id, **fields})

    async def ordered(self, model: str, **fields: Any) -> Job:
        """Create a job of any graph or model."""
        return await self._ordered("ann", model, fields)

    async def _ordered(self, owner: str, model: str, fields: dict[str, Any]) -> Job:
        given = {"model": model, **fields}
        return await self.jobs.build_job(Body({name: v for name, v in given.items() if v is not None}), owner)

    async def begun(self, job: Job, frames: int) -> Job:
        """Store a running job with this many finished frames."""
        self.store.create_job(job, 99)
        claimed = self.store.claim_job(60.0)
        assert claimed
        assert claimed.id == job.id
        for index in range(frames):
            key = f"videos/{job.id}/{index}.png"
            self.artifacts.put(key, encode_png(frame_of(index)))
            row = Still(job_id=job.id, index=index, name=FRAME, key=key)
            self.store.update_job(self.lease(job), {"frames_done": index + 1}, [], [row])
        return self.store.get_job(job.id)

    def lease(self, job: Job) -> Lease:
        return Lease(job.id, self.store.get_job(job.id).fence)

    def data(self, file: File) -> bytes:
        return b"".join(self.artifacts.read(file.key))


def frame_of(index: int) -> Pixels:
    """Return the frame with this index, which is the same for all jobs."""
    return noise(100 + index, 64, 48)
