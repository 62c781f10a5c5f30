"""Jobs of the full pipeline and of storyboards: defaults, limits and files in nested objects, missing models."""

from pathlib import Path
from typing import Any

import pytest

from composition.graphs.full_pipeline.request import FullPipelineRequest
from services.errors import InvalidParameter, LimitExceeded, NotFound
from tests.composition.ordering import Counter

FOX = {"prompt": "a fox", "upscale": "false"}


@pytest.fixture
def counter(stocked: Path) -> Counter:
    return Counter(stocked)


@pytest.mark.parametrize(
    ("animate", "frames", "steps"),
    [
        (None, 8, 3),
        (True, 8, 3),
        ("true", 8, 3),
        ({"steps": 5}, 8, 5),
        ('{"num_frames": 4}', 4, 3),
        (False, None, None),
        ("false", None, None),
    ],
)
async def test_defaults_stand_behind_objects_too(counter: Counter, animate: Any, frames: int, steps: int) -> None:
    job = await counter.ordered("full-pipeline", **FOX, animate=animate)
    told = job.params["animate"]
    assert (told and told["num_frames"], told and told["steps"]) == (frames, steps)
    assert job.main == (None if frames else "image")
    assert job.params["size"] == "64x64"
    assert job.params["seed"] >= 0, "it is drawn"


@pytest.mark.parametrize(
    ("fields", "frames"),
    [({"num_frames": 4}, 12), ({"fps": 10}, 20), ({"fps": "nan"}, 12), ({"fps": 10**400}, 12), ({}, 12)],
)
def test_seconds_count_at_the_model_s_own_rate(fields: dict[str, Any], frames: int) -> None:
    assert FullPipelineRequest.set_duration(2, {"animate": fields}, 16)["animate"]["num_frames"] == frames


async def test_seconds_stand_before_the_operator_s_number_and_behind_the_user_s(counter: Counter) -> None:
    assert (await counter.ordered("full-pipeline", seconds="2", **FOX)).params["animate"]["num_frames"] == 12
    job = await counter.ordered("full-pipeline", seconds="2", animate={"num_frames": 4}, **FOX)
    assert job.params["animate"]["num_frames"] == 4
    with pytest.raises(InvalidParameter, match="seconds: must be a number above 0"):
        await counter.ordered("full-pipeline", seconds="long", **FOX)


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"animate": {"num_frames": 31}}, "animate.num_frames", "31 is more than the limit of 30"),
        ({"steps": 51}, "steps", "limit of 50"),
    ],
)
async def test_limits_reach_into_objects(counter: Counter, fields: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(LimitExceeded, match=words) as caught:
        await counter.ordered("full-pipeline", **FOX, **fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "param", "role"),
    [
        ({"upscale": True}, "upscale", "upscale"),
        ({"restyle": "ink"}, "restyle", "restyle"),
        ({"face": "pending"}, "face", "face"),
    ],
)
async def test_what_needs_a_model_that_is_not_there(
    counter: Counter, fields: dict[str, Any], param: str, role: str
) -> None:
    with pytest.raises(InvalidParameter, match=f"{param}: no model for {role} is served here") as caught:
        await counter.ordered("full-pipeline", **{**FOX, **fields})
    assert caught.value.param == param


async def test_what_was_not_asked_for_and_is_not_there_is_left_out(stocked: Path) -> None:
    counter = Counter(stocked)
    job = await counter.ordered("full-pipeline", prompt="a fox")
    assert (job.params["upscale"], job.main) == (None, None)
    alone = Counter(stocked, served=("flux",))
    job = await alone.ordered("full-pipeline", prompt="a fox")
    assert (job.params["animate"], job.params["upscale"], job.main) == (None, None, "image")


def script(face: str) -> dict[str, Any]:
    return {"scenes": [{"scene_number": 1, "description": "a fox", "duration": 1, "face": face}]}


async def test_a_face_inside_a_script_is_looked_up_and_held(stocked: Path) -> None:
    counter = Counter(stocked, served=("flux", "svd", "instantid"))
    job = await counter.ordered("storyboard", script=script(counter.first.id), upscale=False)
    assert job.media == {"script.scenes.1.face": counter.first.key}
    assert job.params["script"]["scenes"][0]["face"] == counter.first.id
    for face, error in (("file_nothing", NotFound), (counter.clip.id, InvalidParameter)):
        with pytest.raises(error) as caught:
            await counter.ordered("storyboard", script=script(face), upscale=False)
        assert caught.value.param == "script.scenes.1.face"


async def test_a_value_that_is_nested_without_end_is_an_error_of_the_caller(counter: Counter) -> None:
    deep: Any = "x"
    for _ in range(995):
        deep = [deep]
    with pytest.raises(InvalidParameter, match="prompt"):
        await counter.ordered("full-pipeline", prompt=deep)
