"""How a rolling edit ends early: it is left, its service fails, or there is too little to begin with."""

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from composition.graphs.rolling_edit.request import RollingEditRequest
from services.errors import (
    InvalidParameter,
    ModelFailed,
    NotFound,
    ReelError,
    ServiceBusy,
    ServiceLost,
    UndecodableMedia,
)
from services.frames import Frames, Item, Progress
from tests.composition import sample_media as media
from tests.composition.media.test_decode import workers
from tests.composition.rolling import EDGES, STEPS, Full, Gone, Room, gathered, of
from tests.composition.serving import EditService


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


# It is left, or its service fails.


@pytest.mark.parametrize("number", [0, 2])
async def test_closing_ends_the_call_and_asks_for_no_more(tmp_path: Path, number: int) -> None:
    room = Room(tmp_path, EditService(hanging=number))
    async with aclosing(room.run(room.request())) as items:
        async for item in items:
            if isinstance(item, Progress) and item.done == number * STEPS + 1:
                break
        assert room.service.working == 1
    calls = await room.handle.rested()
    assert [call.cancelled for call in calls] == [True] * (number + 1)
    assert (room.service.working, len(room.service.asked)) == (0, number + 1)
    assert workers() == []


async def test_cancelling_while_a_frame_is_made_ends_the_call(tmp_path: Path) -> None:
    room = Room(tmp_path, EditService(hanging=1))
    task = asyncio.create_task(room.items())
    await room.service.hangs.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await room.handle.rested()
    assert (room.service.working, len(room.service.asked)) == (0, 2)
    assert workers() == []


@pytest.mark.parametrize(
    ("error", "becomes"),
    [(ModelFailed("out of memory"), ModelFailed), (Gone(), ServiceLost), (Full(), ServiceBusy), (OSError(), OSError)],
)
async def test_an_error_at_a_frame_ends_the_stream_behind_the_one_before(
    tmp_path: Path, error: Exception, becomes: type[Exception]
) -> None:
    room = Room(tmp_path, EditService(failing={2: error}))
    seen: list[Item] = []
    with pytest.raises(becomes) as caught:
        await gathered(room.run(room.request()), seen)
    assert error in (caught.value, caught.value.__cause__)
    assert [run.first for run in of(Frames, seen)] == [0, 1, 2]
    assert len(room.service.asked) == 3
    assert workers() == []


# What there is too little of.


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        (
            {"edge_start": EDGES},
            "edge_start",
            "edge_start: must be less than the number of edges (5), got 5",
        ),
        (
            {"max_frames": EDGES + 2},
            "max_frames",
            "max_frames: 7 frames need 6 edges, and there are 5",
        ),
        (
            {"max_frames": EDGES, "edge_start": 2},
            "max_frames",
            "max_frames: 5 frames need 4 edges, and there are 3 from edge 2 on",
        ),
    ],
)
async def test_too_few_edges(room: Room, fields: dict[str, int], param: str, message: str) -> None:
    """Said by the graph, and over HTTP before there is a job."""
    seen: list[Item] = []
    request = room.request(**fields)
    with pytest.raises(InvalidParameter) as caught:
        await gathered(room.run(request), seen)
    assert (caught.value.param, caught.value.message, seen) == (param, message, [])
    with pytest.raises(InvalidParameter) as caught:
        request.check_media({"init_frame": 1, "edge_frames": EDGES})
    assert (caught.value.param, caught.value.message) == (param, message)
    assert (room.service.asked, workers()) == ([], [])


def test_as_many_edges_as_are_needed(room: Room) -> None:
    room.request(max_frames=EDGES + 1).check_media({"init_frame": 1, "edge_frames": EDGES})
    room.request(edge_start=EDGES - 1).check_media({"init_frame": 1, "edge_frames": EDGES})
    both = room.request(rgb_video="b", max_frames=EDGES + 1)
    both.check_media({"init_frame": 1, "rgb_video": 1, "edge_frames": EDGES})


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({}, "edge_frames", "there are no edges; give edge_frames, edge_video or rgb_video"),
        ({"init_frame": "a"}, "edge_frames", "there are no edges"),
        ({"edge_frames": "a"}, "init_frame", "there is no first frame; give init_frame or rgb_video"),
        ({"edge_video": "a"}, "init_frame", "there is no first frame"),
        (
            {"init_frame": "a", "edge_frames": "b", "edge_video": "c"},
            "edge_video",
            "give either this or edge_frames, not both",
        ),
    ],
)
def test_a_request_without_what_it_takes(fields: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        RollingEditRequest(**fields)
    assert caught.value.param == param
    assert caught.value.message.startswith(f"{param}: {words}")


@pytest.mark.parametrize(
    "fields",
    [
        {"max_frames": 0},
        {"edge_start": -1},
        {"fps": 0},
        {"fps": 241},
        {"fps": float("nan")},
        {"edge_filter": "canny"},
        {"steps": 1},
        {"branch_from": {"video": "v", "frame": -1}},
        {"branch_from": {"video": "v"}},
        {"branch_from": {"video": "v", "frame": 0, "edge": 1}},
        {"size": "64x64"},
    ],
)
def test_fields_that_cannot_be(fields: dict[str, Any]) -> None:
    RollingEditRequest(init_frame="a", edge_frames="b")
    with pytest.raises(ValidationError) as caught:
        RollingEditRequest(init_frame="a", edge_frames="b", **fields)
    assert caught.value.errors()[0]["loc"][0] == next(iter(fields))


async def test_media_that_are_not_there_or_are_none(room: Room) -> None:
    text, _ = media.bad("text.mp4", room.folder)
    cases: list[tuple[dict[str, Any], type[ReelError]]] = [
        ({"init_frame": "/none.png"}, NotFound),
        ({"edge_frames": "/none.zip"}, NotFound),
        ({"init_frame": str(text)}, UndecodableMedia),
        ({"edge_frames": None, "edge_video": str(text)}, UndecodableMedia),
    ]
    for fields, kind in cases:
        with pytest.raises(kind):
            await room.items(**fields)
    assert (room.service.asked, workers()) == ([], [])
