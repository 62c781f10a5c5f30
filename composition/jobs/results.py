"""All that one attempt at a job gives out: videos, each written by a recorder of its own, and pictures."""

import asyncio
from fractions import Fraction
from typing import Any

from composition.graphs.request import GraphRequest
from composition.jobs.recorder import Output, Recorder, folder, there, thumbnail
from composition.media.encode import encode_png
from composition.records.artifacts import Artifacts
from composition.records.store import Lease, Store
from composition.variants import VIDEO
from services.errors import ModelFailed
from services.frames import Result


class Results:
    """What `request` makes under a lease; goes on behind what an earlier attempt has left."""

    def __init__(self, store: Store, artifacts: Artifacts, lease: Lease, request: GraphRequest) -> None:
        self._store = store
        self._artifacts = artifacts
        self._lease = lease
        self._request = request
        job = store.get_job(lease.job_id)
        self.pictures = {name: key for name, key in job.results.items() if str(key).endswith(".png")}
        """Variant → key, of those that are there."""
        self._others = {name: self._opened(name) for name in request.OTHERS}
        self.video = self._opened(VIDEO)
        """The recorder of the plain frames."""
        self._rate = Fraction(job.rate) if job.rate else None

    def _opened(self, variant: str) -> Recorder:
        keeps = self._request.KEEPS_FRAMES and variant == VIDEO
        output = Output(variant, variant == self._request.main, keeps, self._request.SEGMENTS)
        return Recorder(self._store, self._artifacts, self._lease, output)

    @property
    def safe(self) -> dict[str, int]:
        """Of the other videos: how many frames need not be made again."""
        return {name: recorder.safe for name, recorder in self._others.items()}

    def expect(self, total: int | None) -> None:
        """Note how many frames each of the videos will have."""
        for recorder in (self.video, *self._others.values()):
            recorder.total = total

    async def restore(self) -> None:
        """Take again the frames that are kept and in no segment yet."""
        if self._rate is not None:
            await self.video.restore(self._rate)

    async def take(self, result: Result) -> None:
        """Take a picture, or the run of another video that comes next. Raises what `Recorder.take` raises."""
        if result.still:
            await asyncio.to_thread(self._take_picture, result)
            return
        recorder = self._others[result.name]
        await recorder.take(result.frames)
        await self.finish_what_is_whole()

    async def finish_what_is_whole(self) -> None:
        """Where a job makes several videos, each is there as soon as it has all of its frames."""
        if self._others:
            for recorder in (self.video, *self._others.values()):
                if recorder.taken == recorder.total:
                    await recorder.finish()

    async def finish(self) -> None:
        """Write what is left of all of them. Raises ModelFailed where there is nothing of what the job is for."""
        for recorder in (self.video, *self._others.values()):
            if recorder.taken:
                await recorder.finish()
        job = await asyncio.to_thread(self._store.get_job, self._lease.job_id)
        if self._request.main not in job.results:
            raise ModelFailed(f"the model made no {self._request.main}")

    def _take_picture(self, result: Result) -> None:
        pixels = result.frames.pixels[0]
        key = f"{folder(self._lease)}/{result.name}-{self._lease.fence}.png"
        self._artifacts.put(key, encode_png(pixels))
        changes: dict[str, Any] = {
            "results": {result.name: key, "thumbnail": thumbnail(self._artifacts, self._lease, pixels)}
        }
        if result.name == self._request.main:
            changes |= {"width": result.frames.width, "height": result.frames.height}
        self._store.update_job(self._lease, changes, [there(result.name)])
        self.pictures[result.name] = key
