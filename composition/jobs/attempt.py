"""One attempt at a job: its graph's stream, taken item by item into the record and the output."""

import asyncio
import base64
import logging
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from composition.graphs.calls import Handle, Transport, opened, stream
from composition.graphs.graph import Runnable
from composition.graphs.request import GraphRequest
from composition.graphs.run import Known
from composition.jobs.results import Results
from composition.media.decode import Decoder
from composition.media.encode import encode_jpeg
from composition.media.limits import MediaLimits
from composition.media.stitch import Stitcher
from composition.records.artifacts import Artifacts
from composition.records.events import FactEvent, ProgressEvent, StageEvent, TextEvent
from composition.records.store import EventDraft, Lease, Store
from composition.records.tables import Job, Stage
from services.errors import ModelFailed
from services.frames import Clip, Fact, Frames, Item, Progress, Result, Scores, Sketch, StageDone, Text

REPORT_EVERY_S = 0.2
"""A watcher is told of steps at most this often."""
PREVIEW_SIDE = 256
"""Pixels."""


log = logging.getLogger("ray.serve.reelgraph.jobs")


class Report:
    """Gathers what happened and writes it to the record a few times a second."""

    def __init__(self, store: Store, lease: Lease, stages: Mapping[str, float]) -> None:
        self._store = store
        self._lease = lease
        self._stages = stages
        self._reached = 0.0
        self._changes: dict[str, Any] = {}
        self._facts: dict[str, Any] = {}
        self._news: list[EventDraft] = []
        self._done: list[StageDone] = []

    def item(self, item: Item) -> None:
        """Note what only the record is told of."""
        match item:
            case Progress():
                self.progress(item)
            case Text():
                self.text(item)
            case Fact():
                self.fact(item)
            case StageDone():
                self.stage(item)
            case _:
                raise AssertionError(f"a graph does not put out a {type(item).__name__}")

    def fact(self, fact: Fact) -> None:
        self._facts[fact.name] = fact.value
        if fact.name in ("frames_total", "degraded"):
            self._changes[fact.name] = fact.value
        self._news.append(EventDraft.of(FactEvent(name=fact.name, value=fact.value)))

    def text(self, text: Text) -> None:
        """Pieces that come close together are told together."""
        said = self._news[-1].data if self._news and self._news[-1].kind == "text" else None
        if said is not None and said["stage"] == text.stage:
            self._news[-1] = EventDraft.of(TextEvent(stage=text.stage, piece=said["piece"] + text.piece))
        else:
            self._news.append(EventDraft.of(TextEvent(stage=text.stage, piece=text.piece)))

    def progress(self, item: Progress) -> None:
        """Only the newest step of a stage is worth telling."""
        news = ProgressEvent(stage=item.stage, done=item.done, total=item.total)
        if item.preview is not None:
            picture = base64.b64encode(encode_jpeg(item.preview.pixels[0], PREVIEW_SIDE)).decode()
            news = news.model_copy(update={"preview": f"data:image/jpeg;base64,{picture}"})
        self._news = [each for each in self._news if each.kind != "progress" or each.data["stage"] != item.stage]
        self._news.append(EventDraft.of(news))
        self._reached = max(self._reached, self._share(item))
        self._changes.update(stage=item.stage, progress=self._reached)

    def stage(self, done: StageDone) -> None:
        self._done.append(done)
        self._news.append(EventDraft.of(StageEvent(name=done.stage, **_said(done))))

    async def write(self) -> None:
        """Raises LeaseLost, and what the database raises: then nothing is lost, and the next time writes it too."""
        changes, facts, news, done = self._changes, self._facts, self._news, self._done
        if not (changes or facts or news or done):
            return
        self._changes, self._facts, self._news, self._done = {}, {}, [], []
        rows = [_row(self._lease, stage) for stage in done]
        whole = {**changes, "facts": facts} if facts else changes
        try:
            await asyncio.to_thread(self._store.update_job, self._lease, whole, news, rows)
        except SQLAlchemyError:
            self._changes, self._facts = {**changes, **self._changes}, {**facts, **self._facts}
            self._news, self._done = [*news, *self._news], [*done, *self._done]
            raise

    async def write_always(self) -> None:
        """Write until cancelled, or until the lease is lost. A database that does not answer is asked again."""
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            try:
                await self.write()
            except SQLAlchemyError:
                log.warning("progress not written yet", extra={"job": self._lease.job_id}, exc_info=True)

    def _share(self, item: Progress) -> float:
        """How much of the whole is done, 0 to 1, by the shares that the graph gives its stages."""
        share = 0.0
        for name, weight in self._stages.items():
            if name == item.stage:
                return share + weight * item.done / max(1, item.total)
            share += weight
        return share


def _said(done: StageDone) -> dict[str, Any]:
    return {name: getattr(done, name) for name in ("model", "source", "revision", "replica", "seconds")}


def _row(lease: Lease, done: StageDone) -> Stage:
    return Stage(job_id=lease.job_id, name=done.stage, **_said(done))


class Run:
    """One attempt. `go` either ends with the output whole or raises; what it has written by then stays."""

    def __init__(self, store: Store, artifacts: Artifacts, media: MediaLimits, job: Job, lease: Lease) -> None:
        self._store = store
        self._artifacts = artifacts
        self._media = media
        self._job = job
        self._lease = lease
        self._behind = int(job.facts.get("clip_frames", 0))
        """How many frames of the output come from a clip and stand before those of the graph."""
        self._scores: Scores | None = None
        self._sketches: list[Sketch] = []
        self._stitch = Stitcher()

    async def go(
        self, graph: Handle[Runnable], request_type: type[GraphRequest], transport: Transport, *, again: bool
    ) -> None:
        """Raises what the graph raises, LeaseLost, StorageFailed."""
        job = self._job
        media = {field: self._artifacts.get_url(key) for field, key in job.media.items() if field in request_type.MEDIA}
        request = request_type.model_validate({**job.params, **media})
        results = await asyncio.to_thread(Results, self._store, self._artifacts, self._lease, request)
        results.expect(job.frames_total)
        report = Report(self._store, self._lease, request.shares)
        known = await self._known(results, again=again)
        writing = asyncio.create_task(report.write_always())
        try:
            async with opened(stream(graph, Runnable.run, request, known), transport) as items:
                async for item in items:
                    await self._take(item, results, report)
            await self._take_rest(results)
        finally:
            writing.cancel()
        await report.write()
        await results.finish()

    async def _known(self, results: Results, *, again: bool) -> Known:
        """What earlier attempts have left, with the recorders where they were when they had taken that."""
        job = self._job
        stills = await asyncio.to_thread(self._store.list_stills, job.id, frames=True)
        await results.restore()
        kept = [self._artifacts.get_url(still.key) for still in stills]
        pictures = {name: self._artifacts.get_url(key) for name, key in results.pictures.items()}
        return Known(job.id, again, job.facts, results.video.safe, kept, results.safe, pictures)

    async def _take(self, item: Item, results: Results, report: Report) -> None:
        match item:
            case Frames():
                run = Frames(item.pixels, item.first + self._behind, item.rate)
                await results.video.take(run, self._scores, self._sketches)
                self._scores, self._sketches = None, []
                await results.finish_what_is_whole()
            case Result():
                await results.take(item)
            case Scores():
                self._scores = item
            case Sketch():
                self._sketches.append(item)
            case Clip():
                await self._take_clip(item, results, report)
            case Fact(name="frames_total"):
                results.expect(int(item.value or 0))
                report.fact(item)
            case _:
                report.item(item)

    async def _take_clip(self, clip: Clip, results: Results, report: Report) -> None:
        """Pull the clip's frames; the graph goes on with its own work meanwhile."""
        recorder = results.video
        if clip.fit is None and "clip_frames" in self._job.facts:
            return
        async with self._artifacts.open_local(clip.url) as path, Decoder.open(path, self._media) as decoder:
            if clip.fit is not None:
                runs = self._stitch.add_clip(decoder.stream_runs(), decoder.facts.frames, clip.fit)
            else:
                runs = decoder.stream_runs(start=recorder.taken)
            async with aclosing(runs):
                async for run in runs:
                    await recorder.take(run)
        if clip.fit is None:
            self._behind = recorder.taken
            if self._behind == 0:
                raise ModelFailed("the clip to join to has no frames")
            report.fact(Fact("clip_frames", self._behind))

    async def _take_rest(self, results: Results) -> None:
        """Take what was held back for a clip that did not come."""
        for run in self._stitch.flush():
            await results.video.take(run)
