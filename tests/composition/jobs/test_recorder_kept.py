"""The recorder of a graph whose frames are kept: each is safe when it is taken, whenever the process dies."""

import io
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from composition.http.content import list_scores, stream_zip
from composition.jobs.recorder import Output, Recorder
from composition.media.encode import encode_png
from composition.records.artifacts import Artifacts, ArtifactSettings
from composition.records.store import EventDraft, Lease, Store
from composition.records.tables import Table
from services.errors import LeaseLost, ModelFailed
from services.frames import Frames, Scores, Sketch
from tests.composition.jobs.test_recorder import Room, recorded, runs
from tests.composition.serving import noise

KEPT = Output(keeps_frames=True, segments=(2, 3))


FRAMES = 7
RATE = Fraction(24000, 1001)


class Killed(Exception):
    """The process is gone."""


class Life:
    """How many more writes a process lives to make; None is without end."""

    def __init__(self, writes: int | None = None) -> None:
        self.left = writes
        self.made = 0

    def write(self) -> None:
        if self.left == self.made:
            raise Killed
        self.made += 1


class MortalStore(Store):
    """Dies before a write of its process."""

    life = Life()

    def update_job(
        self, lease: Lease, changes: Mapping[str, Any], events: Iterable[EventDraft], rows: Iterable[Table] = ()
    ) -> None:
        self.life.write()
        super().update_job(lease, changes, events, rows)


class MortalArtifacts(Artifacts):
    """Likewise."""

    life = Life()

    def put_file(self, key: str, source: Path) -> None:
        self.life.write()
        super().put_file(key, source)


class KeepingRoom(Room):
    """A room whose process may be killed before any of its writes, and whose graph's frames are kept."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.store = MortalStore(f"sqlite:///{folder / 'store.db'}")
        self.artifacts = MortalArtifacts(ArtifactSettings(url=str(folder / "artifacts")))

    def recorder(self, lease: Lease) -> Recorder:
        return Recorder(self.store, self.artifacts, lease, KEPT)

    async def drawn(self, lease: Lease, life: Life, stop: int = FRAMES, start: int | None = None) -> Recorder:
        """Record all frames, or those before `stop`, as a run of the job does, from the first that is not safe."""
        self.store.life = self.artifacts.life = life
        recorder = self.recorder(lease)
        rate = self.store.get_job(lease.job_id).rate
        if rate is not None:
            await recorder.restore(Fraction(rate))
        for index in range(recorder.safe if start is None else start, stop):
            await recorder.take(*drawing(index))
        if stop == FRAMES:
            await recorder.finish()
        return recorder

    async def results(self, job_id: str) -> dict[str, object]:
        job = self.store.get_job(job_id)
        frames, sketches = (self.store.list_stills(job_id, frames=wanted) for wanted in (True, False))
        told = [(event.kind, event.data) for event in self.store.list_events(job_id) if event.kind != "status"]
        return {
            "video": b"".join(self.artifacts.read(str(job.results["video"]))),
            "frames": [chunk async for chunk in stream_zip(self.artifacts, frames, with_names=False)],
            "debug": [chunk async for chunk in stream_zip(self.artifacts, sketches, with_names=True)],
            "scores": (list_scores(frames), [still.scores for still in sketches]),
            "segments": [
                (each.index, each.first, each.frames, each.signals) for each in self.store.list_segments(job_id)
            ],
            "job": (job.frames_done, job.rate, job.width, job.height, sorted(job.results)),
            "told": sorted(told, key=repr),
        }


def drawing(index: int) -> tuple[Frames, Scores | None, list[Sketch]]:
    """A frame, and what a graph says before it."""
    frame = Frames(noise(index, 34, 18)[None], index, RATE)
    if index == 0:
        return frame, None, []
    return frame, Scores(index, edge_loss=index / 7), [Sketch(index, "edges", Frames(noise(-index % 99, 20, 16)[None]))]


@pytest.fixture
def keeping(tmp_path: Path) -> KeepingRoom:
    return KeepingRoom(tmp_path)


async def test_frames_and_scores_are_kept_as_they_come(keeping: KeepingRoom) -> None:
    lease = keeping.held()
    recorder = keeping.recorder(lease)
    for index in range(FRAMES):
        await recorder.take(*drawing(index))
        frames = keeping.store.list_stills(lease.job_id, frames=True)
        assert [still.index for still in frames] == list(range(index + 1))
        assert keeping.bytes_of(lease, frames[-1].key) == encode_png(drawing(index)[0].pixels[0])
        job = keeping.store.get_job(lease.job_id)
        assert (job.frames_done, recorder.safe, recorder.taken) == (index + 1, index + 1, index + 1)
        news = [event.data for event in keeping.store.list_events(lease.job_id) if event.kind == "frame"][-1]
        assert (news["index"], news["frames_done"], news["scores"]) == (index, index + 1, frames[-1].scores)
    sketches = keeping.store.list_stills(lease.job_id, frames=False)
    assert [(still.index, still.name, still.scores) for still in sketches] == [
        (index, "edges", None) for index in range(1, FRAMES)
    ]
    kept = keeping.store.list_stills(lease.job_id, frames=True)
    assert [still.scores for still in kept][:2] == [
        None,
        {
            "edge_loss": 1 / 7,
            **dict.fromkeys(("gram_loss", "temporal_loss", "lpips_to_init", "lpips_to_prev", "seed", "passed")),
            "tries": 1,
        },
    ]
    assert sorted(keeping.store.get_job(lease.job_id).results) == ["debug", "frames", "metrics"]


async def test_nothing_is_kept_behind_a_gap(keeping: KeepingRoom) -> None:
    lease = keeping.held()
    recorder = keeping.recorder(lease)
    await recorder.take(*drawing(0))
    with pytest.raises(ModelFailed, match="frame 1 is missing: the graph sent frame 4 instead"):
        await recorder.take(*drawing(4))
    assert [still.index for still in keeping.store.list_stills(lease.job_id, frames=True)] == [0]
    assert keeping.store.get_job(lease.job_id).frames_done == 1


async def test_without_sketches_there_is_no_debug(keeping: KeepingRoom) -> None:
    lease = keeping.held()
    await keeping.recorder(lease).take(drawing(0)[0])  # nor, without scores, any metrics
    assert sorted(keeping.store.get_job(lease.job_id).results) == ["frames"]


async def test_kept_frames_keep_their_times(keeping: KeepingRoom) -> None:
    """Frame n is shown for n + 1 tenths of a second, also if the process died between two frames."""
    times = [Fraction(n * (n + 1), 20) for n in range(FRAMES + 1)]
    made: list[bytes] = []
    for pause in (FRAMES, 3):
        lease = keeping.held(lease_s=0.0)
        recorder = keeping.recorder(lease)
        for index in range(FRAMES):
            if index == pause:
                lease = keeping.again()
                recorder = keeping.recorder(lease)
                await recorder.restore(RATE)
            frame, scores, sketches = drawing(index)
            await recorder.take(replace(frame, times=(times[index], times[index + 1])), scores, sketches)
        await recorder.finish()
        made.append(keeping.bytes_of(lease))
    assert made[0] == made[1]
    with av.open(io.BytesIO(made[0]), "r") as container:
        assert [frame.time_base * (frame.pts or 0) for frame in container.decode(video=0) if frame.time_base] == times[
            :-1
        ]


async def test_a_graph_that_does_not_keep_its_frames_has_none(tmp_path: Path) -> None:
    room = Room(tmp_path)
    lease = room.held()
    await recorded(room, lease, runs())
    assert room.store.list_stills(lease.job_id, frames=True) == []


@pytest.mark.parametrize("stop", range(FRAMES + 1))
async def test_kept_frames_go_on_behind_any_of_them(keeping: KeepingRoom, stop: int) -> None:
    whole = keeping.held()
    await keeping.drawn(whole, Life())
    broken = keeping.held(lease_s=-1.0)
    before = keeping.recorder(broken)
    for index in range(stop):
        await before.take(*drawing(index))
    keys = [still.key for still in keeping.store.list_stills(broken.job_id, frames=True)]
    after = await keeping.drawn(keeping.again(), Life())
    assert (after.safe, after.taken) == (FRAMES, FRAMES)
    assert await keeping.results(broken.job_id) == await keeping.results(whole.job_id)
    assert [still.key for still in keeping.store.list_stills(broken.job_id, frames=True)][:stop] == keys


async def test_a_process_may_die_before_any_of_its_writes(keeping: KeepingRoom) -> None:
    """What it had put into the store and not yet recorded counts for nothing."""
    life, whole = Life(), keeping.held()
    await keeping.drawn(whole, life)
    expected = await keeping.results(whole.job_id)
    assert life.made > 3 * FRAMES
    for writes in range(life.made):
        keeping.store.life = keeping.artifacts.life = Life()
        broken = keeping.held(lease_s=-1.0)
        with pytest.raises(Killed):
            await keeping.drawn(broken, Life(writes))
        lease = keeping.again()
        assert lease.job_id == broken.job_id
        await keeping.drawn(lease, Life())
        results = await keeping.results(lease.job_id)
        assert results == expected, [name for name in expected if results[name] != expected[name]]


async def test_frames_that_are_safe_are_passed_over(keeping: KeepingRoom) -> None:
    whole, broken = keeping.held(), keeping.held(lease_s=-1.0)
    await keeping.drawn(whole, Life())
    await keeping.drawn(broken, Life(), stop=4)
    keys = [still.key for still in keeping.store.list_stills(broken.job_id, frames=True)]
    await keeping.drawn(keeping.again(), Life(), start=0)
    assert await keeping.results(broken.job_id) == await keeping.results(whole.job_id)
    assert [still.key for still in keeping.store.list_stills(broken.job_id, frames=True)][:4] == keys


async def test_who_lost_the_lease_keeps_no_frame(keeping: KeepingRoom) -> None:
    """Nor does it overwrite what its successor has kept, though it draws something else."""
    whole, broken = keeping.held(), keeping.held(lease_s=-1.0)
    await keeping.drawn(whole, Life())
    before = await keeping.drawn(broken, Life(), stop=3)
    lease = keeping.again()
    after = await keeping.drawn(lease, Life(), stop=4)
    with pytest.raises(LeaseLost):
        await before.take(Frames(noise(99, 34, 18)[None], 3, RATE))
    assert len(keeping.store.list_stills(broken.job_id, frames=True)) == 4
    for index in range(4, FRAMES):
        await after.take(*drawing(index))
    await after.finish()
    assert await keeping.results(broken.job_id) == await keeping.results(whole.job_id)
