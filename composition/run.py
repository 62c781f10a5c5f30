"""One attempt at a job: its graph's stream, taken item by item into the record and the output."""

import asyncio
import base64
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from composition.artifacts import Artifacts
from composition.calls import Handle, Transport, opened, stream
from composition.decode import Decoder, MediaLimits
from composition.encode import jpeg
from composition.graph import GraphRequest, Known
from composition.recorder import Recorder
from composition.store import Lease, News, Store
from composition.tables import Job, Stage
from services.errors import ModelFailed
from services.frames import Clip, Fact, Frames, Item, Progress, Scores, Sketch, StageDone, Text

REPORT_EVERY_S = 0.2
"""A watcher is told of steps at most this often."""
PREVIEW_SIDE = 256
"""Pixels."""


class Report:
    """Gathers what happened and writes it to the record a few times a second."""

    def __init__(self, store: Store, lease: Lease, stages: Mapping[str, float]) -> None:
        self._store = store
        self._lease = lease
        self._stages = stages
        self._changes: dict[str, Any] = {}
        self._facts: dict[str, Any] = {}
        self._news: list[News] = []
        self._rows: list[Stage] = []

    def fact(self, fact: Fact) -> None:
        self._facts[fact.name] = fact.value
        if fact.name in ("frames_total", "degraded"):
            self._changes[fact.name] = fact.value
        self._news.append(News("fact", {"name": fact.name, "value": fact.value}))

    def text(self, text: Text) -> None:
        """Pieces that come close together are told together."""
        said = self._news[-1].data if self._news and self._news[-1].kind == "text" else None
        if said is not None and said["stage"] == text.stage:
            self._news[-1] = News("text", {**said, "piece": said["piece"] + text.piece})
        else:
            self._news.append(News("text", {"stage": text.stage, "piece": text.piece}))

    def progress(self, item: Progress) -> None:
        """Only the newest step of a stage is worth telling."""
        said: dict[str, Any] = {"stage": item.stage, "done": item.done, "total": item.total}
        if item.preview is not None:
            picture = base64.b64encode(jpeg(item.preview.pixels[0], PREVIEW_SIDE)).decode()
            said["preview"] = f"data:image/jpeg;base64,{picture}"
        self._news = [news for news in self._news if news.kind != "progress" or news.data["stage"] != item.stage]
        self._news.append(News("progress", said))
        self._changes.update(stage=item.stage, progress=self._share(item))

    def stage(self, done: StageDone) -> None:
        said = {name: getattr(done, name) for name in ("model", "source", "revision", "replica", "seconds")}
        self._rows.append(Stage(job_id=self._lease.job_id, name=done.stage, **said))
        self._news.append(News("stage", {"name": done.stage, **said}))

    async def write(self) -> None:
        """Raises LeaseLost."""
        if not (self._changes or self._facts or self._news or self._rows):
            return
        changes, news, rows = self._changes, self._news, self._rows
        if self._facts:
            changes["facts"] = self._facts
        self._changes, self._facts, self._news, self._rows = {}, {}, [], []
        await asyncio.to_thread(self._store.record, self._lease, changes, news, rows)

    async def write_always(self) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            await self.write()

    def _share(self, item: Progress) -> float:
        """How much of the whole is done, 0 to 1, by the shares that the graph gives its stages."""
        share = 0.0
        for name, weight in self._stages.items():
            if name == item.stage:
                return share + weight * item.done / max(1, item.total)
            share += weight
        return share


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

    async def go(self, graph: Handle, request_type: type[GraphRequest], transport: Transport, *, again: bool) -> None:
        """Raises what the graph raises, LeaseLost, StorageFailed."""
        job = self._job
        recorder = await asyncio.to_thread(Recorder, self._store, self._artifacts, self._lease, request_type)
        recorder.total = job.frames_total
        report = Report(self._store, self._lease, request_type.STAGES)
        media = {field: self._artifacts.url(key) for field, key in job.media.items()}
        request = request_type.model_validate({**job.params, **media})
        known = Known(job.id, again, job.facts, recorder.safe, await self._restored(recorder))
        writing = asyncio.create_task(report.write_always())
        try:
            async with opened(stream(graph, "run", request, known), transport) as items:
                async for item in items:
                    await self._take(item, recorder, report)
        finally:
            writing.cancel()
        await report.write()
        await recorder.finish()

    async def _restored(self, recorder: Recorder) -> str:
        """Return where the last frame lies that is kept, with the recorder where it was when that had been taken."""
        last = await asyncio.to_thread(self._store.still, self._job.id, -1)
        if last is None or self._job.rate is None:
            return ""
        await recorder.restore(Fraction(self._job.rate))
        return self._artifacts.url(last.key)

    async def _take(self, item: Item, recorder: Recorder, report: Report) -> None:
        match item:
            case Frames():
                run = Frames(item.pixels, item.first + self._behind, item.rate)
                await recorder.take(run, self._scores, self._sketches)
                self._scores, self._sketches = None, []
            case Scores():
                self._scores = item
            case Sketch():
                self._sketches.append(item)
            case Clip():
                await self._take_clip(item, recorder, report)
            case Progress():
                report.progress(item)
            case Text():
                report.text(item)
            case Fact():
                recorder.total = int(item.value or 0) if item.name == "frames_total" else recorder.total
                report.fact(item)
            case StageDone():
                report.stage(item)
            case _:
                raise AssertionError(f"a graph does not put out a {type(item).__name__}")

    async def _take_clip(self, clip: Clip, recorder: Recorder, report: Report) -> None:
        """Pull the clip's frames; the graph goes on with its own work meanwhile."""
        if "clip_frames" in self._job.facts:
            return
        async with self._artifacts.local(clip.url) as path, Decoder.open(path, self._media) as decoder:
            async for run in decoder.runs(start=recorder.taken):
                await recorder.take(run)
        self._behind = recorder.taken
        if self._behind == 0:
            raise ModelFailed("the clip to join to has no frames")
        report.fact(Fact("clip_frames", self._behind))
