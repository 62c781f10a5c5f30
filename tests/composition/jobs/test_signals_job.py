"""Through whole jobs: which frames of a video are the user's, and where a new shot was asked for."""

from itertools import groupby
from pathlib import Path

import pytest

from composition.media.findings import judge_parts
from composition.records.store import Store
from composition.records.tables import Job
from tests.composition.beeps import write_take
from tests.composition.graphs.test_single_upscale import Enlarging
from tests.composition.jobs.test_sound_job import FILES, WAN_FRAMES, Desk
from tests.composition.jobs.test_storyboard import Set, script

CLIP = FILES / "wide.mp4"


def list_origins(store: Store, job: Job) -> list[tuple[str, int]]:
    """Return where the frames of a job's video come from, as runs of a length."""
    parts = [segment.signals for segment in store.list_segments(job.id)]
    groups = groupby(frame.origin for frame in judge_parts(parts).frames)
    return [(origin, len(list(frames))) for origin, frames in groups]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


async def test_the_frames_of_a_clip_that_is_continued_are_the_users(desk: Desk) -> None:
    """The continuation is grey, as of a model that fails; the clip is not judged."""
    job = await desk.carry_on(CLIP, join=True)
    given = job.facts["clip_frames"]
    assert list_origins(desk.store, job) == [("given", given), ("made", WAN_FRAMES - 1)]
    assert job.facts["signals"] == f"flat {given}-{given + WAN_FRAMES - 2}"
    alone = await desk.carry_on(CLIP, join=False)
    assert list_origins(desk.store, alone) == [("made", WAN_FRAMES)]
    assert alone.facts["signals"] == f"flat 0-{WAN_FRAMES - 1}"


async def test_of_an_enlarged_video_only_flat_frames_are_told(desk: Desk) -> None:
    job = await desk.enlarge(write_take(desk.folder / "a.mp4"), Enlarging())
    head, *_ = [segment.signals for segment in desk.store.list_segments(job.id)]
    assert head == {"faults": ["flat"]}


@pytest.mark.parametrize(
    ("crossfade_s", "origins"),
    [
        (0, [("shot", 1), ("made", 5), ("shot", 1), ("made", 11), ("shot", 1), ("made", 5)]),
        (0.5, [("shot", 1), ("made", 2), ("fade", 3), ("shot", 1), ("made", 5), ("fade", 3), ("shot", 1), ("made", 2)]),
    ],
)
async def test_a_storyboard_asks_for_its_cuts(
    tmp_path: Path, crossfade_s: float, origins: list[tuple[str, int]]
) -> None:
    stage = Set(tmp_path)
    async with stage.working():
        film = await stage.ended(stage.ordered(script=script(1, 2, 1), crossfade_s=crossfade_s))
    assert film.status == "completed", film.error_message
    assert list_origins(stage.store, film) == origins
