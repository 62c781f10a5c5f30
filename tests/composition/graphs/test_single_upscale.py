"""Jobs of an upscaling model: runs over several replicas at once, in their order, from where an earlier run ended."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from fractions import Fraction
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from pydantic import ValidationError

from composition.graphs.calls import Models, Transport
from composition.graphs.run import NOTHING_KNOWN, GraphSettings, Known
from composition.graphs.single import SINGLES
from composition.graphs.single.graph import WINDOW
from composition.records.artifacts import ArtifactSettings
from services.errors import ModelFailed, ServiceLost
from services.frames import Fact, Frames, Item, Progress, StageDone
from services.realesrgan.request import UpscaleRequest
from tests.composition import sample_media as media
from tests.composition.media.test_decode import workers
from tests.composition.rolling import Gone, facts, gathered, of
from tests.composition.serving import Handle

SAMPLES = Path(__file__).parents[2] / "data" / "media"
UPSCALE = SINGLES["realesrgan"]
FRAMES = 70
"""More than four runs."""


class Enlarging:
    """Real-ESRGAN's place: every pixel repeated, later runs sooner than earlier ones, by two replicas in turn."""

    def __init__(self, failing: dict[int, Exception] | None = None, held: int = 0) -> None:
        self.asked: list[Frames] = []
        self.working = self.most = 0
        self.full = asyncio.Event()
        """As many calls were under way at once as may be."""
        self._failing = failing or {}
        self._held = held
        """So many calls wait until the window is full."""

    async def upscale(self, request: UpscaleRequest, frames: Frames, key: str = "") -> AsyncGenerator[Item]:
        number = len(self.asked)
        self.asked.append(frames)
        self.working += 1
        self.most = max(self.most, self.working)
        if self.working == WINDOW:
            self.full.set()
        try:
            if number < self._held:
                await self.full.wait()
            for _ in range(20 - number):
                await asyncio.sleep(0)
            if frames.first in self._failing:
                raise self._failing[frames.first]
            pixels = frames.pixels.repeat(request.scale, 1).repeat(request.scale, 2)
            yield Frames(pixels, frames.first, frames.rate, frames.times)
            yield StageDone("upscale", "realesrgan", "net", "", f"realesrgan#{number % 2}", 0.5)
        finally:
            self.working -= 1


class Room:
    def __init__(self, folder: Path, service: Enlarging | None = None) -> None:
        self.service = service or Enlarging()
        self.handle = Handle(self.service)
        settings = GraphSettings(artifacts=ArtifactSettings(url=str(folder / "artifacts")))
        self.graph = UPSCALE.make(Models({"upscale": self.handle}), settings, Transport(lost=(Gone,)))
        self.video = str(media.count(folder / "a.mp4", FRAMES, rate=Fraction(12)))

    def run(self, scale: int = 2, known: Known = NOTHING_KNOWN) -> AsyncGenerator[Item]:
        request = UPSCALE.request.model_validate({"input_video": self.video, "scale": scale})
        return cast("AsyncGenerator[Item]", self.graph.run(request, known))

    async def items(self, known: Known = NOTHING_KNOWN, scale: int = 2) -> list[Item]:
        async with aclosing(self.run(scale, known)) as items:
            return [item async for item in items]


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


async def test_every_frame_comes_out_larger_and_in_its_place(room: Room) -> None:
    items = await room.items(scale=3)
    runs = of(Frames, items)
    assert [run.first for run in runs] == [0, 16, 32, 48, 64]
    assert sum(run.count for run in runs) == FRAMES
    assert {run.rate for run in runs} == {Fraction(12)}
    assert {run.pixels.shape[1:] for run in runs} == {(48 * 3, 64 * 3, 3)}
    assert [media.number_of(np.ascontiguousarray(frame[::3, ::3])) for run in runs for frame in run.pixels] == list(
        range(FRAMES)
    )
    assert facts(items)["frames_total"] == FRAMES
    assert [item.done for item in of(Progress, items)] == [16, 32, 48, 64, FRAMES]
    assert {item.total for item in of(Progress, items)} == {FRAMES}


async def test_as_many_runs_as_the_window_are_under_way(tmp_path: Path) -> None:
    room = Room(tmp_path, Enlarging(held=WINDOW - 1))
    async with asyncio.timeout(60):
        await room.items()
    assert room.service.most == WINDOW


async def test_each_replica_is_named_once_with_all_its_time(room: Room) -> None:
    done = of(StageDone, await room.items())
    assert sorted((stage.replica, stage.seconds) for stage in done) == [("realesrgan#0", 1.5), ("realesrgan#1", 1.0)]


@pytest.mark.parametrize("safe", [16, 20, 69, FRAMES])
async def test_it_goes_on_behind_what_is_safe(room: Room, safe: int) -> None:
    runs = of(Frames, await room.items(Known("job", is_retry=True, frames=safe)))
    numbers = [number for run in runs for number in range(run.first, run.stop)]
    assert numbers == list(range(safe, FRAMES))


async def test_closing_ends_all_calls_and_the_decoder(room: Room) -> None:
    async with aclosing(room.run()) as items:
        async for item in items:
            if isinstance(item, Frames):
                break
    await room.handle.rested()
    assert room.service.working == 0
    assert len(room.service.asked) <= 1 + WINDOW
    assert workers() == []


@pytest.mark.parametrize(("error", "becomes"), [(Gone(), ServiceLost), (ModelFailed("no memory"), ModelFailed)])
async def test_what_came_before_an_error_is_kept(tmp_path: Path, error: Exception, becomes: type[Exception]) -> None:
    room = Room(tmp_path, Enlarging({32: error}))
    seen: list[Item] = []
    with pytest.raises(becomes):
        await gathered(room.run(), seen)
    assert [run.first for run in of(Frames, seen)] == [0, 16]
    await room.handle.rested()
    assert room.service.working == 0
    assert workers() == []


@pytest.mark.parametrize("scale", [0, 1, 5, "2.5", None])
def test_a_scale_that_is_none(scale: object) -> None:
    with pytest.raises(ValidationError, match="scale"):
        UPSCALE.request.model_validate({"input_video": "a.mp4", "scale": scale})


async def test_of_damage_the_record_is_told(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.video = str(media.damaged_middle(tmp_path))
    told = of(Fact, await room.items())
    assert [fact.name for fact in told if fact.name == "degraded"] == ["degraded"]


async def test_of_a_cut_recording_what_is_there_is_enlarged_and_the_record_is_told(room: Room) -> None:
    room.video = str(SAMPLES / "frag_cut.mp4")
    items = await room.items()
    told = {fact.name: fact.value for fact in of(Fact, items)}
    assert told["degraded"] == "input_video: truncated: 12 of 15 frames"
    assert told["frames_total"] == sum(run.count for run in of(Frames, items)) == 12


async def test_of_a_size_that_changes_the_record_is_told(room: Room) -> None:
    room.video = str(SAMPLES / "resize.webm")
    items = await room.items()
    assert {fact.name: fact.value for fact in of(Fact, items)}["resized"] == "64x48 to 48x64"
    assert {(run.width, run.height) for run in of(Frames, items)} == {(128, 96)}


async def test_every_frame_is_shown_when_it_was(room: Room, tmp_path: Path) -> None:
    times = [n + 30 * (n > 20) for n in range(40)]
    room.video = str(media.clip(tmp_path / "a.mp4", [media.numbered(n) for n in range(40)], 30, media.PLAIN, times))
    runs = of(Frames, await room.items())
    assert [time for run in runs for time in run.list_times()[:-1]] == [Fraction(time, 30) for time in times]
    assert runs[-1].list_times()[-1] == Fraction(times[-1] + 1, 30)
    later = of(Frames, await room.items(Known("job", frames=32)))
    assert [(run.first, run.times) for run in later] == [(run.first, run.times) for run in runs[2:]]
