"""Byte ranges, live following and events."""

import json
import time
from pathlib import Path

import pytest

from composition.http.content import byte_range, live, told
from composition.records.artifacts import Artifacts, ArtifactSettings
from composition.records.store import EventDraft, Lease, Store, make_id
from composition.records.tables import Job, Segment
from services.errors import ModelFailed, RangeNotSatisfiable


@pytest.mark.parametrize(
    ("header", "span"),
    [
        (None, None),
        ("bytes=0-", (0, 1000)),
        ("bytes=0-0", (0, 1)),
        ("bytes=10-19", (10, 20)),
        ("bytes=990-5000", (990, 1000)),
        ("bytes=-100", (900, 1000)),
        ("bytes=-5000", (0, 1000)),
        ("bytes=5-2", None),
        ("bytes=0-1,5-6", None),
        ("bytes=-", None),
        ("items=0-1", None),
        ("bytes=a-b", None),
        ("bytes=" + "9" * 30 + "-", None),
    ],
)
def test_ranges(header: str | None, span: tuple[int, int] | None) -> None:
    assert byte_range(header, 1000) == span


@pytest.mark.parametrize("header", ["bytes=1000-", "bytes=5000-6000", "bytes=-0"])
def test_ranges_outside(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable):
        byte_range(header, 1000)


@pytest.fixture
def running(tmp_path: Path) -> tuple[Store, Artifacts, Lease]:
    store = Store(f"sqlite:///{tmp_path / 'store.db'}")
    store.create_job(Job(id=make_id("video"), owner="", model="v2v", params={}, media={}, created_at=time.time()), 9)
    job = store.claim_job(60)
    assert job
    return store, Artifacts(ArtifactSettings(url=str(tmp_path / "artifacts"))), Lease(job.id, job.fence)


def add(running: tuple[Store, Artifacts, Lease], index: int) -> None:
    store, artifacts, lease = running
    key = f"videos/{lease.job_id}/{index}"
    artifacts.put(key, f"<{index}>".encode())
    row = Segment(job_id=lease.job_id, variant="video", index=index, key=key, first=0, frames=0)
    store.update_job(lease, {}, [EventDraft("segment", {"index": index})], [row])


async def test_a_follower_gets_each_segment_once_and_ends_with_the_job(running: tuple[Store, Artifacts, Lease]) -> None:
    store, artifacts, lease = running
    add(running, -1)
    add(running, 0)
    chunks = live(store, artifacts, lease.job_id, "video")
    assert [await anext(chunks), await anext(chunks)] == [b"<-1>", b"<0>"]
    add(running, 1)
    assert await anext(chunks) == b"<1>"
    add(running, 2)
    store.end_job(lease, "completed")
    assert [chunk async for chunk in chunks] == [b"<2>"]


async def test_a_follower_of_a_job_that_fails_is_not_left_with_a_torso(running: tuple[Store, Artifacts, Lease]) -> None:
    store, artifacts, lease = running
    add(running, -1)
    chunks = live(store, artifacts, lease.job_id, "video")
    assert await anext(chunks) == b"<-1>"
    store.end_job(lease, "failed", ("model_failed", "no memory"))
    with pytest.raises(ModelFailed, match="no memory"):
        await anext(chunks)


async def test_events_are_told_once_from_where_the_listener_was(running: tuple[Store, Artifacts, Lease]) -> None:
    store, _, lease = running
    add(running, -1)
    store.update_job(lease, {}, [EventDraft("text", {"piece": "größe\n"})])
    store.end_job(lease, "completed")
    lines = [event async for event in told(store, lease.job_id, 0)]
    assert [line.split("\n")[0] for line in lines] == [f"id: {n}" for n in range(1, 6)]
    assert json.loads(lines[3].split("data: ")[1]) == {"piece": "größe\n"}
    assert lines[-1].startswith("id: 5\nevent: status\n")
    assert [event async for event in told(store, lease.job_id, 4)] == lines[4:]
    assert [event async for event in told(store, lease.job_id, 99)] == []
