"""The full pipeline as a job: three results, each there as soon as it exists, whatever dies on the way."""

import asyncio
import io
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import av
import pytest

from composition.graphs.calls import Transport
from composition.graphs.full_pipeline import GRAPH
from composition.graphs.full_pipeline.request import FullPipelineRequest
from composition.http.content import follow_video
from composition.jobs.attempt import Attempt
from composition.jobs.publishing import DEFAULT_OUTPUTS, OutputSettings
from composition.media.limits import MediaLimits
from composition.records.artifacts import Artifacts, ArtifactSettings
from composition.records.store import Lease, Store, make_id
from composition.records.tables import Job
from services.errors import ModelFailed, ServiceLost
from services.flux.request import FluxRequest
from services.frames import Face, Frames, Item
from tests.composition.media.test_decode import workers
from tests.composition.rolling import Gone
from tests.composition.serving import Handle
from tests.composition.studio import FRAMES, HEIGHT, WIDTH, Room, Studio

PLACES = ("flux:0", "hunyuan-dit:0", "svd:0", "window:3", "window:9", "run:0", "run:4", "run:8")


class Desk:
    """A store with jobs in it, and what it takes to work on them."""

    def __init__(self, folder: Path, outputs: OutputSettings = DEFAULT_OUTPUTS) -> None:
        self.folder = folder
        self.outputs = outputs
        self.store = Store(f"sqlite:///{folder / 'store.db'}")
        self.artifacts = Artifacts(ArtifactSettings(url=str(folder / "artifacts")))

    def job(self, **fields: Any) -> tuple[Job, Lease]:
        given = {"animate": {"num_frames": FRAMES}, "upscale": {"scale": 2}, "restyle": "ink", **fields}
        asked = FullPipelineRequest.model_validate({"prompt": "a red fox", "seed": 7, **given})
        said: dict[str, Any] = {"params": asked.model_dump(mode="json"), "media": {}, "main": asked.main_variant}
        job = Job(id=make_id("video"), owner="", model="full-pipeline", created_at=time.time(), **said)
        self.store.create_job(job, 99)
        claimed = self.store.claim_job(60.0)
        assert claimed
        return claimed, Lease(claimed.id, claimed.fence)

    async def work(self, studio: Studio, job: Job, lease: Lease, *, again: bool = False) -> None:
        room = Room(self.folder, studio)
        graph = Handle(room.graph)
        job = self.store.get_job(job.id)
        attempt = Attempt(self.store, self.artifacts, MediaLimits(), job, lease, self.outputs)
        try:
            await attempt.run(graph, GRAPH, Transport(lost=(Gone,)), is_retry=again)
        finally:
            await graph.rested()
            await room.rested()

    def bytes_of(self, job_id: str, variant: str) -> bytes:
        return b"".join(self.artifacts.read(str(self.store.get_job(job_id).results[variant])))

    def outcome(self, job_id: str) -> dict[str, Any]:
        job = self.store.get_job(job_id)
        made = {name: self.bytes_of(job_id, name) for name in job.results if name != "frames"}
        return {
            **made,
            "job": (job.frames_done, job.frames_total, job.rate, job.width, job.height, sorted(job.results)),
        }


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


async def test_each_result_is_there_and_the_job_is_for_the_last(desk: Desk) -> None:
    job, lease = desk.job()
    await desk.work(Studio(), job, lease)
    done = desk.store.get_job(job.id)
    assert sorted(done.results) == ["frames", "hd", "image", "painted", "thumbnail", "video"]
    assert (done.width, done.height, done.frames_done, done.frames_total) == (2 * WIDTH, 2 * HEIGHT, FRAMES, FRAMES)
    for variant, width in (("video", WIDTH), ("hd", 2 * WIDTH)):
        with av.open(io.BytesIO(desk.bytes_of(job.id, variant)), "r") as container:
            stream = container.streams.video[0]
            assert (stream.frames, stream.width, stream.average_rate) == (FRAMES, width, 6)
        assert desk.store.list_segments(job.id, variant=variant)[-1].first == 2
    assert desk.bytes_of(job.id, "image").startswith(b"\x89PNG")
    assert [stage.model for stage in desk.store.list_stages([job.id])[job.id]] == [
        "flux",
        "hunyuan-dit",
        "svd",
        "realesrgan",
    ]
    told = [event.data["variant"] for event in desk.store.list_events(job.id) if event.kind == "result"]
    assert told[:2] == ["painted", "image"]
    assert sorted(told[2:]) == ["hd", "video"]


@pytest.mark.parametrize("place", PLACES)
async def test_whatever_dies_the_results_are_the_same(desk: Desk, place: str) -> None:
    whole, held = desk.job()
    undisturbed = Studio()
    await desk.work(undisturbed, whole, held)
    job, lease = desk.job()
    broken, after = Studio({place: Gone()}), Studio()
    with pytest.raises(ServiceLost):
        await desk.work(broken, job, lease)
    await desk.work(after, job, lease, again=True)
    assert desk.outcome(job.id) == desk.outcome(whole.id)
    painted, restyled = place != "flux:0", place not in ("flux:0", "hunyuan-dit:0")
    assert after.count("flux") == (0 if painted else 1), "a picture that is there is not painted again"
    assert after.count("hunyuan-dit") == (0 if restyled else 1)
    assert workers() == []


async def test_the_video_is_whole_while_it_is_still_enlarged(desk: Desk) -> None:
    job, lease = desk.job()
    with pytest.raises(ServiceLost):
        await desk.work(Studio({"run:8": Gone()}), job, lease)
    assert {"image", "video"} <= set(desk.store.get_job(job.id).results)
    assert "hd" not in desk.store.get_job(job.id).results
    chunks = [chunk async for chunk in follow_video(desk.store, desk.artifacts, job.id, "video")]
    with av.open(io.BytesIO(b"".join(chunks)), "r") as container:
        assert sum(1 for _ in container.decode(video=0)) == FRAMES


async def test_a_follower_of_the_large_video_gets_all_of_it(desk: Desk) -> None:
    job, lease = desk.job()
    chunks: list[bytes] = []

    async def follow() -> None:
        async for chunk in follow_video(desk.store, desk.artifacts, job.id, "hd"):
            chunks.append(chunk)  # noqa: PERF401 - as they come

    following = asyncio.create_task(follow())
    await desk.work(Studio(), job, lease)
    desk.store.end_job(lease, "completed")
    await asyncio.wait_for(following, 60)
    with av.open(io.BytesIO(b"".join(chunks)), "r") as container:
        assert [frame.width for frame in container.decode(video=0)] == [2 * WIDTH] * FRAMES


async def test_a_picture_alone_is_a_job_too(desk: Desk) -> None:
    job, lease = desk.job(animate=False, upscale=False, restyle=None)
    await desk.work(Studio(), job, lease)
    done = desk.store.get_job(job.id)
    assert (sorted(done.results), done.main, done.width) == (["image", "thumbnail"], "image", WIDTH)


class Silent(Studio):
    """Flux says when it is done, and gives nothing."""

    async def generate_image(
        self, request: FluxRequest, face: Face | None = None, key: str = "", pose: Face | None = None
    ) -> AsyncGenerator[Item]:
        async for item in super().generate_image(request, face, key, pose):
            if not isinstance(item, Frames):
                yield item


async def test_no_picture_is_a_failure(desk: Desk) -> None:
    job, lease = desk.job(restyle=None)
    with pytest.raises(ModelFailed, match="no picture"):
        await desk.work(Silent(), job, lease)
