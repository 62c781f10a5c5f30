"""Files of several owners that are uploaded at the same time: who has a slow one makes nobody else wait."""

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from composition.http.forms import Part
from composition.http.uploads import Uploads
from composition.media.decoding.lifeline import LOW_PRIORITY
from composition.records.artifacts import Artifacts, ArtifactSettings
from composition.records.store import Store
from composition.records.tables import File
from tests.composition.albums import numbered
from tests.composition.media.hostile import make_slow_video
from tests.composition.media.own_memory import OWN_MEMORY
from tests.composition.media.test_decode import workers
from tests.waiting import until

SLOW_FILES = 4
FRAMES = 30_000
"""Frames of a slow file: it takes several seconds of processor time, and is accepted."""
FEWER_FRAMES = 4000
SIZE = 1280, 720
"""Size of a frame, which needs so little memory that several files are open at the same time."""


@pytest.fixture
def uploads(tmp_path: Path) -> Iterator[Uploads]:
    """Uploads whose decoders share memory with no other process's."""
    store = Store(f"sqlite:///{tmp_path / 'store.db'}")
    yield Uploads(store, Artifacts(ArtifactSettings(url=str(tmp_path / "artifacts"))), OWN_MEMORY, 1 << 30)
    store.close()


async def test_a_small_picture_overtakes_the_slow_files_of_another_owner(uploads: Uploads) -> None:
    slow = make_slow_video(FRAMES, size=SIZE)
    done: list[str] = []

    async def upload(owner: str, data: bytes) -> None:
        await uploads.store_part(Part(io.BytesIO(data), "x"), owner, "input", "file")
        done.append(owner)

    tasks = [asyncio.create_task(upload("alice", slow)) for _ in range(SLOW_FILES)]
    await asyncio.to_thread(until, lambda: count_lowered() > 0, what="the turn of a slow file")
    await upload("bob", numbered(7))
    assert done == ["bob"]
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert workers() == []


def count_lowered() -> int:
    """Return how many decoders have low priority: they decode, or wait for their turn."""
    return sum(read_nice(worker) == LOW_PRIORITY for worker in workers())


def read_nice(process: psutil.Process) -> int | None:
    """Return the priority of a process; None if it has ended."""
    try:
        return process.nice()
    except psutil.NoSuchProcess:
        return None


async def test_an_upload_that_is_cancelled_lets_the_next_one_go_on(uploads: Uploads) -> None:
    parts = [Part(io.BytesIO(make_slow_video(frames, size=SIZE)), "x") for frames in (FRAMES, FEWER_FRAMES)]
    tasks: list[asyncio.Task[File]] = []
    for part in parts:
        tasks.append(asyncio.create_task(uploads.store_part(part, "alice", "input", "file")))
        await asyncio.to_thread(until, lambda: count_lowered() == len(tasks), what="the turn of a slow file")
    tasks[0].cancel()
    file = await tasks[1]
    assert file.facts["frames"] == FEWER_FRAMES
    assert workers() == []
