"""The report of a run: progress never goes back, and what the database refused is written later."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from composition.jobs.attempt import Report
from composition.records.store import EventDraft, Lease, Store, make_id
from composition.records.tables import Job, Table
from services.errors import LeaseLost
from services.frames import Fact, Progress, StageDone, Text


class Moody(Store):
    """A database that refuses so many writes."""

    refusing = 0

    def update_job(
        self, lease: Lease, changes: Mapping[str, Any], events: Iterable[EventDraft], rows: Iterable[Table] = ()
    ) -> None:
        if self.refusing:
            self.refusing -= 1
            raise OperationalError("UPDATE", {}, Exception("no answer"))
        super().update_job(lease, changes, events, rows)


@pytest.fixture
def store(tmp_path: Path) -> Moody:
    return Moody(f"sqlite:///{tmp_path / 'store.db'}")


@pytest.fixture
def lease(store: Moody) -> Lease:
    said: dict[str, Any] = {"owner": "", "model": "v2v", "params": {}, "media": {}, "created_at": time.time()}
    store.create_job(Job(id=make_id("video"), **said), 9)
    job = store.claim_job(60)
    assert job
    return Lease(job.id, job.fence)


def tell(report: Report, step: int) -> None:
    report.item(Text("describe", f"word {step} "))
    report.item(Fact(f"fact{step}", step))
    report.item(Progress("denoise", step, 4))
    report.item(StageDone("denoise", "wan", "nowhere", "", f"wan#{step}", 1.0))


async def test_what_was_refused_is_written_the_next_time_and_once(store: Moody, lease: Lease) -> None:
    report = Report(store, lease, {"denoise": 1.0})
    tell(report, 1)
    store.refusing = 1
    with pytest.raises(OperationalError):
        await report.write()
    tell(report, 2)
    await report.write()
    await report.write()
    job = store.get_job(lease.job_id)
    assert (job.facts, job.stage, job.progress) == ({"fact1": 1, "fact2": 2}, "denoise", 0.5)
    assert [stage.replica for stage in store.list_stages([job.id])[job.id]] == ["wan#1", "wan#2"]
    events = [
        (event.kind, event.data) for event in store.list_events(job.id) if event.kind in ("text", "fact", "stage")
    ]
    assert [data.get("value", data.get("piece", data.get("replica"))) for _, data in events] == [
        "word 1 ", 1, "wan#1", "word 2 ", 2, "wan#2",
    ]  # fmt: skip


async def test_the_writing_goes_on_after_a_refusal_and_ends_without_the_lease(store: Moody, lease: Lease) -> None:
    report = Report(store, lease, {"denoise": 1.0})
    tell(report, 1)
    store.refusing = 2
    writing = asyncio.create_task(report.write_always())
    async with asyncio.timeout(60):
        while not (await asyncio.to_thread(store.get_job, lease.job_id)).facts:
            pass
    store.release_job(lease)
    assert store.claim_job(60)
    tell(report, 2)
    with pytest.raises(LeaseLost):
        await asyncio.wait_for(writing, 60)


async def test_progress_never_goes_back(store: Moody, lease: Lease) -> None:
    report = Report(store, lease, {"describe": 0.5, "denoise": 0.5})
    reached: list[float] = []
    for stage, done in (("describe", 4), ("denoise", 2), ("describe", 1), ("denoise", 1), ("denoise", 4)):
        report.item(Progress(stage, done, 4))
        await report.write()
        reached.append(store.get_job(lease.job_id).progress)
    assert reached == [0.5, 0.75, 0.75, 0.75, 1.0]
