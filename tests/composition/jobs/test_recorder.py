"""The recorder: an output that was interrupted and resumed is the one that was not."""

import io
import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from composition.jobs.recorder import Output, Recorder
from composition.records.artifacts import Artifacts, ArtifactSettings
from composition.records.store import Lease, Store, make_id
from composition.records.tables import Job
from services.errors import LeaseLost, ModelFailed
from services.frames import Frames

FIRST_SEGMENT, SEGMENT = Output().segments
TOTAL = FIRST_SEGMENT + SEGMENT + 5


def runs(start: int = 0, stop: int = TOTAL, length: int = 7) -> Iterator[Frames]:
    """Numbered frames: a grey ramp that moves."""
    ramp = np.arange(32, dtype=np.uint8)[None, :, None] * 4
    for first in range(start, stop, length):
        count = min(length, stop - first)
        pixels = np.stack([np.broadcast_to(ramp + 2 * (first + i), (32, 32, 3)) for i in range(count)])
        yield Frames(np.ascontiguousarray(pixels), first, Fraction(16))


class Room:
    """A store, artifacts, and jobs that are held."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(f"sqlite:///{folder / 'store.db'}")
        self.artifacts = Artifacts(ArtifactSettings(url=str(folder / "artifacts")))

    def held(self, lease_s: float = 60.0) -> Lease:
        made = Job(id=make_id("video"), owner="", model="v2v", params={}, media={}, created_at=time.time())
        self.store.create_job(made, 9)
        return self.again(lease_s)

    def again(self, lease_s: float = 60.0) -> Lease:
        job = self.store.claim_job(lease_s)
        assert job
        return Lease(job.id, job.fence)

    def recorder(self, lease: Lease) -> Recorder:
        return Recorder(self.store, self.artifacts, lease, Output())

    def bytes_of(self, lease: Lease, key: str | None = None) -> bytes:
        return b"".join(self.artifacts.read(key or str(self.store.get_job(lease.job_id).results["video"])))


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


async def recorded(room: Room, lease: Lease, frames: Iterator[Frames]) -> None:
    recorder = room.recorder(lease)
    for run in frames:
        await recorder.take(run)
    await recorder.finish()


def varying(start: int = 0) -> Iterator[Frames]:
    """The same frames, of which every third stays for two seconds."""
    times = list(
        itertools.accumulate((Fraction(2 if i % 3 == 0 else 1, 30) for i in range(TOTAL)), initial=Fraction(0))
    )
    for run in runs(start):
        yield replace(run, times=tuple(times[run.first : run.stop + 1]))


async def test_frames_are_shown_when_they_are_due_also_when_the_job_was_interrupted(room: Room) -> None:
    whole, resumed = room.held(), None
    await recorded(room, whole, varying())
    expected = [run.list_times()[i] for run in varying() for i in range(run.count)]
    with av.open(io.BytesIO(room.bytes_of(whole)), "r") as container:
        stream = container.streams.video[0]
        assert [
            frame.time_base * (frame.pts or 0) for frame in container.decode(video=0) if frame.time_base
        ] == expected
        assert stream.duration is not None
        assert stream.time_base is not None
        assert stream.duration * stream.time_base == [*varying()][-1].list_times()[-1]
    cut = room.held(lease_s=0.0)
    recorder = room.recorder(cut)
    for run in itertools.islice(varying(), 4):
        await recorder.take(run)
    resumed = room.again()
    await recorded(room, resumed, varying(room.recorder(resumed).frames))
    assert room.bytes_of(resumed) == room.bytes_of(whole)


async def test_a_constant_rate_cannot_become_variable(room: Room) -> None:
    recorder = room.recorder(room.held())
    first, second = itertools.islice(varying(), 2)
    await recorder.take(first)
    with pytest.raises(ModelFailed, match="the format of the frames changed"):
        await recorder.take(replace(second, times=None))


async def test_all_frames_come_out_in_order(room: Room) -> None:
    lease = room.held()
    await recorded(room, lease, runs())
    with av.open(io.BytesIO(room.bytes_of(lease)), "r") as container:
        assert container.streams.video[0].frames == TOTAL
        means = [frame.to_ndarray(format="rgb24").mean() for frame in container.decode(video=0)]
    assert len(means) == TOTAL
    assert all(later > earlier for earlier, later in itertools.pairwise(means))
    assert [s.frames for s in room.store.list_segments(lease.job_id)] == [0, FIRST_SEGMENT, SEGMENT, 5]
    job = room.store.get_job(lease.job_id)
    assert (job.frames_done, job.width, job.height, job.rate) == (TOTAL, 32, 32, "16")
    assert room.bytes_of(lease, job.results["thumbnail"])[:2] == b"\xff\xd8"


@pytest.mark.parametrize("stopped_at", [3, FIRST_SEGMENT, 20, FIRST_SEGMENT + SEGMENT, TOTAL])
async def test_a_resumed_output_is_the_undisturbed_one(room: Room, stopped_at: int) -> None:
    whole = room.held()
    await recorded(room, whole, runs())
    broken = room.held(lease_s=-1.0)
    first = room.recorder(broken)
    for run in runs(0, stopped_at):
        await first.take(run)
    resumed = room.again()
    assert resumed.job_id == broken.job_id
    second = room.recorder(resumed)
    safe = second.frames
    assert safe <= stopped_at
    for run in runs(safe // 7 * 7, TOTAL):  # the stream begins a little before what is safe
        await second.take(run)
    await second.finish()
    assert room.bytes_of(resumed) == room.bytes_of(whole)
    with pytest.raises(LeaseLost):
        await first.finish()


async def test_how_frames_come_changes_nothing(room: Room) -> None:
    one, other = room.held(), room.held()
    await recorded(room, one, runs(length=1))
    await recorded(room, other, runs(length=16))
    assert room.bytes_of(one) == room.bytes_of(other)


async def test_a_gap_and_another_size_are_refused(room: Room) -> None:
    recorder = room.recorder(room.held())
    await recorder.take(next(runs()))
    with pytest.raises(ModelFailed, match="frame 7 is missing"):
        await recorder.take(next(runs(start=9)))
    small = Frames(np.zeros((1, 16, 16, 3), np.uint8), 7, Fraction(16))
    with pytest.raises(ModelFailed, match="changed"):
        await recorder.take(small)


async def test_no_frame_at_all_is_a_failure(room: Room) -> None:
    with pytest.raises(ModelFailed, match="no frame"):
        await room.recorder(room.held()).finish()


async def test_who_lost_the_lease_overwrites_no_segment(room: Room) -> None:
    whole, broken = room.held(), room.held(lease_s=-1.0)
    await recorded(room, whole, runs())
    before = room.recorder(broken)
    await before.take(next(runs()))
    resumed = room.again()
    after = room.recorder(resumed)
    for run in runs():
        await after.take(run)
    with pytest.raises(LeaseLost):
        await before.take(Frames(np.zeros((9, 32, 32, 3), np.uint8), 7, Fraction(16)))
    await after.finish()
    assert room.bytes_of(resumed) == room.bytes_of(whole)
