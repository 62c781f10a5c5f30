"""A rolling edit as a job: each frame is kept as it is made, and what is lost costs no frame that is kept."""

import asyncio
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from composition.graphs.calls import Transport
from composition.graphs.rolling_edit import GRAPH
from composition.graphs.rolling_edit.request import RollingEditRequest
from composition.graphs.run import Known
from composition.http.content import SIGNALS, format_metrics_csv, stream_zip
from composition.jobs.attempt import Attempt
from composition.media.encode import encode_png
from composition.media.findings import judge_parts
from composition.media.limits import MediaLimits
from composition.records.artifacts import Artifacts, ArtifactSettings
from composition.records.store import Lease, Store, make_id
from composition.records.tables import Job
from services.errors import LeaseLost, ServiceLost
from services.frames import Frames, Item, Scores, Sketch
from tests.composition import albums
from tests.composition.media.test_decode import workers
from tests.composition.rolling import EDGES, FIRST, STEPS, Gone, Room
from tests.composition.serving import EditService, Handle, noise

FRAMES = EDGES + 1


class Desk:
    """A store with jobs in it, and what it takes to work on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(f"sqlite:///{folder / 'store.db'}")
        self.artifacts = Artifacts(ArtifactSettings(url=str(folder / "artifacts")))
        self.artifacts.put("files/first", encode_png(FIRST))
        self.artifacts.put_file("files/edges", albums.album(folder / "edges.zip", EDGES))

    def job(self, **fields: Any) -> Job:
        media = {"init_frame": "files/first", "edge_frames": "files/edges"}
        asked = RollingEditRequest.model_validate({**media, "seed": 7, "steps": STEPS, "debug": True, **fields})
        params = asked.model_dump(mode="json")
        job = Job(id=make_id("video"), owner="ann", model="rolling-edit", params=params, media=media, created_at=0.0)
        job.created_at = time.time()
        return self.store.create_job(job, 99)

    def claimed(self, lease_s: float = 60.0) -> tuple[Job, Lease]:
        job = self.store.claim_job(lease_s)
        assert job
        return job, Lease(job.id, job.fence)

    async def work(self, service: EditService, job: Job, lease: Lease, *, again: bool = False) -> None:
        room = Room(self.folder, service)
        graph = Handle(room.graph)
        attempt = Attempt(self.store, self.artifacts, MediaLimits(), job, lease)
        try:
            await attempt.run(graph, GRAPH, Transport(lost=(Gone,)), is_retry=again)
        finally:
            calls = [*await graph.rested(), *await room.handle.rested()]
            assert all(call.cancelled for call in calls)
            assert service.working == 0

    async def reached(self, job_id: str, frames: int) -> None:
        """Return when so many frames are safe."""
        async with asyncio.timeout(60):
            while (await asyncio.to_thread(self.store.get_job, job_id)).frames_done < frames:
                pass

    async def results(self, job_id: str) -> dict[str, object]:
        """All that a user can get of a job, and how it is stored."""
        job = self.store.get_job(job_id)
        frames, sketches = (self.store.list_stills(job_id, frames=wanted) for wanted in (True, False))
        events, segments = self.store.list_events(job_id), self.store.list_segments(job_id)
        return {
            "video": b"".join(self.artifacts.read(str(job.results["video"]))),
            "frames": [chunk async for chunk in stream_zip(self.artifacts, frames, with_names=False)],
            "debug": [chunk async for chunk in stream_zip(self.artifacts, sketches, with_names=True)],
            "metrics": format_metrics_csv(frames, judge_parts([each.signals for each in segments])),
            "segments": [(each.index, each.first, each.frames) for each in segments],
            "job": (job.frames_done, job.frames_total, job.rate, job.width, job.height, sorted(job.results)),
            "told": [event.data for event in events if event.kind == "frame"],
            "gate": (job.degraded, {name: value for name, value in job.facts.items() if name.startswith("gate")}),
        }


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


async def test_a_job_has_its_frames_its_scores_and_its_video(desk: Desk) -> None:
    service = EditService()
    desk.job()
    job, lease = desk.claimed()
    await desk.work(service, job, lease)
    results = await desk.results(job.id)
    assert results["job"] == (FRAMES, FRAMES, "16", 51, 37, ["debug", "frames", "metrics", "thumbnail", "video"])
    assert results["segments"] == [(-1, 0, 0), (0, 0, 2), (1, 2, 4)]
    lines = str(results["metrics"]).splitlines()
    scores = "edge_loss,gram_loss,temporal_loss,lpips_to_init,lpips_to_prev,seed,tries,passed"
    assert lines[0] == f"frame,{scores},{','.join(SIGNALS)}"
    assert [line.split(",")[0] for line in lines[1:]] == [str(index) for index in range(FRAMES)]
    first = desk.store.find_still(job.id, 0)
    assert first
    assert b"".join(desk.artifacts.read(first.key)) == encode_png(FIRST)
    assert {asked.key for asked in service.asked} == {job.id}
    assert service.stopped == []


@pytest.mark.parametrize("lost", range(EDGES))
async def test_a_service_that_is_lost_at_any_frame_costs_that_frame_alone(desk: Desk, lost: int) -> None:
    for _ in range(2):
        desk.job()
    (whole, held), (job, lease) = desk.claimed(), desk.claimed()
    undisturbed, service, after = EditService(), EditService(failing={lost: Gone()}), EditService()
    await desk.work(undisturbed, whole, held)
    with pytest.raises(ServiceLost):
        await desk.work(service, job, lease)
    stored = desk.store.get_job(job.id)
    assert stored.frames_done == lost + 1
    kept = [still.key for still in desk.store.list_stills(job.id, frames=True)]
    await desk.work(after, stored, lease, again=True)
    assert await desk.results(job.id) == await desk.results(whole.id)
    assert [still.key for still in desk.store.list_stills(job.id, frames=True)][: lost + 1] == kept
    seeds = [asked.request.seed for asked in undisturbed.asked]
    assert [asked.request.seed for asked in after.asked] == seeds[lost:]
    assert after.stopped == [job.id]
    assert workers() == []


async def test_a_runner_that_lost_its_lease_changes_nothing_of_its_successor_s_work(desk: Desk) -> None:
    made = desk.job()
    service, successor = EditService(hanging=3), EditService()
    before = asyncio.create_task(desk.work(service, *desk.claimed(lease_s=-1.0)))
    await desk.reached(made.id, 4)
    await service.hangs.wait()
    job, lease = desk.claimed()
    assert job.id == made.id
    await desk.work(successor, job, lease, again=True)
    assert [asked.request.seed for asked in successor.asked] == [11, 12]
    results = await desk.results(job.id)
    service.may_go_on.set()
    with pytest.raises(LeaseLost):
        await before
    assert await desk.results(job.id) == results


class Sparing:
    """A graph that says something of its second frame alone."""

    async def run(self, request: RollingEditRequest, known: Known) -> AsyncGenerator[Item]:
        frames = [Frames(noise(index)[None], index) for index in range(3)]
        yield frames[0]
        yield Sketch(1, "inverted", frames[2])
        yield Scores(1, edge_loss=0.5)
        yield frames[1]
        yield frames[2]


async def test_scores_and_sketches_belong_to_the_frame_behind_them_alone(desk: Desk) -> None:
    desk.job()
    job, lease = desk.claimed()
    attempt = Attempt(desk.store, desk.artifacts, MediaLimits(), job, lease)
    await attempt.run(Handle(Sparing()), GRAPH, Transport(), is_retry=False)
    frames = desk.store.list_stills(job.id, frames=True)
    assert [still.scores and still.scores["edge_loss"] for still in frames] == [None, 0.5, None]
    assert [(still.index, still.name) for still in desk.store.list_stills(job.id, frames=False)] == [(1, "inverted")]
