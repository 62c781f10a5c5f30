"""The full pipeline's graph: which stages run, with what, and what comes out in which order."""

from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from composition.graphs.full_pipeline import GRAPH
from composition.graphs.full_pipeline.request import FullPipelineRequest
from composition.graphs.run import Known
from services.errors import InvalidParameter, ModelFailed, ServiceBusy, ServiceLost
from services.frames import Frames, Item, Progress, Result, StageDone
from tests.composition.rolling import Full, Gone, facts, gathered, of
from tests.composition.studio import FRAMES, MODELS, ROLES, Room, Studio

ALL: dict[str, Any] = {"restyle": {"prompt": "watercolour"}, "loras": ["snow", "ink:0.5"]}


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def models_of(items: list[Item]) -> list[str]:
    return [stage.model for stage in of(StageDone, items)]


def named(items: list[Item], name: str) -> list[Frames]:
    return [result.frames for result in of(Result, items) if result.name == name]


async def test_every_stage_runs_on_what_the_one_before_it_made(room: Room) -> None:
    items = await room.items(face=room.face(), **ALL)
    assert sorted(models_of(items)) == sorted(MODELS)
    painted, image = named(items, "painted"), named(items, "image")
    assert (len(painted), len(image)) == (1, 1)
    assert not np.array_equal(painted[0].pixels, image[0].pixels)
    frames = of(Frames, items)
    assert [frame.first for frame in frames] == list(range(FRAMES))
    assert {(frame.count, frame.rate) for frame in frames} == {(1, 6)}
    large = named(items, "hd")
    assert [(run.first, run.count) for run in large] == [(0, 4), (4, 4), (8, 2)]
    for run in large:
        given = np.concatenate([frame.pixels for frame in frames[run.first : run.stop]])
        assert np.array_equal(run.pixels[:, ::2, ::2] ^ np.uint8(run.count), given)
    assert facts(items)["seed"] == 7
    assert (facts(items)["video_size"], facts(items)["video_canvas"]) == ("60x40", "64x64")
    assert {
        stage.seed for stage in (*room.studio.of("flux"), *room.studio.of("svd"), *room.studio.of("hunyuan-dit"))
    } == {7}
    assert room.handles["flux"].preferred == ["ink+snow"]


async def test_a_pose_is_none_that_of_the_photo_or_of_another_picture(room: Room) -> None:
    face = room.face()
    fields: dict[str, Any] = {"animate": False, "face": face}
    poses: list[dict[str, Any]] = [{}, {"face_pose": "none"}, {"face_pose": "photo"}, {"face_pose": face}]
    for pose in poses:
        items = await room.items(**fields, **pose)
        finds = 2 if pose == {"face_pose": face} else 1
        assert models_of(items).count("instantid") == finds
        assert facts(items)["faces"] == 1
    assert [pose is not None for pose in room.studio.poses] == [False, False, True, True]


def test_a_pose_without_a_face_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="face_pose: must be none or photo without a face or an identity"):
        FullPipelineRequest(prompt="x", face_pose="file_1")
    assert FullPipelineRequest(prompt="x", face_pose="photo").wants.keys() == {"animate", "upscale"}
    assert FullPipelineRequest(prompt="x", face="file_1", face_pose="file_2").wants["face_pose"] == "face"


@pytest.mark.parametrize(
    ("fields", "models", "main"),
    [
        ({"animate": False}, ["flux"], "image"),
        ({"animate": False, "upscale": {"scale": 3}}, ["flux", "realesrgan"], "image"),
        ({"upscale": False}, ["flux", "svd"], "video"),
        ({"restyle": "ink"}, ["flux", "hunyuan-dit", "svd", "realesrgan"], "hd"),
        ({"animate": "false", "upscale": "false", "restyle": '{"prompt": "ink"}'}, ["flux", "hunyuan-dit"], "image"),
        ({"animate": "true", "upscale": "true"}, ["flux", "svd", "realesrgan"], "hd"),
    ],
)
async def test_each_stage_can_be_left_out(room: Room, fields: dict[str, Any], models: list[str], main: str) -> None:
    given = {"upscale": None, **fields} if "upscale" not in fields and fields.get("animate") is False else fields
    request = room.request(**given)
    items = await room.items(**given)
    assert sorted(set(models_of(items))) == sorted(models)
    assert request.main_variant == main
    assert abs(sum(request.stage_shares(GRAPH.stages).values()) - 1) < 1e-9
    told = {item.stage for item in of(Progress, items)}
    assert told <= set(request.stage_shares(GRAPH.stages))
    if main == "image":
        assert not of(Frames, items)
    if fields.get("animate") is False and "upscale" in fields:
        assert named(items, "hd")[0].width == 96


async def test_a_strength_of_nothing_is_no_face_and_faces_differ(room: Room) -> None:
    async def painted(**fields: Any) -> bytes:
        return named(await room.items(animate=False, upscale=False, **fields), "image")[0].pixels.tobytes()

    plain, ann, bob = await painted(), await painted(face=room.face(1)), await painted(face=room.face(2))
    assert len({plain, ann, bob}) == 3
    assert await painted(face=room.face(1)) == ann


@pytest.mark.parametrize("missing", ["instantid", "hunyuan-dit", "svd", "realesrgan"])
async def test_a_model_that_is_not_served_is_named(tmp_path: Path, missing: str) -> None:
    room = Room(tmp_path, models=tuple(model for model in MODELS if model != missing))
    with pytest.raises(InvalidParameter, match=f"no model for {ROLES[missing]} is served here"):
        await room.items(face=room.face(), restyle="ink")
    assert room.studio.asked == []


async def test_what_is_known_is_not_made_again(room: Room, tmp_path: Path) -> None:
    whole = await room.items(**ALL)
    image, frames = named(whole, "image")[0], of(Frames, whole)
    kept = [str(tmp_path / f"{number}.png") for number in range(6)]
    for path, frame in zip(kept, frames, strict=False):
        _write(path, frame)
    _write(str(tmp_path / "image.png"), image)
    before = len(room.studio.asked)
    known = Known("job", True, {}, 6, kept, {"hd": 2}, {"image": str(tmp_path / "image.png")})
    items = await room.items(known, **ALL)
    assert {model for model, _ in room.studio.asked[before:]} == {"svd", "realesrgan"}
    assert [frame.first for frame in of(Frames, items)] == list(range(6, FRAMES))
    again, large = named(items, "hd"), named(whole, "hd")
    assert [run.first for run in again] == [0, 4, 8], "runs begin where they always do"
    assert [run.pixels.tobytes() for run in again] == [run.pixels.tobytes() for run in large]
    assert named(items, "image") == []
    assert room.studio.stopped.count("job") == len(MODELS)


async def test_frames_that_are_all_kept_are_not_animated_again(room: Room, tmp_path: Path) -> None:
    whole = await room.items()
    kept = [str(tmp_path / f"{number}.png") for number in range(FRAMES)]
    for path, frame in zip(kept, of(Frames, whole), strict=True):
        _write(path, frame)
    _write(str(tmp_path / "image.png"), named(whole, "image")[0])
    before = len(room.studio.asked)
    known = Known("job", True, {}, FRAMES, kept, {"hd": 0}, {"image": str(tmp_path / "image.png")})
    items = await room.items(known)
    assert {model for model, _ in room.studio.asked[before:]} == {"realesrgan"}
    assert [run.pixels.tobytes() for run in named(items, "hd")] == [run.pixels.tobytes() for run in named(whole, "hd")]


async def test_a_restyle_goes_on_from_the_painted_picture(room: Room, tmp_path: Path) -> None:
    whole = await room.items(restyle="ink", animate=False, upscale=False)
    _write(str(tmp_path / "painted.png"), named(whole, "painted")[0])
    before = len(room.studio.asked)
    known = Known("job", True, picture_urls={"painted": str(tmp_path / "painted.png")})
    items = await room.items(known, restyle="ink", animate=False, upscale=False)
    assert [model for model, _ in room.studio.asked[before:]] == ["hunyuan-dit"]
    assert np.array_equal(named(items, "image")[0].pixels, named(whole, "image")[0].pixels)


@pytest.mark.parametrize(
    ("place", "error", "becomes"),
    [
        ("flux:0", Gone(), ServiceLost),
        ("hunyuan-dit:0", Full(), ServiceBusy),
        ("svd:0", Gone(), ServiceLost),
        ("window:6", Gone(), ServiceLost),
        ("run:4", ModelFailed("no memory"), ModelFailed),
        ("instantid:0", InvalidParameter("face: there is no face in this picture", param="face"), InvalidParameter),
    ],
)
async def test_an_error_ends_all_and_leaves_nothing_running(
    tmp_path: Path, place: str, error: Exception, becomes: type[Exception]
) -> None:
    room = Room(tmp_path, Studio({place: error}))
    seen: list[Item] = []
    with pytest.raises(becomes):
        await gathered(room.run(room.request(face=room.face(), **ALL)), seen)
    await room.rested()
    if place == "window:6":
        assert [frame.first for frame in of(Frames, seen)] == list(range(6)), "what came before is kept"


async def test_leaving_in_the_middle_ends_all_calls(room: Room) -> None:
    async with aclosing(room.run(room.request())) as items:
        async for item in items:
            if isinstance(item, Frames):
                break
    await room.rested()
    assert all(call.cancelled for handle in room.handles.values() for call in handle.calls)


async def test_defaults_stand_behind_what_is_given(tmp_path: Path) -> None:
    room = Room(tmp_path, animate={"num_frames": 5, "steps": 2}, steps=3, restyle={"strength": 0.25, "prompt": "oil"})
    await room.items(animate={"fps": 12}, upscale=False, restyle={"prompt": "ink"})
    (svd,), (flux,), (hunyuan,) = (room.studio.of(model) for model in ("svd", "flux", "hunyuan-dit"))
    assert (svd.num_frames, svd.steps, svd.fps) == (5, 2, 12)
    assert flux.steps == 3
    assert (hunyuan.strength, hunyuan.prompt) == (0.25, "ink")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prompt": ""}, "prompt"),
        ({"animate": {"prompt": "a dog"}}, "not supported"),
        ({"animate": {"num_frames": 1}}, "num_frames"),
        ({"upscale": {"scale": 9}}, "scale"),
        ({"restyle": {"strength": 2, "prompt": "x"}}, "strength"),
        ({"restyle": {}}, "prompt"),
        ({"identity": {"embedding": [1.0]}}, "embedding"),
        ({"animate": "maybe"}, "animate"),
        ({"loras": [{"name": "a", "weight": 99}]}, "weight"),
        ({"n": 2}, "n"),
    ],
)
def test_what_cannot_be(fields: dict[str, Any], words: str) -> None:
    with pytest.raises((ValidationError, InvalidParameter), match=words):
        FullPipelineRequest.model_validate({"prompt": "a fox", **fields})


def test_seconds_become_frames_at_the_rate_that_is_told() -> None:
    assert FullPipelineRequest.set_duration(2.0, {}, 16)["animate"] == {"num_frames": 12}
    assert FullPipelineRequest.set_duration(2.0, {"animate": {"fps": 10}}, 16)["animate"] == {
        "num_frames": 20,
        "fps": 10,
    }
    assert FullPipelineRequest.set_duration(2.0, {"animate": False}, 16) == {"animate": False}


def _write(path: str, frame: Frames) -> None:
    from composition.media.encode import encode_png

    Path(path).write_bytes(encode_png(frame.pixels[0]))
