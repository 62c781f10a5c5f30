"""The gate of a rolling edit: what is made again, what is kept, what is told, and what cannot be asked for."""

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from composition.graphs.rolling_edit.gating import GateReport
from composition.graphs.rolling_edit.request import Gate, RollingEditRequest
from composition.graphs.run import Known
from services.errors import InvalidParameter, ModelFailed, ServiceLost
from services.frames import Fact, Frames, Item, Progress, Scores, Sketch
from services.limits import MAX_SEED
from tests.composition import sample_media as media
from tests.composition.gated import ScoredService
from tests.composition.rolling import EDGES, STEPS, Gone, Room, facts, gathered, of, pictures
from tests.composition.serving import MuteService, noise

Table = Mapping[int, Mapping[str, float | None]]

BAD: Mapping[str, float] = {"edge_loss": 0.9}
GATE: dict[str, Any] = {"edge_loss": 0.8, "lpips_to_init": 0.1}
MIXED: Table = {9: BAD, 12: BAD, 13: {"edge_loss": 0.85}, 14: BAD}
"""Frame 2 is refused once, and no try of frame 5 passes: the second one is the best."""
TOLD = "gate: frame 5: edge_loss above 0.8 after 3 tries"


def open_gated_room(folder: Path, table: Table = MIXED, **more: Any) -> Room:
    return Room(folder, ScoredService(table, **more))


def list_kept_scores(items: Sequence[Item]) -> list[Scores]:
    return [scores for scores in of(Scores, list(items)) if scores.kept]


# What is made again.


async def test_a_refused_frame_is_made_again_with_the_next_seed(tmp_path: Path) -> None:
    room = open_gated_room(tmp_path)
    items = await room.items(gate=GATE)
    assert room.seeds == [8, 9, 10, 10, 11, 12, 13, 14]
    assert [(scores.frame, scores.seed, scores.tries, scores.passed) for scores in list_kept_scores(items)] == [
        (1, 8, 1, True),
        (2, 10, 2, True),
        (3, 10, 1, True),
        (4, 11, 1, True),
        (5, 13, 3, False),
    ]
    refused = [scores for scores in of(Scores, items) if not scores.kept]
    assert [(scores.frame, scores.seed, scores.tries, scores.edge_loss) for scores in refused] == [
        (2, 9, 1, 0.9),
        (5, 12, 1, 0.9),
        (5, 13, 2, 0.85),
    ]
    told = facts(items)
    assert (told["gate_tries"], told["gate_retried"], told["gate_refused"], told["degraded"]) == (8, 2, 1, TOLD)


async def test_each_try_is_made_of_the_kept_frame_before_it(tmp_path: Path) -> None:
    room = open_gated_room(tmp_path)
    frames = of(Frames, await room.items(gate=GATE))
    assert [run.first for run in frames] == list(range(EDGES + 1))
    made_of = [0, 1, 1, 2, 3, 4, 4, 4]
    for asked, before in zip(room.service.asked, made_of, strict=True):
        assert np.array_equal(asked.image.pixels, frames[before].pixels)
    assert room.followed == made_of
    assert len(set(pictures(list(frames)))) == EDGES + 1


async def test_the_scores_and_sketches_of_the_kept_try_stand_before_its_frame(tmp_path: Path) -> None:
    items = await open_gated_room(tmp_path).items(gate=GATE, debug=True)
    shown = [item for item in items if isinstance(item, Frames | Scores | Sketch)]
    last = shown[-6:]
    assert [type(item) for item in last] == [Scores, Scores, Sketch, Sketch, Scores, Frames]
    inverted, frame = last[2], last[5]
    assert isinstance(inverted, Sketch)
    assert isinstance(frame, Frames)
    assert np.array_equal(inverted.picture.pixels, 255 - frame.pixels)
    assert len(of(Sketch, items)) == 2 * EDGES


@pytest.mark.parametrize(
    ("scores", "seed"),
    [
        ([(1.6, 0.05), (1.0, 0.3), (1.2, 0.11)], 10),  # the largest excess of each: 1, 2, 0.5
        ([(0.88, 0.1), (0.8, 0.11), (1.0, 0.1)], 8),  # equal excesses of 0.1: the first
        ([(5.0, 0.05), (1e300, 0.05), (0.9, None)], 10),
    ],
)
async def test_the_best_of_refused_tries_is_kept(
    tmp_path: Path, scores: list[tuple[float | None, float | None]], seed: int
) -> None:
    table: Table = {8 + n: {"edge_loss": edge, "lpips_to_init": lpips} for n, (edge, lpips) in enumerate(scores)}
    (made,) = list_kept_scores(await open_gated_room(tmp_path, table).items(gate=GATE, max_frames=2))
    assert (made.seed, made.tries, made.passed) == (seed, 3, False)


async def test_a_maximum_is_allowed_and_the_next_number_is_not(tmp_path: Path) -> None:
    table: Table = {8: {"edge_loss": float(np.nextafter(0.8, 1))}, 9: {"edge_loss": 0.8}}
    (made,) = list_kept_scores(await open_gated_room(tmp_path, table).items(gate={"edge_loss": 0.8}, max_frames=2))
    assert (made.seed, made.tries, made.passed) == (9, 2, True)


async def test_one_try_only_judges(tmp_path: Path) -> None:
    room = open_gated_room(tmp_path)
    items = await room.items(gate={**GATE, "tries": 1})
    assert room.seeds == [8, 9, 10, 11, 12]
    assert facts(items)["degraded"] == "gate: frames 2, 5: edge_loss above 0.8 after 1 try"
    assert pictures(items) == pictures(await open_gated_room(tmp_path).items())


async def test_behind_the_greatest_seed_comes_0(tmp_path: Path) -> None:
    room = open_gated_room(tmp_path, {MAX_SEED: BAD, 0: BAD})
    await room.items(seed=MAX_SEED - 1, max_frames=3, gate=GATE)
    assert room.seeds == [MAX_SEED, 0, 1, 0, 1]


async def test_without_a_gate_nothing_is_judged(tmp_path: Path) -> None:
    items = await open_gated_room(tmp_path).items()
    assert [(scores.seed, scores.tries, scores.passed, scores.kept) for scores in of(Scores, items)] == [
        (7 + n, 1, None, True) for n in range(1, EDGES + 1)
    ]
    assert {name for name in facts(items) if name.startswith("gate")} == set()


# What is told.


async def test_progress_never_goes_back_and_ends_with_the_total(tmp_path: Path) -> None:
    progress = of(Progress, await open_gated_room(tmp_path).items(gate=GATE))
    assert {item.total for item in progress} == {EDGES * 3 * STEPS}
    done = [item.done for item in progress]
    assert done == sorted(done)
    assert done[-1] == EDGES * 3 * STEPS
    passed_at_once = [item.done for item in of(Progress, await open_gated_room(tmp_path, {}).items(gate=GATE))]
    assert {frame * 3 * STEPS for frame in range(EDGES + 1)} <= set(passed_at_once)


async def test_a_score_that_is_not_measured_is_told_and_does_not_pass(tmp_path: Path) -> None:
    room = open_gated_room(tmp_path, {8: BAD})
    items = await room.items(gate={"edge_loss": 0.8, "gram_loss": 0.1, "lpips_to_prev": 0.4}, max_frames=4)
    assert room.seeds == [8, 9, 9, 10]  # another seed would not measure it either
    assert [scores.passed for scores in list_kept_scores(items)] == [None] * 3
    told = "gate: frames 1-3: gram_loss was not measured; frames 1-3: lpips_to_prev was not measured"
    assert facts(items)["degraded"] == told
    assert facts(items)["gate_refused"] == 0


async def test_a_model_without_scores_is_told(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.handle.deployed = MuteService(Frames(noise(5, 51, 37)[None]))
    items = await room.items(gate=GATE, max_frames=3)
    assert [(scores.frame, scores.passed, scores.seed) for scores in list_kept_scores(items)] == [
        (1, None, 8),
        (2, None, 9),
    ]
    assert "frames 1-2: edge_loss was not measured" in str(facts(items)["degraded"])


async def test_a_model_without_a_picture_fails(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.handle.deployed = MuteService()
    with pytest.raises(ModelFailed, match="frame 1: the model returned no picture"):
        await room.items(gate=GATE)


async def test_a_gate_does_not_hide_another_reason(tmp_path: Path) -> None:
    path = media.count(tmp_path / "a.avi", 120, media.Coding(options={"crf": "10", "bf": "2"}))
    media.spoil(path, range(117, 120))
    room = open_gated_room(tmp_path, {108: BAD, 109: BAD, 110: BAD})  # the seeds of frame 1: 7 + 100 + 1 and the next
    items = await room.items(edge_frames=None, edge_video=str(path), edge_start=100, gate=GATE)
    edges = len(of(Frames, items)) - 1
    (reason,) = (fact.value for fact in of(Fact, items) if fact.name == "degraded")
    assert reason == f"edge_video: ended after {edges} edges; gate: frame 1: edge_loss above 0.8 after 3 tries"


def report_on(gate: Gate, losses: Sequence[float | None], tries: int = 3) -> str:
    report = GateReport(gate)
    for index, loss in enumerate(losses, 1):
        report.add(Scores(index, edge_loss=loss, tries=tries))
    return str(facts(list(report.list_facts())).get("degraded", ""))


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ([], ""),
        ([3], "gate: frame 3: edge_loss above 0.8 after 3 tries"),
        ([3, 7, 8, 9], "gate: frames 3, 7-9: edge_loss above 0.8 after 3 tries"),
        ([1, 2, 4, 5], "gate: frames 1-2, 4-5: edge_loss above 0.8 after 3 tries"),
        (
            list(range(1, 200, 2)),
            "gate: frames 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23 and 88 more: edge_loss above 0.8 after 3 tries",
        ),
    ],
)
def test_frames_are_named_in_a_text_of_limited_length(bad: list[int], told: str) -> None:
    losses = [0.9 if index in bad else 0.8 for index in range(1, 201)]
    assert report_on(Gate(edge_loss=0.8), losses) == told


def test_a_number_that_is_none_was_not_measured() -> None:
    assert report_on(Gate(edge_loss=0.8), [float("nan"), None]) == "gate: frames 1-2: edge_loss was not measured"


# Where it goes on.


@pytest.mark.parametrize("safe", range(1, EDGES + 2))
async def test_it_goes_on_behind_any_frame_as_if_nothing_had_been(tmp_path: Path, safe: int) -> None:
    whole, rest = open_gated_room(tmp_path), open_gated_room(tmp_path)
    expected = await whole.items(gate=GATE)
    last = of(Frames, expected)[safe - 1]
    stored = list_kept_scores(expected)[: safe - 1]
    urls = [rest.picture(last.pixels[0], "last.png")]
    items = await rest.items(Known("job", is_retry=True, frames=safe, frame_urls=urls, frame_scores=stored), gate=GATE)
    assert pictures(items) == pictures(expected)[safe:]
    assert list_kept_scores(items) == list_kept_scores(expected)[safe - 1 :]
    of_the_model = {"lpips"} if safe > EDGES else set[str]()  # it is not called again
    assert facts(items) == {name: value for name, value in facts(expected).items() if name not in of_the_model}
    assert facts(items)["degraded"] == TOLD


@pytest.mark.parametrize("frame", [1, 3])
async def test_a_branch_from_any_frame_with_nothing_changed_is_the_same_video(tmp_path: Path, frame: int) -> None:
    whole, branch = open_gated_room(tmp_path), open_gated_room(tmp_path)
    expected = await whole.items(gate=GATE)
    begin = branch.picture(of(Frames, expected)[frame].pixels[0], "begin.png")
    style = branch.picture(of(Frames, expected)[0].pixels[0], "style.png")
    items = await branch.items(init_frame=begin, style_frame=style, edge_start=frame, gate=GATE)
    assert pictures(items) == pictures(expected)[frame:]
    assert [scores.seed for scores in list_kept_scores(items)] == [
        scores.seed for scores in list_kept_scores(expected)[frame:]
    ]


async def test_closing_while_a_frame_is_made_again_ends_the_call(tmp_path: Path) -> None:
    room = open_gated_room(tmp_path, hanging=2)
    async with aclosing(room.run(room.request(gate=GATE))) as items:
        async for item in items:
            if isinstance(item, Progress) and item.done == 4 * STEPS + 1:  # the second try of frame 2
                break
        assert room.service.working == 1
    calls = await room.handle.rested()
    assert [call.cancelled for call in calls] == [True] * 3
    assert (room.service.working, len(room.service.asked)) == (0, 3)


async def test_a_service_lost_while_a_frame_is_made_again_sends_no_frame(tmp_path: Path) -> None:
    room = open_gated_room(tmp_path, failing={2: Gone()})
    seen: list[Item] = []
    with pytest.raises(ServiceLost):
        await gathered(room.run(room.request(gate=GATE)), seen)
    assert [run.first for run in of(Frames, seen)] == [0, 1]


# What cannot be asked for.


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        ({}, "gate: give at least one maximum: edge_loss, gram_loss, temporal_loss, lpips_to_init, lpips_to_prev"),
        ({"tries": 5}, "gate: give at least one maximum"),
        ({"edge_loss": None}, "gate: give at least one maximum"),
    ],
)
def test_a_gate_without_a_maximum(gate: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        RollingEditRequest(init_frame="a", edge_frames="b", gate=gate)  # pyright: ignore[reportArgumentType]
    assert caught.value.param == "gate"
    assert caught.value.message.startswith(words)


@pytest.mark.parametrize(
    ("gate", "place"),
    [
        ({"edge_loss": 0}, "edge_loss"),
        ({"edge_loss": -1}, "edge_loss"),
        ({"edge_loss": float("nan")}, "edge_loss"),
        ({"lpips_to_prev": float("inf")}, "lpips_to_prev"),
        ({"edge_loss": "much"}, "edge_loss"),
        ({"edge_loss": 1, "tries": 0}, "tries"),
        ({"edge_loss": 1, "tries": 17}, "tries"),
        ({"edge_loss": 1, "tries": 1.5}, "tries"),
        ({"edge_los": 1}, "edge_los"),
        ({"psnr": 1}, "psnr"),
        ({"tries": None, "edge_loss": 1}, "tries"),
    ],
)
def test_fields_that_cannot_be(gate: dict[str, Any], place: str) -> None:
    with pytest.raises(ValidationError) as caught:
        RollingEditRequest(init_frame="a", edge_frames="b", gate=gate)  # pyright: ignore[reportArgumentType]
    assert caught.value.errors()[0]["loc"] == ("gate", place)


def test_a_gate_on_a_score_that_the_model_does_not_measure() -> None:
    asked = RollingEditRequest(init_frame="a", edge_frames="b", gate=Gate(edge_loss=0.8, gram_loss=0.02))
    asked.check_scores({"lpips_to_init": "lpips"})
    with pytest.raises(InvalidParameter) as caught:
        asked.check_scores({"gram_loss": "vgg16"})
    assert caught.value.param == "gate.gram_loss"
    assert caught.value.message == (
        "gate.gram_loss: must not be set, because this model does not measure it: `vgg16` is not configured; got 0.02"
    )
