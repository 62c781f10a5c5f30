"""Records the frames of a video as they arrive: encodes them into segments, and stores each complete segment.

If the graph keeps its frames, each frame is also stored as a lossless picture on arrival.
"""

import asyncio
import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from composition.graphs.graph import DEFAULT_SEGMENTS
from composition.jobs.encoder_choice import VideoFormat, choose_segment_encoder
from composition.jobs.publishing import DEFAULT_OUTPUTS, OutputSettings, Publisher
from composition.media.encode import SegmentEncoder, encode_jpeg, encode_png, remux
from composition.media.encoded_sound import EncodedSound
from composition.media.encoders import SOFTWARE
from composition.media.encoding import DEFAULT_ENCODING, Encoding
from composition.media.fault_kinds import KINDS, FaultKind
from composition.media.findings import describe_findings, judge_parts
from composition.media.signals import Origin, SignalMeter, pack_signals
from composition.media.written import VideoFacts, read_video_facts
from composition.records.artifacts import Artifacts
from composition.records.events import FactEvent, FrameEvent, FrameScoresObject, ResultEvent, SegmentEvent
from composition.records.store import EventDraft, Lease, Store
from composition.records.tables import Segment, Still
from composition.variants import FRAME, THUMBNAIL, VIDEO
from services.errors import ModelFailed
from services.frames import Frames, Pixels, Scores, Sketch

THUMBNAIL_SIDE = 640
"""Longer side of a thumbnail, in pixels."""


@dataclass(frozen=True)
class Format:
    """The properties that all frames of a video share."""

    width: int
    height: int
    rate: Fraction | None
    """Frames per second; None if the frame rate is variable."""


@dataclass(frozen=True)
class Output:
    """A video of a job."""

    variant: str = VIDEO
    main: bool = True
    """Whether it is the main output, which determines the size and the frame count of the job."""
    keeps_frames: bool = False
    """Whether each frame is also stored as a lossless picture."""
    segments: tuple[int, int] = DEFAULT_SEGMENTS
    """Number of frames in the first segment, and in each later one."""
    encoding: Encoding = DEFAULT_ENCODING
    settings: OutputSettings = DEFAULT_OUTPUTS
    """How it is encoded and marked."""
    faults: tuple[FaultKind, ...] = KINDS
    """Kinds of faults that are looked for in its frames."""
    given: int = 0
    """Number of frames at the beginning that a user gave: their faults are not looked for."""

    def name_fact(self, name: str) -> str:
        """Return the name of a fact about this video in the record of the job."""
        return name if self.main else f"{self.variant}_{name}"


class Recorder:
    """Stores the frames of a video in order. Continues after the frames that an earlier attempt has stored.

    Segment boundaries depend only on frame numbers and each segment is encoded separately, so a resumed video is
    byte-identical to an uninterrupted one.
    """

    def __init__(self, store: Store, artifacts: Artifacts, lease: Lease, output: Output) -> None:
        stored = store.list_segments(lease.job_id, variant=output.variant)
        self._output = output
        self._segments, self._keeps = output.segments, output.keeps_frames
        self._store = store
        self._artifacts = artifacts
        self._lease = lease
        self._publisher = Publisher(store, artifacts, output.settings)
        self._keys = [segment.key for segment in stored]
        self._index = max((segment.index for segment in stored), default=-2) + 1
        self.frames = sum(segment.frames for segment in stored)
        """Number of frames in stored segments."""
        self._kept = store.list_stills(lease.job_id, frames=True, start=self.frames) if self._keeps else []
        self.safe = self._kept[-1].index + 1 if self._kept else self.frames
        """Number of frames that are stored, in segments or as pictures."""
        self.total: int | None = None
        """Number of frames of the complete video; None if unknown."""
        self._waiting: list[Pixels] = []
        self._times: list[Fraction] = []
        """When each waiting frame appears, in seconds."""
        self._end = Fraction(0)
        """When the last waiting frame disappears, in seconds."""
        self._taken = self.frames
        self._format: Format | None = None
        self._encoder: SegmentEncoder | None = None
        self._is_finished = output.variant in store.get_job(lease.job_id).results
        """Whether the whole video is stored. It is marked once, so a resumed job does not write it again."""
        self._meter = SignalMeter((stored[-1].signals or {}).get("state", "") if stored else "")
        self._origins: dict[int, Origin] = dict.fromkeys(range(output.given), "given")
        """Index of a frame that is not in a segment yet → where it comes from, if not simply from a model."""

    @property
    def taken(self) -> int:
        """Number of frames received so far, including those that are not in a segment yet."""
        return self._taken

    async def restore(self, rate: Fraction) -> None:
        """Load the stored pictures of frames that are not in a segment yet.

        Args:
            rate: frames per second; the average if the stored frames have times.
        """
        for still in self._kept:
            pixels = await asyncio.to_thread(self._read, still.key)
            times = tuple(Fraction(time) for time in still.times) if still.times else None
            frame = Frames(pixels[None], still.index, rate, times)
            await self._check_format(frame)
            await self._take(frame)

    def mark_frames(self, first: int, stop: int, origin: Origin) -> None:
        """Note where frames `first` to `stop` - 1 come from; call it before they are taken."""
        self._origins |= dict.fromkeys(range(max(first, self._taken), stop), origin)

    async def take(self, frames: Frames, scores: Scores | None = None, sketches: Sequence[Sketch] = ()) -> None:
        """Store the next frames; frames that are stored already are skipped.

        Args:
            frames: consecutive frames; a single one if the graph keeps its frames.
            scores: quality scores of the frame.
            sketches: debugging pictures of the frame.

        Raises:
            ModelFailed: frames are missing, or their size or rate differs from that of the earlier ones.
        """
        await self._check_format(frames)
        if frames.first > self._taken:
            raise ModelFailed(f"frame {self._taken} is missing: the graph sent frame {frames.first} instead")
        if self._keeps and frames.first >= self.safe:
            await asyncio.to_thread(self._keep, frames, scores, sketches)
        await self._take(frames)

    async def _check_format(self, frames: Frames) -> None:
        fmt = Format(frames.width, frames.height, frames.rate if frames.times is None else None)
        if self._encoder is None:
            await self._begin(fmt, frames.rate)
        if fmt != self._format:
            raise ModelFailed(f"the format of the frames changed from {self._format} to {fmt}")

    async def _take(self, frames: Frames) -> None:
        skipped = self._taken - frames.first
        fresh = frames.pixels[skipped:]
        if len(fresh):
            self._waiting.append(fresh)
            *times, self._end = frames.list_times()
            self._times += times[skipped:]
            self._taken += len(fresh)
        while self._taken - self.frames >= self._segment_length:
            await self._cut(self._segment_length)

    async def finish(self, sound: EncodedSound | None = None) -> None:
        """Store the last segment, and then the whole video as one file, with its sound; segments have none.

        Raises ModelFailed if there are no frames.
        """
        if self._is_finished:
            return
        if self._taken > self.frames:
            await self._cut(self._taken - self.frames)
        if self.frames == 0:
            raise ModelFailed("the graph produced no frames")
        variant = self._output.variant
        key = f"{self._folder}/{variant}-{self._lease.fence}.mp4"
        facts = await self._publish(key, sound)
        results = {variant: key}
        if self._output.main:
            thumbnail = b"".join(await asyncio.to_thread(list, self._artifacts.read(self._thumbnail)))
            results |= await publish_thumbnail(self._publisher, self._lease, variant, thumbnail)
        found = await asyncio.to_thread(self._find_faults)
        changes: dict[str, Any] = {"results": results, "videos": {variant: facts.model_dump()}, "facts": found}
        if self._output.main:
            width, height = facts.sides
            changes |= {"width": width, "height": height, "rate": facts.rate, "frames_total": facts.frames}
        news = [EventDraft.of(FactEvent(name=name, value=value)) for name, value in found.items()]
        news.append(announce_result(variant))
        await asyncio.to_thread(self._store.update_job, self._lease, changes, news)
        self._is_finished = True

    def _find_faults(self) -> dict[str, str]:
        """Return the fact that names the faults of the frames, if there are any."""
        segments = self._store.list_segments(self._lease.job_id, variant=self._output.variant)
        text = describe_findings(judge_parts([segment.signals for segment in segments]).findings)
        return {self._output.name_fact("signals"): text} if text else {}

    @property
    def is_complete(self) -> bool:
        """Whether it has all of its frames and is not finished."""
        return self._taken == self.total and not self._is_finished

    @property
    def _segment_length(self) -> int:
        return self._segments[0 if self._index == 0 else 1]

    async def _begin(self, fmt: Format, rate: Fraction) -> None:
        self._format = fmt
        video = VideoFormat(fmt.width, fmt.height, rate, fmt.rate is None, self.total)
        begun = await asyncio.to_thread(self._find_begun) if self._index >= 0 else None
        output = self._output
        hardware = output.settings.hardware
        choice = await asyncio.to_thread(choose_segment_encoder, video, output.encoding, hardware, begun)
        self._encoder = choice.encoder
        if self._index == -1:
            facts = {output.name_fact(name): value for name, value in choice.facts.items()}
            changes: dict[str, Any] = {"rate": str(rate), "facts": facts}
            if output.main:
                changes["width"], changes["height"] = choice.encoder.size
            news = [EventDraft.of(FactEvent(name=name, value=value)) for name, value in facts.items()]
            signals: dict[str, Any] = {"faults": list(output.faults)}
            await asyncio.to_thread(self._write, choice.init, 0, changes, news, signals)

    def _find_begun(self) -> str:
        """Return the name of the encoder with which an earlier attempt began the video."""
        facts = self._store.get_job(self._lease.job_id).facts
        return str(facts.get(self._output.name_fact("encoder"), SOFTWARE[self._output.encoding.codec]))

    async def _cut(self, count: int) -> None:
        pixels = np.concatenate(self._waiting) if len(self._waiting) > 1 else self._waiting[0]
        self._waiting = [pixels[count:]] if len(pixels) > count else []
        times = [*self._times, self._end][: count + 1]
        self._times = self._times[count:]
        await asyncio.to_thread(self._encode, pixels[:count], times)

    def _encode(self, pixels: Pixels, times: list[Fraction]) -> None:
        if self._encoder is None or self._format is None:
            raise AssertionError("a segment is cut only after a frame was received")
        variable = self._format.rate is None
        shown = self._output.settings.draw_label(pixels)
        data = self._encoder.encode_segment(shown, self.frames, self._index + 1, times if variable else None)
        done = max(self.safe, self.frames + len(pixels))
        changes: dict[str, Any] = {}
        signals = self._measure(pixels, times)
        if self._output.main:
            changes["frames_done"] = done
            if self.frames == 0:  # marked and published with the video
                self._artifacts.put(self._thumbnail, encode_jpeg(shown[0], THUMBNAIL_SIDE))
        segment = SegmentEvent(
            variant=self._output.variant,
            index=self._index,
            first=self.frames,
            frames=len(pixels),
            frames_done=done,
            frames_total=self.total,
        )
        self._write(data, len(pixels), changes, [EventDraft.of(segment)], signals)

    def _measure(self, pixels: Pixels, times: Sequence[Fraction]) -> dict[str, Any]:
        """Measure the frames of the next segment, and return what is stored of that."""
        origins: list[Origin] = [
            self._origins.pop(index, "made") for index in range(self.frames, self.frames + len(pixels))
        ]
        seconds = [float(end - begin) for begin, end in pairwise(times)]
        return pack_signals(self._meter.measure(pixels, origins, seconds), self._meter.state)

    def _keep(self, frames: Frames, scores: Scores | None, sketches: Sequence[Sketch]) -> None:
        index = frames.first
        pictures = {sketch.name: sketch.picture for sketch in sketches} | {FRAME: frames}
        rows: list[Still] = []
        for name, picture in pictures.items():
            key = f"{self._folder}/stills/{index:06d}-{name}-{self._lease.fence}.png"
            self._artifacts.put(key, encode_png(picture.pixels[0]))
            times = frames.times and [str(time) for time in frames.times]
            rows.append(Still(job_id=self._lease.job_id, index=index, name=name, key=key, times=times))
        score_values = None if scores is None else FrameScoresObject.model_validate(scores, from_attributes=True)
        rows[-1].scores = score_values and score_values.model_dump()
        self.safe = index + 1
        kinds = {"frames": True, "metrics": scores is not None, "debug": bool(sketches)}
        changes: dict[str, Any] = {"results": {kind: "stills" for kind, exists in kinds.items() if exists}}
        if self._output.main:
            changes["frames_done"] = self.safe
        frame = FrameEvent(index=index, frames_done=self.safe, frames_total=self.total, scores=score_values)
        self._store.update_job(self._lease, changes, [EventDraft.of(frame)], rows)

    def _read(self, key: str) -> Pixels:
        with Image.open(io.BytesIO(b"".join(self._artifacts.read(key)))) as picture:
            return np.array(picture)

    def _write(
        self, data: bytes, frames: int, changes: dict[str, Any], news: list[EventDraft], signals: dict[str, Any]
    ) -> None:
        # The fence is part of the name, so that a runner that lost its lease cannot overwrite files of its successor.
        variant, index = self._output.variant, self._index
        key = f"{self._folder}/{variant}-{index + 1:06d}-{self._lease.fence}.m4s"
        self._artifacts.put(key, data)
        place = {"index": index, "first": self.frames, "frames": frames}
        row = Segment(job_id=self._lease.job_id, key=key, variant=variant, **place, signals=signals)
        self._store.update_job(self._lease, changes, news, [row])
        self._keys.append(key)
        self._index += 1
        self.frames += frames

    async def _publish(self, key: str, sound: EncodedSound | None) -> VideoFacts:
        """Store the whole video as one marked file, and return the facts that it states."""
        target = await asyncio.to_thread(self._artifacts.create_draft)
        try:
            facts = await asyncio.to_thread(self._assemble, target, sound)
            await self._publisher.publish_file(self._lease.job_id, self._output.variant, target, key)
        finally:
            await asyncio.to_thread(target.unlink, missing_ok=True)
        return facts

    def _assemble(self, target: Path, sound: EncodedSound | None) -> VideoFacts:
        """Join the segments into one progressive mp4 file, which is seekable and states its duration."""
        whole = self._artifacts.create_draft()
        with contextlib.ExitStack() as drafts:
            drafts.callback(whole.unlink, missing_ok=True)
            with whole.open("wb") as file:
                for key in self._keys:
                    file.writelines(self._artifacts.read(key))
            remux(whole, target, sound)
        return read_video_facts(target)

    @property
    def _thumbnail(self) -> str:
        """Key of the thumbnail that is not marked yet."""
        return f"{self._folder}/thumbnail.jpg"

    @property
    def _folder(self) -> str:
        return job_folder(self._lease)


def job_folder(lease: Lease) -> str:
    """Return the folder of a job's files in the artifact store."""
    return f"videos/{lease.job_id}"


async def publish_thumbnail(publisher: Publisher, lease: Lease, variant: str, data: bytes) -> dict[str, str]:
    """Store the thumbnail of a result, a JPEG file, with its marks. Return it as a result: its name and its key."""
    key = f"{job_folder(lease)}/thumbnail-{variant}-{lease.fence}.jpg"
    await publisher.publish_bytes(lease.job_id, THUMBNAIL, data, key)
    return {THUMBNAIL: key}


def announce_result(variant: str) -> EventDraft:
    """Return the event that a result is available."""
    return EventDraft.of(ResultEvent(variant=variant))
