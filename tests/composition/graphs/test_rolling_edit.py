"""The rolling edit: which frame is made of what, how it is told, and where it goes on."""

from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from composition.graphs.run import Known
from services.frames import Fact, Frames, Progress, Scores, Sketch, StageDone
from services.limits import MAX_SEED
from tests.composition import sample_media as media
from tests.composition.media.test_decode import workers
from tests.composition.rolling import EDGES, FIRST, STEPS, Room, facts, of, pictures
from tests.composition.serving import flipped

MJPEG = media.Coding("mjpeg", "yuvj420p", form="avi", tagged=False)


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


# What is made of what.


async def test_each_frame_is_made_of_the_one_before_and_of_its_edge(room: Room) -> None:
    items = await room.items(prompt="a boat", max_area=64 * 64, ttlg={"lr": 0.5}, known=Known("job"))
    frames = of(Frames, items)
    assert np.array_equal(frames[0].pixels[0], FIRST)
    assert [(run.first, run.count, run.rate) for run in frames] == [(n, 1, Fraction(16)) for n in range(EDGES + 1)]
    asked = room.service.asked
    assert len(asked) == EDGES
    for before, one in zip(frames, asked, strict=False):
        assert np.array_equal(one.image.pixels, before.pixels)
        assert one.first is not None
        assert np.array_equal(one.first.pixels[0], FIRST)
        assert (one.request.prompt, one.request.steps, one.request.max_area) == ("a boat", STEPS, 64 * 64)
        assert (one.request.ttlg.lr, one.request.edge_filter, one.request.size, one.key) == (0.5, "none", None, "job")
    assert room.followed == list(range(EDGES))
    assert room.seeds == [8, 9, 10, 11, 12]
    assert len(set(pictures(items))) == EDGES + 1
    assert room.service.stopped == []


async def test_a_seed_that_is_drawn_is_told_and_counts_like_a_given_one(room: Room) -> None:
    told = facts(await room.items(seed=-1, max_frames=3))["seed"]
    assert isinstance(told, int)
    assert 0 <= told < 2**53
    assert room.seeds == [told + 1, told + 2]
    assert facts(await room.items(seed=-1, max_frames=1))["seed"] != told


async def test_behind_the_greatest_seed_comes_0(room: Room) -> None:
    await room.items(seed=MAX_SEED - 1, max_frames=4)
    assert room.seeds == [MAX_SEED, 0, 1]


@pytest.mark.parametrize("most", [1, 2, EDGES + 1])
async def test_max_frames_counts_the_first(room: Room, most: int) -> None:
    items = await room.items(max_frames=most)
    assert len(of(Frames, items)) == most == facts(items)["frames_total"]
    assert len(room.service.asked) == most - 1
    assert "degraded" not in facts(items)


@pytest.mark.parametrize(("start", "most", "followed"), [(2, None, [2, 3, 4]), (1, 3, [1, 2]), (4, 2, [4])])
async def test_edges_before_edge_start_are_passed_over(
    room: Room, start: int, most: int | None, followed: list[int]
) -> None:
    frames = of(Frames, await room.items(edge_start=start, max_frames=most))
    assert room.followed == followed
    assert room.seeds == [7 + 1 + number for number in followed]
    assert [run.first for run in frames] == list(range(len(followed) + 1))
    assert np.array_equal(frames[0].pixels[0], FIRST)


async def test_damage_that_edges_have_is_told(room: Room) -> None:
    video = media.clip(room.folder / "a.avi", [media.numbered(n) for n in range(8)], coding=MJPEG)
    media.spoil(video, [3, 4])
    items = await room.items(edge_frames=None, edge_video=str(video))
    assert str(facts(items)["degraded"]).startswith("edge_video: ")
    assert len(of(Frames, items)) == facts(items)["frames_total"]


@pytest.mark.parametrize(
    ("field", "asked", "filtered", "rate"),
    [
        ("edge_video", {}, "none", Fraction(12)),
        ("edge_video", {"edge_filter": "laplacian", "fps": 29.97}, "laplacian", Fraction(2997, 100)),
        ("rgb_video", {}, "sobel", Fraction(12)),
        ("rgb_video", {"edge_filter": "none"}, "none", Fraction(12)),
        ("edge_frames", {"edge_filter": "sobel", "fps": 5}, "sobel", Fraction(5)),
    ],
)
async def test_where_edges_come_from(
    room: Room, field: str, asked: dict[str, Any], filtered: str, rate: Fraction
) -> None:
    place = room.edges() if field == "edge_frames" else str(media.count(room.folder / "a.mp4", 4, rate=12))
    fields: dict[str, Any] = {"edge_frames": None, field: place, "max_frames": 4, **asked}
    items = await room.items(**fields)
    assert room.followed == [0, 1, 2]
    assert {one.request.edge_filter for one in room.service.asked} == {filtered}
    assert {run.rate for run in of(Frames, items)} == {rate}
    assert np.array_equal(of(Frames, items)[0].pixels[0], FIRST)


async def test_an_ordinary_video_gives_the_first_frame_where_none_is_given(room: Room) -> None:
    video = str(media.clip(room.folder / "a.mp4", [media.numbered(n) for n in (9, 8, 7)]))
    frames = of(Frames, await room.items(init_frame=None, edge_frames=None, rgb_video=video))
    assert media.number_of(frames[0].pixels[0]) == 9
    assert room.followed == [9, 8, 7]
    assert len(frames) == 4
    beside = Room(room.folder)
    frames = of(Frames, await beside.items(init_frame=None, rgb_video=video))
    assert media.number_of(frames[0].pixels[0]) == 9
    assert beside.followed == list(range(EDGES))
    assert {one.request.edge_filter for one in beside.service.asked} == {"none"}


async def test_the_configuration_fills_what_is_left_out(tmp_path: Path) -> None:
    room = Room(tmp_path, steps=9, max_frames=2, prompt="by default")
    items = await room.items(steps=4)
    assert [(one.request.steps, one.request.prompt) for one in room.service.asked] == [(4, "by default")]
    assert facts(items)["frames_total"] == 2


# How it is told.


async def test_scores_and_sketches_stand_before_their_frame_and_bear_its_number(room: Room) -> None:
    items = await room.items(debug=True)
    shown = [item for item in items if isinstance(item, Frames | Scores | Sketch)]
    told = [(type(item), item.first if isinstance(item, Frames) else item.frame) for item in shown]
    one = [Sketch, Sketch, Scores, Frames]
    assert told == [(Frames, 0)] + [(kind, n) for n in range(1, EDGES + 1) for kind in one]
    for inverted, mirrored, scores, frame in zip(*(shown[1 + place :: 4] for place in range(4)), strict=True):
        assert isinstance(inverted, Sketch)
        assert isinstance(mirrored, Sketch)
        assert isinstance(scores, Scores)
        assert isinstance(frame, Frames)
        assert (inverted.name, mirrored.name) == ("inverted", "mirrored")
        assert np.array_equal(inverted.picture.pixels, 255 - frame.pixels)
        assert np.array_equal(mirrored.picture.pixels, flipped(frame.pixels))
        before = room.service.asked[frame.first - 1].image.pixels
        assert scores.edge_loss == np.abs(frame.pixels.astype(int) - before).mean()
        assert scores.lpips_to_init == np.abs(frame.pixels.astype(int) - FIRST).mean()
        assert (scores.temporal_loss, scores.lpips_to_prev) == (None, None)


async def test_without_debug_there_are_no_sketches(room: Room) -> None:
    assert of(Sketch, await room.items()) == []


async def test_progress_goes_over_the_whole_video(room: Room) -> None:
    progress = of(Progress, await room.items(max_frames=4))
    assert {(item.stage, item.total) for item in progress} == {("edit", 3 * STEPS)}
    done = [item.done for item in progress]
    assert done == sorted(done)
    assert set(done) == set(range(3 * STEPS + 1))


async def test_what_every_call_says_is_said_once(room: Room) -> None:
    items = await room.items()
    told = [(fact.name, fact.value) for fact in of(Fact, items)]
    assert told == [("seed", 7), ("frames_total", EDGES + 1), ("lpips", "random weights")]
    stages = of(StageDone, items)
    assert [(stage.replica, stage.seconds) for stage in stages] == [("replica 0", 1.5), ("replica 1", 1.0)]
    assert {(stage.stage, stage.model) for stage in stages} == {("edit", "qwen-edit")}
    assert items[-3:-1] == stages
    assert isinstance(items[-1], Frames), "the frame that completes the video follows the stages"


async def test_edges_that_end_early_make_a_shorter_video_that_says_so(room: Room) -> None:
    # More frames than are examined when a file is opened: the frames of an AVI file are counted while they are read.
    path = media.count(room.folder / "a.avi", 120, media.Coding(options={"crf": "10", "bf": "2"}))
    media.spoil(path, range(117, 120))
    items = await room.items(edge_frames=None, edge_video=str(path))
    edges = len(room.service.asked)
    assert 116 <= edges < 120
    assert len(of(Frames, items)) == edges + 1
    assert [fact.value for fact in of(Fact, items) if fact.name == "frames_total"] == [121, edges + 1]
    assert facts(items)["degraded"] == f"edge_video: ended after {edges} edges"
    assert workers() == []


# Where it goes on.


@pytest.mark.parametrize("safe", range(1, EDGES + 2))
async def test_it_goes_on_behind_any_frame_as_if_nothing_had_been(tmp_path: Path, safe: int) -> None:
    whole, rest = Room(tmp_path), Room(tmp_path)
    expected = await whole.items(debug=True)
    last = of(Frames, expected)[safe - 1]
    known = Known("job", is_retry=True, frames=safe, frame_urls=[rest.picture(last.pixels[0], "last.png")])
    items = await rest.items(known, debug=True)
    assert rest.service.stopped == ["job"]
    assert rest.seeds == whole.seeds[safe - 1 :]
    assert rest.followed == list(range(safe - 1, EDGES))
    assert [run.first for run in of(Frames, items)] == list(range(safe, EDGES + 1))
    assert pictures(items) == pictures(expected)[safe:]
    assert of(Scores, items) == of(Scores, expected)[safe - 1 :]
    assert [sketch.frame for sketch in of(Sketch, items)] == [n for n in range(safe, EDGES + 1) for _ in range(2)]
    assert facts(items)["frames_total"] == EDGES + 1
    assert [item.done for item in of(Progress, items)][:1] == [(safe - 1) * STEPS][: EDGES + 1 - safe]


@pytest.mark.parametrize("frame", [1, 3, 4])
@pytest.mark.parametrize("gram_scale", [0.0, 1.0])
async def test_a_branch_from_any_frame_with_nothing_changed_is_the_same_video(
    tmp_path: Path, frame: int, gram_scale: float
) -> None:
    whole, branch = Room(tmp_path), Room(tmp_path)
    ttlg = {"gram_scale": gram_scale}
    expected = await whole.items(ttlg=ttlg)
    begin = branch.picture(of(Frames, expected)[frame].pixels[0], "begin.png")
    style = branch.picture(FIRST, "style.png")
    items = await branch.items(init_frame=begin, style_frame=style, edge_start=frame, ttlg=ttlg)
    assert branch.seeds == whole.seeds[frame:]
    assert branch.followed == whole.followed[frame:]
    assert [run.first for run in of(Frames, items)] == list(range(EDGES + 1 - frame))
    assert pictures(items) == pictures(expected)[frame:]


VARYING = (0, 2, 3, 33, 34)
"""Times of the edge frames of a video with a variable frame rate, in thirtieths of a second; the last one lasts one."""


@pytest.mark.parametrize("start", [0, 2])
async def test_a_frame_is_shown_as_long_as_its_edge_picture(room: Room, tmp_path: Path, start: int) -> None:
    pixels = [media.numbered(n) for n in range(EDGES)]
    video = str(media.clip(tmp_path / "edges.mp4", pixels, 30, media.PLAIN, VARYING))
    fields: dict[str, Any] = {"edge_frames": None, "edge_video": video, "edge_start": start}
    frames = of(Frames, await room.items(**fields))
    pause = 1 / frames[0].rate
    begins = [Fraction(0), *(pause + Fraction(time - VARYING[start], 30) for time in VARYING[start:])]
    assert [run.list_times() for run in frames] == list(pairwise([*begins, begins[-1] + Fraction(1, 30)]))
    later = of(Frames, await room.items(known=Known("job", frames=2, frame_urls=["", room.picture(FIRST)]), **fields))
    assert [(run.first, run.times) for run in later] == [(run.first, run.times) for run in frames[2:]]
    assert {run.times for run in of(Frames, await room.items(fps=10, **fields))} == {None}
