"""The state store: jobs, events and uploads, their owners, and leases."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from composition.records.store import EventDraft, Lease, Page, Store, make_id
from composition.records.tables import File, Job, Segment, Still
from composition.variants import FRAME
from services.errors import Conflict, LeaseLost, NotFound, QueueFull


def job(store: Store, owner: str = "ann", created_at: float | None = None) -> Job:
    made = Job(id=make_id("video"), owner=owner, model="v2v", params={"seed": 7}, media={"input_video": "files/f"})
    made.created_at = time.time() if created_at is None else created_at
    return store.create_job(made, max_queued=100)


def test_a_job_is_claimed_once_oldest_first(store: Store) -> None:
    first, second = job(store, created_at=1.0), job(store, created_at=2.0)
    claimed = [store.claim_job(60), store.claim_job(60), store.claim_job(60)]
    assert [c.id if c else None for c in claimed] == [first.id, second.id, None]


def test_many_runners_never_share_a_job(store: Store) -> None:
    ids = {job(store).id for _ in range(12)}
    with ThreadPoolExecutor(6) as pool:
        got = [claimed.id for claimed in pool.map(lambda _: store.claim_job(60), range(24)) if claimed]
    assert sorted(got) == sorted(ids)


def test_a_lease_that_ran_out_goes_to_another_and_the_first_can_change_nothing(store: Store) -> None:
    made = job(store)
    old = store.claim_job(-1.0)
    new = store.claim_job(60)
    assert old
    assert new
    assert old.id == new.id == made.id
    assert new.fence > old.fence
    assert new.attempts == 2
    stale = Lease(old.id, old.fence)
    for change in (
        lambda: store.update_job(stale, {"stage": "x"}, []),
        lambda: store.renew_lease(stale, 60),
        lambda: store.end_job(stale, "completed"),
        lambda: store.release_job(stale),
        lambda: store.is_stop_requested(stale),
    ):
        with pytest.raises(LeaseLost):
            change()
    assert store.get_job(made.id).status == "in_progress"


def test_a_released_job_is_free_at_once_and_its_attempt_does_not_count(store: Store) -> None:
    job(store)
    first = store.claim_job(60)
    assert first
    store.release_job(Lease(first.id, first.fence))
    again = store.claim_job(60)
    assert again
    assert again.id == first.id
    assert again.attempts == 1


def test_record_is_all_or_nothing(store: Store) -> None:
    made = job(store)
    held = store.claim_job(60)
    assert held
    lease = Lease(held.id, held.fence)
    segment = Segment(job_id=made.id, variant="video", index=0, key="k", first=0, frames=8)
    store.update_job(lease, {"facts": {"seed": 7}, "frames_done": 8}, [EventDraft("segment", {"index": 0})], [segment])
    same = Segment(job_id=made.id, variant="video", index=0, key="other", first=0, frames=8)
    with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
        store.update_job(lease, {"frames_done": 16}, [EventDraft("segment", {"index": 0})], [same])
    after = store.get_job(made.id)
    assert (after.frames_done, after.facts) == (8, {"seed": 7})
    assert [event.kind for event in store.list_events(made.id)] == ["status", "status", "segment"]
    assert [segment.key for segment in store.list_segments(made.id)] == ["k"]


def test_facts_are_merged(store: Store) -> None:
    job(store)
    held = store.claim_job(60)
    assert held
    lease = Lease(held.id, held.fence)
    store.update_job(lease, {"facts": {"seed": 7}}, [])
    store.update_job(lease, {"facts": {"caption": "a bunny"}}, [])
    assert store.get_job(held.id).facts == {"seed": 7, "caption": "a bunny"}


def test_cancel_ends_a_waiting_job_and_flags_a_running_one(store: Store) -> None:
    waiting = job(store)
    stopped = store.stop_job(waiting.id, "ann")
    assert (stopped.status, stopped.error_code) == ("failed", "cancelled")
    with pytest.raises(Conflict):
        store.stop_job(waiting.id, "ann")
    running = job(store)
    held = store.claim_job(60)
    assert held
    assert held.id == running.id
    assert store.stop_job(running.id, "ann").status == "in_progress"
    assert store.is_stop_requested(Lease(held.id, held.fence))
    assert store.renew_lease(Lease(held.id, held.fence), 60)


def test_a_deleted_job_is_gone_for_its_owner_and_condemned_once_it_ended(store: Store) -> None:
    made = job(store)
    held = store.claim_job(60)
    assert held
    store.stop_job(made.id, "ann", delete_it=True)
    with pytest.raises(NotFound):
        store.get_job(made.id, "ann")
    assert made.id not in store.list_removable_jobs()
    store.end_job(Lease(held.id, held.fence), "failed", ("cancelled", "the job was cancelled"))
    assert made.id in store.list_removable_jobs()
    store.remove_job(made.id)
    assert store.list_events(made.id) == []


def test_the_queue_has_an_end(store: Store) -> None:
    for _ in range(3):
        job(store)
    with pytest.raises(QueueFull, match="the limit is 3"):
        store.create_job(Job(id=make_id("video"), owner="ann", model="v2v", params={}, media={}, created_at=1.0), 3)


def test_another_owner_sees_nothing(store: Store) -> None:
    made = job(store, "ann")
    for call in (
        lambda: store.get_job(made.id, "bob"),
        lambda: store.stop_job(made.id, "bob"),
        lambda: store.stop_job(made.id, "bob", delete_it=True),
    ):
        with pytest.raises(NotFound):
            call()
    assert store.list_jobs("bob", Page())[0] == []


def test_pages_follow_each_other_without_gap(store: Store) -> None:
    ids = [job(store, created_at=float(i // 2)).id for i in range(9)]
    for order in ("asc", "desc"):
        seen: list[str] = []
        more = True
        while more:
            rows, more = store.list_jobs("ann", Page(4, seen[-1] if seen else None, order))
            seen += [row.id for row in rows]
        assert sorted(seen) == sorted(ids)
        times = [store.get_job(one).created_at for one in seen]
        assert times == sorted(times, reverse=order == "desc")


def test_what_to_start_after_is_ones_own(store: Store) -> None:
    """Ids of other owners are reported as unknown, so that they cannot be discovered."""
    theirs = job(store, "bob")
    file = File(
        id=make_id("file"), owner="bob", created_at=1.0, filename="a", purpose="p", bytes=1, key="files/g", facts={}
    )
    store.add_file(file)
    told: set[str] = set()
    for after in (theirs.id, file.id, make_id("video")):
        for listed in (store.list_jobs, store.list_files):
            with pytest.raises(NotFound) as caught:
                listed("ann", Page(after=after))
            assert caught.value.param == "after"
            told.add(caught.value.message.replace(after, "ID"))
    assert told == {"after: there is no 'ID'"}
    assert store.list_jobs("bob", Page(after=theirs.id)) == ([], False)
    assert store.list_files("bob", Page(after=file.id)) == ([], False)
    store.remove_job(theirs.id)
    store.remove_file(file.id, "bob")


def test_steps_are_forgotten_when_a_job_ends(store: Store) -> None:
    job(store)
    held = store.claim_job(60)
    assert held
    lease = Lease(held.id, held.fence)
    store.update_job(lease, {}, [EventDraft("progress", {"done": 1}), EventDraft("fact", {"name": "seed", "value": 1})])
    store.end_job(lease, "completed")
    kinds = [(event.number, event.kind) for event in store.list_events(held.id)]
    assert kinds == [(1, "status"), (2, "status"), (4, "fact"), (5, "status")]


def test_a_file_stays_while_a_job_needs_it(store: Store) -> None:
    file = File(
        id=make_id("file"), owner="ann", created_at=1.0, filename="a", purpose="p", bytes=1, key="files/f", facts={}
    )
    store.add_file(file)
    made = job(store)
    with pytest.raises(Conflict, match=made.id):
        store.remove_file(file.id, "ann")
    with pytest.raises(NotFound):
        store.remove_file(file.id, "bob")
    store.stop_job(made.id, "ann")
    store.remove_file(file.id, "ann")
    with pytest.raises(NotFound):
        store.get_file(file.id, "ann")


def test_keys_are_kept_as_hashes_only(store: Store) -> None:
    key = store.add_key("ann")
    assert store.find_owner(key) == "ann"
    assert store.find_owner(key + "x") is None
    assert key not in repr([vars(row) for row in store.list_keys()])
    assert store.revoke_keys("ann") == 1
    assert store.find_owner(key) is None


# Stills.


def held(store: Store, lease_s: float = 60.0) -> Lease:
    claimed = store.claim_job(lease_s)
    assert claimed
    return Lease(claimed.id, claimed.fence)


def still(lease: Lease, index: int, name: str = FRAME, scores: dict[str, float] | None = None) -> Still:
    key = f"{lease.job_id}/{index}-{name}-{lease.fence}"
    return Still(job_id=lease.job_id, index=index, name=name, key=key, scores=scores)


def test_stills_are_found_by_their_frame_and_by_what_they_show(store: Store) -> None:
    job(store)
    job(store)
    lease, other = held(store), held(store)
    assert store.find_still(lease.job_id, -1) is None
    for index in (2, 0, 10, 1):  # unordered
        sketches = [still(lease, index, name) for name in ("soft_edges", "after")]
        store.update_job(lease, {}, [], [*sketches, still(lease, index, scores={"edge_loss": index / 4})])
    store.update_job(other, {}, [], [still(other, 99)])
    frames = store.list_stills(lease.job_id, frames=True)
    assert [(row.index, row.name) for row in frames] == [(index, FRAME) for index in (0, 1, 2, 10)]
    assert [row.scores for row in frames] == [{"edge_loss": index / 4} for index in (0, 1, 2, 10)]
    assert [row.index for row in store.list_stills(lease.job_id, frames=True, start=2)] == [2, 10]
    sketches = store.list_stills(lease.job_id, frames=False, start=2)
    assert [(row.index, row.name) for row in sketches] == [
        (i, name) for i in (2, 10) for name in ("after", "soft_edges")
    ]
    assert [row.scores for row in sketches] == [None] * 4
    found = [store.find_still(lease.job_id, index) for index in (-1, 0, 2, 3)]
    assert [row.index if row else None for row in found] == [10, 0, 2, None]


def test_a_still_is_kept_once_and_with_all_that_belongs_to_it(store: Store) -> None:
    job(store)
    lease = held(store)
    store.update_job(lease, {"frames_done": 1}, [EventDraft("frame", {"index": 0})], [still(lease, 0)])
    again = [still(lease, 1, "soft_edges"), still(lease, 0, scores={"edge_loss": 1.0})]
    with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
        store.update_job(lease, {"frames_done": 2}, [EventDraft("frame", {"index": 0})], again)
    assert [(row.index, row.scores) for row in store.list_stills(lease.job_id, frames=True)] == [(0, None)]
    assert store.list_stills(lease.job_id, frames=False) == []
    assert store.get_job(lease.job_id).frames_done == 1
    assert [event.kind for event in store.list_events(lease.job_id)] == ["status", "status", "frame"]


def test_who_lost_the_lease_adds_no_still_and_a_successor_goes_on(store: Store) -> None:
    job(store)
    old = held(store, lease_s=-1.0)
    store.update_job(old, {"frames_done": 1}, [], [still(old, 0)])
    new = held(store)
    assert new.job_id == old.job_id
    with pytest.raises(LeaseLost):
        store.update_job(old, {"frames_done": 2}, [EventDraft("frame", {"index": 1})], [still(old, 1)])
    store.update_job(new, {"frames_done": 2}, [], [still(new, 1)])
    keys = [row.key for row in store.list_stills(new.job_id, frames=True)]
    assert keys == [f"{new.job_id}/0-{FRAME}-{old.fence}", f"{new.job_id}/1-{FRAME}-{new.fence}"]


def test_a_job_that_is_forgotten_leaves_no_still(store: Store) -> None:
    job(store)
    job(store)
    lease, other = held(store), held(store)
    for each in (lease, other):
        store.update_job(each, {}, [], [still(each, 0), still(each, 0, "soft_edges")])
    store.end_job(lease, "completed")
    assert store.find_still(lease.job_id, 0) is not None
    store.remove_job(lease.job_id)
    assert store.list_stills(lease.job_id, frames=True) == store.list_stills(lease.job_id, frames=False) == []
    assert len(store.list_stills(other.job_id, frames=True)) == len(store.list_stills(other.job_id, frames=False)) == 1
