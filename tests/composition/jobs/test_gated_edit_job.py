"""A rolling edit with a gate as a job: the record of its tries, also of a job that was interrupted."""

from pathlib import Path
from typing import Any

import pytest

from services.errors import ServiceLost
from tests.composition.gated import ScoredService
from tests.composition.jobs.test_rolling_edit_job import Desk
from tests.composition.rolling import Gone

GATE: dict[str, Any] = {"edge_loss": 0.8}
TABLE = {9: {"edge_loss": 0.9}, 12: {"edge_loss": 0.9}, 13: {"edge_loss": 0.85}, 14: {"edge_loss": 0.9}}
"""Frame 2 is refused once, and no try of frame 5 passes."""
CALLS = 8
"""Pictures that are made for the five frames."""
DEGRADED = "gate: frame 5: edge_loss above 0.8 after 3 tries"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


async def test_the_record_says_how_each_frame_was_made(desk: Desk) -> None:
    desk.job(gate=GATE)
    job, lease = desk.claimed()
    await desk.work(ScoredService(TABLE), job, lease)
    results = await desk.results(job.id)
    header, *lines = (line.split(",") for line in str(results["metrics"]).splitlines())
    rows = [dict(zip(header, line, strict=True)) for line in lines[1:]]  # frame 0 is the user's
    assert [(row["frame"], row["edge_loss"], row["seed"], row["tries"], row["passed"]) for row in rows] == [
        ("1", "0.5", "8", "1", "True"),
        ("2", "0.5", "10", "2", "True"),
        ("3", "0.5", "10", "1", "True"),
        ("4", "0.5", "11", "1", "True"),
        ("5", "0.85", "13", "3", "False"),
    ]
    assert results["gate"] == (DEGRADED, {"gate_tries": CALLS, "gate_retried": 2, "gate_refused": 1})
    stored = desk.store.get_job(job.id)
    assert (stored.facts["degraded"], stored.degraded) == (DEGRADED, DEGRADED)


async def test_refused_tries_are_events_before_their_frame(desk: Desk) -> None:
    desk.job(gate=GATE)
    job, lease = desk.claimed()
    await desk.work(ScoredService(TABLE), job, lease)
    events = [event for event in desk.store.list_events(job.id) if event.kind in ("frame", "try")]
    assert [(event.kind, event.data["index"]) for event in events] == [
        *[("frame", 0), ("frame", 1), ("try", 2), ("frame", 2), ("frame", 3), ("frame", 4)],
        *[("try", 5), ("try", 5), ("frame", 5)],
    ]
    tries = [event.data["scores"] for event in events if event.kind == "try"]
    assert [(scores["seed"], scores["tries"], scores["edge_loss"]) for scores in tries] == [
        (9, 1, 0.9),
        (12, 1, 0.9),
        (13, 2, 0.85),
    ]
    assert {scores["passed"] for scores in tries} == {False}


@pytest.mark.parametrize("lost", range(CALLS))
async def test_a_service_that_is_lost_at_any_try_changes_neither_the_result_nor_the_record(
    desk: Desk, lost: int
) -> None:
    for _ in range(2):
        desk.job(gate=GATE)
    (whole, held), (job, lease) = desk.claimed(), desk.claimed()
    await desk.work(ScoredService(TABLE), whole, held)
    with pytest.raises(ServiceLost):
        await desk.work(ScoredService(TABLE, failing={lost: Gone()}), job, lease)
    await desk.work(ScoredService(TABLE), desk.store.get_job(job.id), lease, again=True)
    assert await desk.results(job.id) == await desk.results(whole.id)
