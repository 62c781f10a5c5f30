"""Child jobs."""

import time

import pytest

from composition.records.store import Lease, Page, Store, make_id
from composition.records.tables import Job, Segment
from services.errors import Cancelled, NotFound


def made_job(job_id: str | None = None, parent: str | None = None, model: str = "storyboard") -> Job:
    said = {"owner": "ann", "model": model, "params": {}, "media": {}, "created_at": time.time()}
    return Job(id=job_id or make_id("video"), parent=parent, **said)


def film(store: Store, scenes: int = 3) -> tuple[Job, Lease, list[str]]:
    """A running job and its queued children."""
    parent = store.create_job(made_job(), 9)
    claimed = store.claim_job(60, ["storyboard"])
    assert claimed
    ids = [store.create_child(made_job(parent=parent.id, model="full-pipeline")).id for _ in range(scenes)]
    return parent, Lease(claimed.id, claimed.fence), ids


def states(store: Store, ids: list[str]) -> list[tuple[str, str | None]]:
    return [(job.status, job.error_code) for job in map(store.get_job, ids)]


def test_a_part_is_made_once_whoever_makes_it(store: Store) -> None:
    parent, _, _ = film(store, 0)
    first = store.create_child(made_job("video_a", parent.id))
    again = store.create_child(made_job("video_a", parent.id))
    assert (again.id, again.created_at) == (first.id, first.created_at)
    assert [job.id for job in store.list_children([parent.id])[parent.id]] == ["video_a"]
    assert [event.kind for event in store.list_events("video_a")] == ["status"]
    with pytest.raises(NotFound):
        store.create_child(made_job("video_b", "video_nobody"))


def test_parts_do_not_fill_the_queue_and_are_claimed_by_model(store: Store) -> None:
    _, _, ids = film(store, 3)
    store.create_job(made_job(model="v2v"), max_queued=1)
    claimed = store.claim_job(60, ["storyboard", "v2v"])
    assert claimed
    assert claimed.model == "v2v", "the parts are older, and of another model"
    assert [job.id if job else None for job in (store.claim_job(60), store.claim_job(60))] == ids[:2]


@pytest.mark.parametrize("how", ["cancel", "delete", "fail"])
def test_what_stops_a_job_stops_its_parts(store: Store, how: str) -> None:
    parent, lease, ids = film(store)
    running = store.claim_job(60, ["full-pipeline"])
    done = store.claim_job(60, ["full-pipeline"])
    assert running
    assert done
    store.end_job(Lease(done.id, done.fence), "completed")
    if how == "fail":
        store.end_job(lease, "failed", ("model_failed", "no scene"))
    else:
        store.stop_job(parent.id, "ann", delete_it=how == "delete")
    assert store.is_stop_requested(Lease(running.id, running.fence))
    if how == "delete":
        with pytest.raises(NotFound):
            store.get_job(ids[0])
        assert store.list_removable_jobs() == [], "whoever works on the job still looks at its parts"
        store.end_job(lease, "failed", ("cancelled", "it was deleted"))
        assert set(store.list_removable_jobs()) == {parent.id, done.id, ids[2]}
        assert store.list_jobs("ann", Page())[0] == []
    else:
        assert states(store, ids) == [("in_progress", None), ("completed", None), ("failed", "cancelled")]
        with pytest.raises(Cancelled):
            store.create_child(made_job("video_late", parent.id))


def test_segments_of_two_videos_stand_side_by_side(store: Store) -> None:
    parent, lease, _ = film(store, 0)
    for variant in ("video", "hd"):
        for index in (-1, 0):
            at = {"index": index, "first": 0, "frames": 2}
            row = Segment(job_id=parent.id, variant=variant, key=f"{variant}{index}", **at)
            store.update_job(lease, {}, [], [row])
    assert [row.key for row in store.list_segments(parent.id)] == ["video-1", "video0"]
    assert [row.key for row in store.list_segments(parent.id, after=-1, variant="hd")] == ["hd0"]
    store.remove_job(parent.id)
    assert store.list_segments(parent.id, variant="hd") == []
