"""Writing what a job makes as it is made: closed segments into the artifact store, each recorded when it is whole.

Where the graph keeps its frames, each is also written by itself, without loss, before it waits for its segment.
"""

import asyncio
import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image

from composition.graphs.request import GraphRequest
from composition.media.encode import SegmentEncoder, encode_jpeg, encode_png, remux
from composition.records.artifacts import Artifacts
from composition.records.events import FrameEvent, ResultEvent, ScoresObject, SegmentEvent
from composition.records.store import EventDraft, Lease, Store
from composition.records.tables import Segment, Still
from composition.variants import FRAME, VIDEO
from services.errors import ModelFailed
from services.frames import Frames, Pixels, Scores, Sketch

THUMBNAIL_SIDE = 640
"""Pixels."""


@dataclass(frozen=True)
class Format:
    """What every frame of one output shares."""

    width: int
    height: int
    rate: Fraction


@dataclass(frozen=True)
class Output:
    """One of a job's videos."""

    variant: str = VIDEO
    main: bool = True
    """Whether the job is for this one: its frames are counted, and its size is the job's."""
    keeps_frames: bool = False
    segments: tuple[int, int] = GraphRequest.SEGMENTS
    """Frames in the first segment, and in each later one."""


class Recorder:
    """Takes frames in order and writes them; goes on behind what an earlier recorder of the same job has written.

    The cut into segments depends on frame numbers alone and each segment is encoded by itself, so an output that was
    interrupted and resumed is byte for byte the one that was not.
    """

    def __init__(self, store: Store, artifacts: Artifacts, lease: Lease, output: Output) -> None:
        done = store.list_segments(lease.job_id, variant=output.variant)
        self._output = output
        self._segments, self._keeps = output.segments, output.keeps_frames
        self._store = store
        self._artifacts = artifacts
        self._lease = lease
        self._keys = [segment.key for segment in done]
        self._index = max((segment.index for segment in done), default=-2) + 1
        self.frames = sum(segment.frames for segment in done)
        """How many frames are in segments."""
        self._kept = store.list_stills(lease.job_id, frames=True, start=self.frames) if self._keeps else []
        self.safe = self._kept[-1].index + 1 if self._kept else self.frames
        """How many frames need not be made again."""
        self.total: int | None = None
        """How many there will be, where that is known."""
        self._waiting: list[Pixels] = []
        self._taken = self.frames
        self._format: Format | None = None
        self._encoder: SegmentEncoder | None = None
        self._whole = False

    @property
    def taken(self) -> int:
        """How many frames were taken so far, those included that are not yet in a segment."""
        return self._taken

    async def restore(self, rate: Fraction) -> None:
        """Take again the frames that are safe and in no segment yet, as an earlier recorder has kept them."""
        for still in self._kept:
            pixels = await asyncio.to_thread(self._read, still.key)
            frame = Frames(pixels[None], still.index, rate)
            await self._fit(frame)
            await self._take(frame)

    async def take(self, frames: Frames, scores: Scores | None = None, sketches: Sequence[Sketch] = ()) -> None:
        """Take the run that comes next; frames that are written already are passed over.

        Args:
            frames: the run; a single frame where the graph keeps its frames.
            scores: how good the frame is.
            sketches: pictures of how it was made.

        Raises:
            ModelFailed: the run leaves a gap, or has another size or rate than the ones before.
        """
        await self._fit(frames)
        if frames.first > self._taken:
            raise ModelFailed(f"frame {self._taken} is missing; the next one to come was {frames.first}")
        if self._keeps and frames.first >= self.safe:
            await asyncio.to_thread(self._keep, frames, scores, sketches)
        await self._take(frames)

    async def _fit(self, frames: Frames) -> None:
        fmt = Format(frames.width, frames.height, frames.rate)
        if self._encoder is None:
            await self._begin(fmt)
        if fmt != self._format:
            raise ModelFailed(f"the frames changed from {self._format} to {fmt} within one video")

    async def _take(self, frames: Frames) -> None:
        fresh = frames.pixels[self._taken - frames.first :]
        if len(fresh):
            self._waiting.append(fresh)
            self._taken += len(fresh)
        while self._taken - self.frames >= self._wanted():
            await self._cut(self._wanted())

    async def finish(self) -> None:
        """Write what is left, and then the whole as one file. Raises ModelFailed without any frame."""
        if self._whole:
            return
        if self._taken > self.frames:
            await self._cut(self._taken - self.frames)
        if self.frames == 0:
            raise ModelFailed("the model made no frame")
        results = await asyncio.to_thread(self._assemble)
        await asyncio.to_thread(
            self._store.update_job, self._lease, {"results": results}, [there(self._output.variant)]
        )
        self._whole = True

    def _wanted(self) -> int:
        return self._segments[0 if self._index == 0 else 1]

    async def _begin(self, fmt: Format) -> None:
        self._format = fmt
        self._encoder = SegmentEncoder(fmt.width, fmt.height, fmt.rate, total_frames=self.total)
        changes: dict[str, Any] = {"rate": str(fmt.rate)}
        if self._output.main:
            changes |= {"width": fmt.width, "height": fmt.height}
        if self._index == -1:
            await asyncio.to_thread(self._write, self._encoder.encode_init(), 0, changes, [])

    async def _cut(self, count: int) -> None:
        pixels = np.concatenate(self._waiting) if len(self._waiting) > 1 else self._waiting[0]
        self._waiting = [pixels[count:]] if len(pixels) > count else []
        await asyncio.to_thread(self._encode, pixels[:count])

    def _encode(self, pixels: Pixels) -> None:
        if self._encoder is None:
            raise AssertionError("a segment is cut only after a frame was taken")
        data = self._encoder.encode_segment(pixels, self.frames, self._index + 1)
        done = max(self.safe, self.frames + len(pixels))
        changes: dict[str, Any] = {}
        if self._output.main:
            changes["frames_done"] = done
            if self.frames == 0:
                changes["results"] = {"thumbnail": thumbnail(self._artifacts, self._lease, pixels[0])}
        segment = SegmentEvent(
            variant=self._output.variant,
            index=self._index,
            first=self.frames,
            frames=len(pixels),
            frames_done=done,
            frames_total=self.total,
        )
        self._write(data, len(pixels), changes, [EventDraft.of(segment)])

    def _keep(self, frames: Frames, scores: Scores | None, sketches: Sequence[Sketch]) -> None:
        index = frames.first
        pictures = {sketch.name: sketch.picture for sketch in sketches} | {FRAME: frames}
        rows: list[Still] = []
        for name, picture in pictures.items():
            key = f"{self._folder}/stills/{index:06d}-{name}-{self._lease.fence}.png"
            self._artifacts.put(key, encode_png(picture.pixels[0]))
            rows.append(Still(job_id=self._lease.job_id, index=index, name=name, key=key))
        told = None if scores is None else ScoresObject.model_validate(scores, from_attributes=True)
        rows[-1].scores = told and told.model_dump()
        self.safe = index + 1
        kinds = {"frames": True, "metrics": scores is not None, "debug": bool(sketches)}
        changes: dict[str, Any] = {"results": {kind: "stills" for kind, there in kinds.items() if there}}
        if self._output.main:
            changes["frames_done"] = self.safe
        frame = FrameEvent(index=index, frames_done=self.safe, frames_total=self.total, scores=told)
        self._store.update_job(self._lease, changes, [EventDraft.of(frame)], rows)

    def _read(self, key: str) -> Pixels:
        with Image.open(io.BytesIO(b"".join(self._artifacts.read(key)))) as picture:
            return np.array(picture)

    def _write(self, data: bytes, frames: int, changes: dict[str, Any], news: list[EventDraft]) -> None:
        # The fence is in the name: a runner that lost its lease writes beside its successor, not over it.
        variant, index = self._output.variant, self._index
        key = f"{self._folder}/{variant}-{index + 1:06d}-{self._lease.fence}.m4s"
        self._artifacts.put(key, data)
        at = {"variant": variant, "index": index, "first": self.frames, "frames": frames}
        row = Segment(job_id=self._lease.job_id, key=key, **at)
        self._store.update_job(self._lease, changes, news, [row])
        self._keys.append(key)
        self._index += 1
        self.frames += frames

    def _assemble(self) -> dict[str, str]:
        """One progressive mp4 out of the segments: it seeks everywhere and says how long it is."""
        whole, target = self._artifacts.create_draft(), self._artifacts.create_draft()
        with contextlib.ExitStack() as drafts:
            for draft in (whole, target):
                drafts.callback(draft.unlink, missing_ok=True)
            with whole.open("wb") as file:
                for key in self._keys:
                    file.writelines(self._artifacts.read(key))
            remux(whole, target)
            video = f"{self._folder}/{self._output.variant}.mp4"
            self._artifacts.put_file(video, target)
        return {self._output.variant: video}

    @property
    def _folder(self) -> str:
        return folder(self._lease)


def folder(lease: Lease) -> str:
    """Where all lies that a job makes."""
    return f"videos/{lease.job_id}"


def thumbnail(artifacts: Artifacts, lease: Lease, pixels: Pixels) -> str:
    """Store a small copy of a picture, (h, w, 3), and return its key."""
    key = f"{folder(lease)}/thumbnail.jpg"
    artifacts.put(key, encode_jpeg(pixels, THUMBNAIL_SIDE))
    return key


def there(variant: str) -> EventDraft:
    """That a result can be had now."""
    return EventDraft.of(ResultEvent(variant=variant))
