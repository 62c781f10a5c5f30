"""The signals of recorded videos: stored with their segments, and the same after any interruption."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from composition.jobs.recorder import Output, Recorder
from composition.media.findings import judge_parts
from composition.records.store import Lease
from services.frames import Frames, Pixels
from tests.composition.jobs.test_recorder import Room
from tests.composition.media.test_signals import draw_pan

FRAMES, RATE = 60, Fraction(16)


def draw_faults() -> Pixels:
    """A moving clip that is frozen in the first segment and beyond, cut in the second, and flat in the last."""
    pixels = np.concatenate((draw_pan(46), draw_pan(14, seed=1)))
    pixels[5:14] = pixels[5]
    pixels[58:] = 0
    return pixels


FAULTS = "frozen 5-13; cut 46; flat 58-59"


def split(pixels: Pixels, start: int = 0, length: int = 7) -> Iterator[Frames]:
    for first in range(start, len(pixels), length):
        yield Frames(pixels[first : first + length], first, RATE)


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def open_recorder(room: Room, lease: Lease, **how: Any) -> Recorder:
    return Recorder(room.store, room.artifacts, lease, Output(**how))


def read_signals(room: Room, lease: Lease) -> list[Any]:
    return [segment.signals for segment in room.store.list_segments(lease.job_id)]


async def record(recorder: Recorder, runs: Iterator[Frames]) -> None:
    for run in runs:
        await recorder.take(run)
    await recorder.finish()


async def test_faults_are_a_fact_and_an_event(room: Room) -> None:
    lease = room.held()
    await record(room.recorder(lease), split(draw_faults()))
    assert room.store.get_job(lease.job_id).facts["signals"] == FAULTS
    told = [event.data for event in room.store.list_events(lease.job_id) if event.kind == "fact"]
    assert told[-1] == {"name": "signals", "value": FAULTS}
    assert room.store.get_job(lease.job_id).degraded is None


async def test_a_video_without_a_fault_has_no_such_fact(room: Room) -> None:
    lease = room.held()
    await record(room.recorder(lease), split(draw_pan(FRAMES)))
    assert "signals" not in room.store.get_job(lease.job_id).facts
    assert len(judge_parts(read_signals(room, lease)).frames) == FRAMES


@pytest.mark.parametrize("stopped_at", [3, 8, 11, 39, 40, 47, 59])
async def test_the_signals_of_a_resumed_video_are_those_of_the_undisturbed_one(room: Room, stopped_at: int) -> None:
    whole, broken = room.held(), room.held(lease_s=-1.0)
    pixels = draw_faults()
    await record(room.recorder(whole), split(pixels))
    first = room.recorder(broken)
    for run in split(pixels[:stopped_at]):
        await first.take(run)
    resumed = room.again()
    second = room.recorder(resumed)
    await record(second, split(pixels, second.frames // 5 * 5, length=5))
    assert read_signals(room, resumed) == read_signals(room, whole)
    assert room.store.get_job(resumed.job_id).facts["signals"] == FAULTS


async def test_frames_that_a_user_gave_are_marked_also_after_an_interruption(room: Room) -> None:
    """At frame 46, where the clip of the user ends, is a cut of the model."""
    pixels, results = draw_faults(), list[list[Any]]()
    for pause in (0, 3):
        lease = room.held(lease_s=-1.0)
        recorder = room.recorder(lease)
        for number, run in enumerate(split(pixels, length=4)):
            if pause and number == pause:
                lease = room.again()
                recorder = room.recorder(lease)
            if run.first < 44:
                recorder.mark_frames(run.first, run.stop, "given")
            await recorder.take(run)
        await recorder.finish()
        results.append(read_signals(room, lease))
        assert room.store.get_job(lease.job_id).facts["signals"] == "cut 46; flat 58-59"
    assert results[0] == results[1]


async def test_an_output_has_its_own_kinds_and_its_own_fact(room: Room) -> None:
    lease = room.held()
    recorder = open_recorder(room, lease, variant="hd", main=False, faults=("flat",))
    await record(recorder, split(draw_faults()))
    assert room.store.get_job(lease.job_id).facts["hd_signals"] == "flat 58-59"


async def test_the_first_frames_of_a_user_are_never_at_fault(room: Room) -> None:
    lease = room.held()
    pixels = draw_pan(20)
    pixels[0] = 255
    await record(open_recorder(room, lease, given=1), split(pixels))
    assert "signals" not in room.store.get_job(lease.job_id).facts


async def test_a_video_that_an_older_version_began_is_not_judged(room: Room) -> None:
    lease = room.held()
    recorder = room.recorder(lease)
    for run in split(draw_faults()[:40]):
        await recorder.take(run)
    with room.store._write() as session, session.begin():  # pyright: ignore[reportPrivateUsage]
        for segment in room.store.list_segments(lease.job_id):
            segment.signals = None
            session.merge(segment)
    recorder = room.recorder(lease)
    await record(recorder, split(draw_faults(), recorder.frames))
    assert "signals" not in room.store.get_job(lease.job_id).facts
    assert judge_parts(read_signals(room, lease)).frames == ()


async def test_a_video_of_one_frame(room: Room) -> None:
    lease = room.held()
    await record(room.recorder(lease), split(draw_pan(1)))
    (frame,) = judge_parts(read_signals(room, lease)).frames
    assert (frame.change, frame.seconds) == (None, 0.0625)
