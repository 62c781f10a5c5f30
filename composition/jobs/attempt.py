"""One attempt at a job: runs the graph, and stores the items of its stream as outputs and events."""

import asyncio
import base64
import contextlib
import logging
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from composition.graphs.calls import Handle, Transport, open_stream, stream
from composition.graphs.graph import Graph, Runnable
from composition.graphs.request import apply_background
from composition.graphs.run import Known
from composition.jobs.publishing import DEFAULT_OUTPUTS, OutputSettings
from composition.jobs.recorder import Recorder
from composition.jobs.results import Results
from composition.media.decode import Decoder
from composition.media.encode import encode_jpeg
from composition.media.limits import MediaLimits
from composition.media.sound import SoundCollector
from composition.media.stitch import Stitcher
from composition.records.artifacts import Artifacts
from composition.records.events import (
    FactEvent,
    FrameScoresObject,
    ProgressEvent,
    StageEvent,
    StageObject,
    TextEvent,
    TryEvent,
)
from composition.records.store import EventDraft, Lease, Store
from composition.records.tables import Job, Stage, Still
from services.errors import ModelFailed
from services.frames import Clip, Fact, Frames, Item, Progress, Result, Scores, Sketch, Sound, StageDone, Text

REPORT_EVERY_S = 0.2
"""Interval in seconds at which progress is written to the database."""
PREVIEW_SIDE = 256
"""Longer side of a preview, in pixels."""

log = logging.getLogger("ray.serve.reelgraph.jobs")


class ProgressReport:
    """Collects progress, facts and events, and writes them to the database a few times per second.

    Args:
        store: the job database.
        lease: the lease of the job.
        stages: stage → its share of the run time (`GraphRequest.stage_shares`).
    """

    def __init__(self, store: Store, lease: Lease, stages: Mapping[str, float]) -> None:
        self._store = store
        self._lease = lease
        self._stages = stages
        self._reached = 0.0
        self._changes: dict[str, Any] = {}
        self._facts: dict[str, Any] = {}
        self._news: list[EventDraft] = []
        self._done: list[StageDone] = []
        self._writing = asyncio.Lock()
        self._stopped = asyncio.Event()

    def add(self, item: Item) -> None:
        """Add an item that is neither a frame nor another output."""
        match item:
            case Progress():
                self._add_progress(item)
            case Text():
                self._add_text(item)
            case Fact():
                self.add_fact(item)
            case StageDone():
                self._add_stage(item)
            case _:
                raise AssertionError(f"a graph does not yield {type(item).__name__}")

    def add_fact(self, fact: Fact) -> None:
        """Add a fact."""
        self._facts[fact.name] = fact.value
        if fact.name in ("frames_total", "degraded"):
            self._changes[fact.name] = fact.value
        self._news.append(EventDraft.of(FactEvent(name=fact.name, value=fact.value)))

    def _add_text(self, text: Text) -> None:
        """Add a piece of text. Consecutive pieces of a stage are joined into one event."""
        last = self._news[-1].data if self._news and self._news[-1].kind == "text" else None
        if last is not None and last["stage"] == text.stage:
            self._news[-1] = EventDraft.of(TextEvent(stage=text.stage, piece=last["piece"] + text.piece))
        else:
            self._news.append(EventDraft.of(TextEvent(stage=text.stage, piece=text.piece)))

    def _add_progress(self, item: Progress) -> None:
        """Add progress. It replaces an unwritten event of the same stage."""
        event = ProgressEvent(stage=item.stage, done=item.done, total=item.total)
        if item.preview is not None:
            picture = base64.b64encode(encode_jpeg(item.preview.pixels[0], PREVIEW_SIDE)).decode()
            event = event.model_copy(update={"preview": f"data:image/jpeg;base64,{picture}"})
        self._news = [each for each in self._news if each.kind != "progress" or each.data["stage"] != item.stage]
        self._news.append(EventDraft.of(event))
        self._reached = max(self._reached, self._share(item))
        self._changes.update(stage=item.stage, progress=self._reached)

    def _add_stage(self, done: StageDone) -> None:
        self._done.append(done)
        self._news.append(EventDraft.of(StageEvent.from_stage(done)))

    async def write(self) -> None:
        """Write what was collected. After an SQLAlchemyError it is kept for the next call.

        Raises:
            LeaseLost: another runner holds the lease.
            SQLAlchemyError: the database failed.
        """
        async with self._writing:  # in order, and done when it returns
            await self._write()

    async def _write(self) -> None:
        changes, facts, news, done = self._changes, self._facts, self._news, self._done
        if not (changes or facts or news or done):
            return
        self._changes, self._facts, self._news, self._done = {}, {}, [], []
        rows = [_make_row(self._lease, stage) for stage in done]
        columns = {**changes, "facts": facts} if facts else changes
        try:
            await asyncio.to_thread(self._store.update_job, self._lease, columns, news, rows)
        except SQLAlchemyError:
            self._changes, self._facts = {**changes, **self._changes}, {**facts, **self._facts}
            self._news, self._done = [*news, *self._news], [*done, *self._done]
            raise

    async def write_periodically(self) -> None:
        """Write until stopped or until the lease is lost. Failed writes are retried."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), REPORT_EVERY_S)
                return
            try:
                await self.write()
            except SQLAlchemyError:
                log.warning("progress not written yet", extra={"job": self._lease.job_id}, exc_info=True)

    def stop(self) -> None:
        """Make `write_periodically` end once it has no write under way: one that is cancelled may be lost."""
        self._stopped.set()

    def _share(self, item: Progress) -> float:
        """Return the progress of the whole job, from 0 to 1."""
        share = 0.0
        for name, weight in self._stages.items():
            if name == item.stage:
                return share + weight * item.done / max(1, item.total)
            share += weight
        return share


def _make_row(lease: Lease, done: StageDone) -> Stage:
    return Stage(job_id=lease.job_id, **StageObject.from_stage(done).model_dump())


def _describe_try(scores: Scores) -> EventDraft:
    """Return the event that a frame was refused."""
    return EventDraft.of(
        TryEvent(index=scores.frame, scores=FrameScoresObject.model_validate(scores, from_attributes=True))
    )


def _list_scores(stills: Sequence[Still]) -> list[Scores]:
    """Return the scores of stored frames; frames that were not scored are left out."""
    found = {still.index: FrameScoresObject.model_validate(still.scores) for still in stills if still.scores}
    return [Scores(index, **scores.model_dump()) for index, scores in found.items()]


@dataclass(frozen=True)
class ClipEnd:
    """The end of a clip that is continued by the frames of a graph."""

    frames: int
    """Number of frames of the clip."""
    last: Fraction
    """When its last frame appears, in seconds."""
    end: Fraction
    """When its last frame disappears, in seconds."""

    def append(self, run: Frames) -> Frames:
        """Return frames of the continuation, which are numbered from 0, as frames of the video.

        The first one appears when the clip has ended, but not before the clip's last frame was shown for the duration
        of a frame of the continuation: it shows the scene that much later.
        """
        begin = max(self.end, self.last + 1 / run.rate)
        times = tuple(begin + time for time in run.list_times())
        return Frames(run.pixels, self.frames + run.first, run.rate, times)


class Attempt:
    """One attempt at a job. It either completes the outputs or raises; stored outputs are kept in both cases."""

    def __init__(
        self,
        store: Store,
        artifacts: Artifacts,
        media: MediaLimits,
        job: Job,
        lease: Lease,
        outputs: OutputSettings = DEFAULT_OUTPUTS,
    ) -> None:
        self._store = store
        self._artifacts = artifacts
        self._media = media
        self._outputs = outputs
        self._job = job
        self._lease = lease
        self._clip: ClipEnd | None = None
        """The end of the clip that the video begins with; None if it begins with frames of the graph."""
        self._scores: Scores | None = None
        self._sketches: list[Sketch] = []
        self._sounds: list[Sound] = []
        self._stitch = Stitcher()

    async def run(self, handle: Handle[Runnable], graph: Graph, transport: Transport, *, is_retry: bool) -> None:
        """Run the graph and store its outputs.

        Args:
            handle: the deployed graph.
            graph: its description.
            transport: the exceptions of the call.
            is_retry: whether there was an earlier attempt.

        Raises:
            LeaseLost: another runner holds the lease.
            StorageFailed: the artifact store failed.
            ReelError: an error of the graph.
        """
        job = self._job
        media = {
            field: self._artifacts.get_url(key) for field, key in job.media.items() if field in graph.request.MEDIA
        }
        request = graph.request.model_validate({**job.params, **media})
        results = await asyncio.to_thread(
            Results, self._store, self._artifacts, self._lease, graph, request, self._outputs
        )
        results.expect(job.frames_total)
        self._media = apply_background(self._media, request)
        report = ProgressReport(self._store, self._lease, request.stage_shares(graph.stages))
        known = await self._read_known(results, is_retry=is_retry)
        writing = asyncio.create_task(report.write_periodically())
        try:
            async with open_stream(stream(handle, Runnable.run, request, known), transport) as items:
                async for item in items:
                    await self._take(item, results, report)
            await self._take_rest(results)
        finally:
            report.stop()
            await asyncio.wait([writing])
        async with SoundCollector(self._artifacts.open_local, self._media, job.owner).collect(self._sounds) as made:
            if made.fact is not None:
                report.add_fact(Fact("sound", made.fact))
            await report.write()
            await results.finish(made.sound)

    async def _read_known(self, results: Results, *, is_retry: bool) -> Known:
        """Return the progress of earlier attempts, and restore the recorders to that state."""
        job = self._job
        stills = await asyncio.to_thread(self._store.list_stills, job.id, frames=True)
        await results.restore()
        return Known(
            key=job.id,
            is_retry=is_retry,
            facts=job.facts,
            frames=results.video.safe,
            frame_urls=[self._artifacts.get_url(still.key) for still in stills],
            frame_scores=_list_scores(stills),
            other_frames=results.safe,
            owner=job.owner,
            picture_urls={name: self._artifacts.get_url(key) for name, key in results.pictures.items()},
        )

    async def _take(self, item: Item, results: Results, report: ProgressReport) -> None:
        match item:
            case Frames():
                run = item if self._clip is None else self._clip.append(item)
                await results.video.take(run, self._scores, self._sketches)
                self._scores, self._sketches = None, []
                await self._finish_complete_videos(results, report)
            case Result():
                if item.still:
                    await report.write()
                await results.take(item)
                await self._finish_complete_videos(results, report)
            case Scores():
                await self._take_scores(item)
            case Sketch():
                self._sketches.append(item)
            case Clip():
                await self._take_clip(item, results, report)
            case Sound():
                self._sounds.append(item)
            case Fact(name="frames_total"):
                results.expect(int(item.value or 0))
                report.add_fact(item)
            case StageDone():
                report.add(item)
                await report.write()  # what it completes is stored after it
            case _:
                report.add(item)

    async def _take_scores(self, scores: Scores) -> None:
        """Keep the scores for the frame that follows; those of a refused try become an event at once."""
        if scores.kept:
            self._scores = scores
        else:
            await asyncio.to_thread(self._store.update_job, self._lease, {}, [_describe_try(scores)])

    async def _finish_complete_videos(self, results: Results, report: ProgressReport) -> None:
        """Finish each video that has all of its frames, if there are several. Its marks need the facts so far."""
        if results.has_complete_videos:
            await report.write()
            await results.finish_complete_videos()

    async def _take_clip(self, clip: Clip, results: Results, report: ProgressReport) -> None:
        """Decode the frames of a clip into the video. The graph continues to run meanwhile."""
        async with (
            self._artifacts.open_local(clip.url) as path,
            Decoder.open(path, self._media, owner=self._job.owner) as decoder,
        ):
            if clip.fit is None:
                await self._take_whole_clip(decoder, results.video, report)
                return
            runs = self._stitch.add_clip(decoder.stream_runs(), decoder.facts.frames, clip.fit)
            async with aclosing(runs):
                async for run in runs:
                    begin, behind = self._stitch.border
                    results.video.mark_frames(begin, behind, "fade")
                    results.video.mark_frames(behind, behind + 1, "shot")
                    await results.video.take(run)

    async def _take_whole_clip(self, decoder: Decoder, recorder: Recorder, report: ProgressReport) -> None:
        """Begin the video with all frames of a clip, each with its time, and note where the clip ends."""
        frames = self._job.facts.get("clip_frames")
        # Frames that are stored are decoded no more, except the last one, for its time.
        start = max(0, (recorder.taken if frames is None else min(frames, recorder.taken)) - 1)
        async with aclosing(decoder.stream_runs(start, None if frames is None else frames - start)) as runs:
            async for run in runs:
                times = run.list_times()
                recorder.mark_frames(run.first, run.stop, "given")
                await recorder.take(replace(run, times=times))
                self._clip = ClipEnd(run.stop, times[-2], times[-1])
        if self._clip is None:
            raise ModelFailed("the clip to be continued has no frames")
        if frames is None:
            report.add_fact(Fact("clip_frames", self._clip.frames))

    async def _take_rest(self, results: Results) -> None:
        """Store the frames that were held back for a cross-fade with a next clip."""
        for run in self._stitch.flush():
            await results.video.take(run)
