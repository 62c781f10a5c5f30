"""The outputs of an attempt at a job: videos, with one recorder each, and pictures."""

import asyncio
from fractions import Fraction
from typing import Any

from composition.graphs.graph import Graph
from composition.graphs.request import GraphRequest
from composition.jobs.publishing import DEFAULT_OUTPUTS, OutputSettings, Publisher
from composition.jobs.recorder import (
    THUMBNAIL_SIDE,
    Output,
    Recorder,
    announce_result,
    job_folder,
    publish_thumbnail,
)
from composition.media.encode import encode_jpeg
from composition.media.encode_picture import blend_on_white, encode_picture
from composition.media.encoded_sound import EncodedSound
from composition.records.artifacts import Artifacts
from composition.records.store import Lease, Store
from composition.variants import VIDEO
from services.errors import ModelFailed, NotFound
from services.frames import Result


class Results:
    """Stores the outputs of a run. Continues after the outputs of an earlier attempt."""

    def __init__(
        self,
        store: Store,
        artifacts: Artifacts,
        lease: Lease,
        graph: Graph,
        request: GraphRequest,
        settings: OutputSettings = DEFAULT_OUTPUTS,
    ) -> None:
        self._store = store
        self._artifacts = artifacts
        self._lease = lease
        self._graph = graph
        self._request = request
        self._settings = settings
        self._publisher = Publisher(store, artifacts, settings)
        job = store.get_job(lease.job_id)
        self.pictures = {name: self._find_clean(key) for name, key in job.results.items() if str(key).endswith(".png")}
        """Variant → key of each stored picture, without the label that people see."""
        self._others = {name: self._open_recorder(name) for name in graph.outputs if name != VIDEO}
        self.video = self._open_recorder(VIDEO)
        """The recorder of the main video."""
        self._rate = Fraction(job.rate) if job.rate else None

    def _open_recorder(self, variant: str) -> Recorder:
        keeps = self._graph.keeps_frames and variant == VIDEO
        main = variant == self._request.main_variant
        request = self._request
        output = Output(
            variant,
            main,
            keeps,
            self._graph.segments,
            request.encoding,
            self._settings,
            tuple(request.faults),
            request.given_frames,
        )
        return Recorder(self._store, self._artifacts, self._lease, output)

    @property
    def safe(self) -> dict[str, int]:
        """Variant of each other video → number of frames that are stored."""
        return {name: recorder.safe for name, recorder in self._others.items()}

    def expect(self, total: int | None) -> None:
        """Set the number of frames that each video will have."""
        for recorder in (self.video, *self._others.values()):
            recorder.total = total

    async def restore(self) -> None:
        """Load the stored frames that are not in a segment yet."""
        if self._rate is not None:
            await self.video.restore(self._rate)

    async def take(self, result: Result) -> None:
        """Store a picture, or the next frames of another video. Raises what `Recorder.take` raises."""
        if result.still:
            await self._take_picture(result)
            return
        await self._others[result.name].take(result.frames)

    @property
    def has_complete_videos(self) -> bool:
        """Whether the job has several videos, one of which has all of its frames and is not finished."""
        return bool(self._others) and any(each.is_complete for each in (self.video, *self._others.values()))

    async def finish_complete_videos(self) -> None:
        """If the job has several videos, finish each one that has all of its frames."""
        if self._others:
            for recorder in (self.video, *self._others.values()):
                if recorder.is_complete:
                    await recorder.finish()

    async def finish(self, sound: EncodedSound | None = None) -> None:
        """Finish all videos. Raises ModelFailed if the main output does not exist.

        Args:
            sound: of the main video.
        """
        for recorder in (self.video, *self._others.values()):
            if recorder.taken:
                await recorder.finish(sound if recorder is self.video else None)
        job = await asyncio.to_thread(self._store.get_job, self._lease.job_id)
        if self._request.main_variant not in job.results:
            raise ModelFailed(f"the graph produced no {self._request.main_variant}")

    async def _take_picture(self, result: Result) -> None:
        """Store a picture with its marks. If people see a label on it, it is stored without the label as well."""
        pixels, alpha = result.frames.pixels[0], None if result.alpha is None else result.alpha.pixels[0, ..., 0]
        key = f"{job_folder(self._lease)}/{result.name}-{self._lease.fence}.png"
        if self._settings.label is not None:
            data = await asyncio.to_thread(encode_picture, pixels, "png", alpha=alpha)
            await asyncio.to_thread(self._artifacts.put, _name_clean(key), data)
        shown, opacity = self._settings.draw_label_on(pixels, alpha)
        data = await asyncio.to_thread(encode_picture, shown, "png", alpha=opacity)
        await self._publisher.publish_bytes(self._lease.job_id, result.name, data, key)
        opaque = shown if opacity is None else blend_on_white(shown, opacity)
        small = await asyncio.to_thread(encode_jpeg, opaque, THUMBNAIL_SIDE)
        thumbnail = await publish_thumbnail(self._publisher, self._lease, result.name, small)
        changes: dict[str, Any] = {"results": {result.name: key, **thumbnail}}
        if result.name == self._request.main_variant:
            changes |= {"width": result.frames.width, "height": result.frames.height}
        await asyncio.to_thread(self._store.update_job, self._lease, changes, [announce_result(result.name)])
        self.pictures[result.name] = key

    def _find_clean(self, key: str) -> str:
        """Return the key of a picture without the label that people see."""
        try:
            self._artifacts.get_size(_name_clean(key))
        except NotFound:  # it has no label
            return key
        return _name_clean(key)


def _name_clean(key: str) -> str:
    """Return the key of a picture without the label that people see, if it has one."""
    return f"{key.removesuffix('.png')}-clean.png"
