"""Jobs of text-to-video alone: the service's stream as it comes, from where an earlier run ended."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from pydantic import ValidationError

from composition.graphs.calls import Models, Transport
from composition.graphs.run import NOTHING_KNOWN, GraphSettings, Known
from composition.graphs.single import SINGLES
from composition.records.artifacts import ArtifactSettings
from miniatures.random import written
from services.errors import Cancelled, LimitExceeded, ServiceBusy, ServiceLost
from services.frames import Fact, Frames, Item, Pixels, Progress, StageDone
from services.text_to_video.request import TextToVideoRequest
from services.text_to_video.service import TextToVideo
from services.text_to_video.settings import TextToVideoSettings
from tests.composition.rolling import Full, Gone, facts, gathered, of
from tests.composition.serving import Handle

FILM = SINGLES["text-to-video"]
FIELDS = {"prompt": "a boat", "num_frames": 10, "size": "32x16", "steps": 2, "seed": 3, "fps": 12}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> TextToVideo:
    home = tmp_path_factory.mktemp("home")
    weights = written("text-to-video", "tiny", home)
    settings = TextToVideoSettings(weights=weights, device="cpu", dtype="float32", decode_batch=4, max_steps=200)
    return TextToVideo(settings, home, lambda: "text-to-video#test cpu")


class Room:
    """A graph and the service that it asks."""

    def __init__(self, folder: Path, service: object, **defaults: Any) -> None:
        self.handle = Handle(service)
        settings = GraphSettings(artifacts=ArtifactSettings(url=str(folder)), defaults=defaults)
        self.graph = FILM.make(Models({"text-to-video": self.handle}), settings, Transport(lost=(Gone,), busy=(Full,)))

    def run(self, known: Known = NOTHING_KNOWN, **fields: Any) -> AsyncGenerator[Item]:
        request = FILM.request.model_validate({**FIELDS, **fields})
        return cast("AsyncGenerator[Item]", self.graph.run(request, known))

    async def items(self, known: Known = NOTHING_KNOWN, **fields: Any) -> list[Item]:
        async with aclosing(self.run(known, **fields)) as items:
            return [item async for item in items]


@pytest.fixture
def room(tmp_path: Path, service: TextToVideo) -> Room:
    return Room(tmp_path, service)


def pixels_of(items: list[Item]) -> Pixels:
    return np.concatenate([run.pixels for run in of(Frames, items)])


async def test_it_is_the_service_s_video_with_its_length_told_first(room: Room, service: TextToVideo) -> None:
    items = await room.items()
    assert isinstance(items[0], Fact)
    assert facts(items) == {"frames_total": 10, "seed": 3, "size": "32x16"}
    assert {item.stage for item in of(Progress, items)} == set(FILM.stages)
    assert [(run.first, run.count, run.rate) for run in of(Frames, items)] == [(0, 4, 12), (4, 4, 12), (8, 2, 12)]
    asked = [item async for item in service.generate_video(TextToVideoRequest.model_validate(FIELDS))]
    assert np.array_equal(pixels_of(items), pixels_of(asked))
    assert [(done.stage, done.model) for done in of(StageDone, items)] == [("film", "text-to-video")]


async def test_every_field_reaches_the_service(tmp_path: Path) -> None:
    class Listening:
        def __init__(self) -> None:
            self.heard: list[object] = []

        async def generate_video(
            self, request: TextToVideoRequest, start: int = 0, key: str = ""
        ) -> AsyncGenerator[Item]:
            self.heard += [request, start, key]
            yield Fact("seed", 5)

    service = Listening()
    fields = {
        "prompt": "a goat",
        "negative_prompt": "rain",
        "num_frames": 20,
        "steps": 7,
        "guidance_scale": 4.5,
        "fps": 24,
        "size": "64x48",
        "seed": 5,
    }
    assert (
        fields.keys()
        == TextToVideoRequest.model_fields.keys()
        == FILM.request.model_fields.keys() - {"models", "encoding"}
    )
    await Room(tmp_path, service).items(Known("job", frames=8), **fields)
    assert service.heard == [TextToVideoRequest(**fields), 8, "job"]


@pytest.mark.parametrize("safe", [1, 8, 10])
async def test_it_goes_on_behind_what_is_safe(room: Room, safe: int) -> None:
    whole = pixels_of(await room.items())
    items = await room.items(Known("job", frames=safe))
    runs = of(Frames, items)
    assert [number for run in runs for number in range(run.first, run.stop)] == list(range(safe, 10))
    if runs:
        assert np.array_equal(pixels_of(items), whole[safe:])
    assert facts(items)["frames_total"] == 10


@pytest.mark.parametrize(("again", "log"), [(True, ["stop job", "film job"]), (False, ["film job"])])
async def test_every_replica_is_told_to_stop_before_a_second_run(tmp_path: Path, again: bool, log: list[str]) -> None:
    class Watched:
        def __init__(self) -> None:
            self.log: list[str] = []

        async def stop(self, key: str) -> None:
            self.log.append(f"stop {key}")

        async def generate_video(
            self, request: TextToVideoRequest, start: int = 0, key: str = ""
        ) -> AsyncGenerator[Item]:
            self.log.append(f"film {key}")
            yield Fact("seed", 3)

    service = Watched()
    await Room(tmp_path, service).items(Known("job", is_retry=again))
    assert service.log == log


async def test_what_a_dead_caller_left_running_does_not_go_on(room: Room) -> None:
    async with aclosing(room.run(Known("job"), steps=200)) as left:
        async for item in left:
            if isinstance(item, Progress):
                break
        after = asyncio.create_task(room.items(Known("job", is_retry=True)))
        with pytest.raises(Cancelled):
            async for _ in left:
                pass
        assert sum(run.count for run in of(Frames, await after)) == 10


async def test_closing_ends_the_call(room: Room, service: TextToVideo) -> None:
    async with aclosing(room.run(steps=200)) as items:
        async for item in items:
            if isinstance(item, Progress):
                break
    (call,) = await room.handle.rested()
    assert call.cancelled
    assert not (await service.info()).busy


async def test_the_configuration_s_defaults_fill_what_was_left_out(tmp_path: Path, service: TextToVideo) -> None:
    room = Room(tmp_path, service, num_frames=3, fps=24, steps=1)
    request = FILM.request.model_validate({"prompt": "a boat", "size": "32x16", "steps": 2})
    found = [item async for item in room.graph.run(request)]
    assert facts(found)["frames_total"] == 3
    assert {run.rate for run in of(Frames, found)} == {24}
    assert max(item.total for item in of(Progress, found) if item.stage == "denoise") == 2


async def test_the_service_s_limits_are_told(room: Room) -> None:
    with pytest.raises(LimitExceeded, match="size: at most 184320 pixels, got 1048576"):
        await room.items(size="1024x1024")


@pytest.mark.parametrize(("error", "becomes"), [(Gone, ServiceLost), (Full, ServiceBusy)])
async def test_what_came_before_an_error_is_kept(
    tmp_path: Path, error: type[Exception], becomes: type[Exception]
) -> None:
    class Dying:
        async def generate_video(
            self, request: TextToVideoRequest, start: int = 0, key: str = ""
        ) -> AsyncGenerator[Item]:
            yield Fact("seed", 3)
            raise error

    seen: list[Item] = []
    with pytest.raises(becomes):
        await gathered(Room(tmp_path, Dying()).run(), seen)
    assert facts(seen) == {"frames_total": 10, "seed": 3}


@pytest.mark.parametrize("fields", [{"prompt": ""}, {"prompt": None}, {"image": "a.png"}, {"num_frames": 1}])
def test_what_cannot_be_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(fields))):
        FILM.request.model_validate({**FIELDS, **fields})


@pytest.mark.parametrize(
    ("seconds", "fields", "frames"),
    [
        (2.0, {}, 16),
        (2.0, {"fps": "12"}, 24),
        (0.01, {"fps": 1}, 2),
        *((1.0, {"fps": fps}, 8) for fps in ("nan", "inf", 10**400, 1e9, 0, None, [12], "fast")),
    ],
)
def test_a_length_in_seconds_is_one_in_frames(seconds: float, fields: dict[str, Any], frames: int) -> None:
    assert FILM.request.set_duration(seconds, fields, 16) == {**fields, "num_frames": frames}


def test_it_takes_no_media() -> None:
    assert (FILM.request.MEDIA, FILM.request.REFERENCE) == ({}, "")
    assert sum(FILM.stages.values()) == pytest.approx(1)
