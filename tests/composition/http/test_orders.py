"""From a request body to a job: defaults, validation and stored media."""

import base64
from typing import Any

import pytest

from composition.records.store import Page
from services.errors import InvalidParameter, LimitExceeded, NotFound, ReelError, UndecodableMedia
from tests.composition import albums
from tests.composition import sample_media as media
from tests.composition.ordering import EDGES, Counter


async def test_a_body_becomes_a_job_that_is_not_stored_yet(counter: Counter) -> None:
    job = await counter.edit(prompt="a boat", ttlg={"lr": "0.5"}, fps="12.5")
    assert (job.owner, job.model) == ("ann", "rolling-edit")
    assert job.id.startswith("video_")
    assert (job.params["prompt"], job.params["ttlg"]["lr"], job.params["fps"]) == ("a boat", 0.5, 12.5)
    assert (job.params["init_frame"], job.params["edge_frames"]) == (counter.first.id, counter.edges.id)
    assert job.media == {"init_frame": counter.first.key, "edge_frames": counter.edges.key}
    with pytest.raises(NotFound):
        counter.store.get_job(job.id)


async def test_a_job_s_fields_are_complete_and_its_seed_is_drawn(counter: Counter) -> None:
    seeds = {(await counter.edit(seed=-1)).params["seed"] for _ in range(3)}
    assert len(seeds) == 3
    assert all(0 <= seed < 2**53 for seed in seeds)
    job = await counter.edit(seed="7")
    again = await counter.edit(**{name: value for name, value in job.params.items() if value is not None})
    assert again.params == job.params
    assert job.params["seed"] == 7


async def test_media_that_come_with_the_body_are_kept(counter: Counter) -> None:
    data = base64.b64encode(albums.numbered(9)).decode()
    given: dict[str, Any] = {"init_frame": None, "input_reference": f"data:image/png;base64,{data}"}
    job = await counter.edit(**given, edge_frames=[counter.first.id, counter.first.id])
    first = counter.store.get_file(job.params["init_frame"], "ann")
    assert job.media["init_frame"] == first.key
    assert counter.data(first) == albums.numbered(9)
    assert counter.store.get_file(job.params["edge_frames"], "ann").facts["frames"] == 2


async def test_the_configuration_s_defaults_are_each_model_s(counter: Counter) -> None:
    assert (await counter.edit()).params["steps"] == 4
    assert (await counter.edit(steps=5)).params["steps"] == 5
    assert (await counter.video()).params["steps"] == 40


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 21}, "steps: 21 is more than the limit of 20"),
        ({"max_area": 8192}, "max_area: 8192 is more than the limit of 4096"),
    ],
)
async def test_limits_name_the_field_the_value_and_the_limit(
    counter: Counter, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(LimitExceeded) as caught:
        await counter.edit(**fields)
    assert (caught.value.param, caught.value.message) == (next(iter(fields)), message)


async def test_limits_are_each_model_s(counter: Counter) -> None:
    assert (await counter.video(steps=21, num_frames=17)).params["steps"] == 21
    with pytest.raises(LimitExceeded, match="num_frames: 21 is more than the limit of 17"):
        await counter.video(num_frames=21)
    with pytest.raises(LimitExceeded, match="size: 128x64 has 8192 pixels, and the limit is 4096") as caught:
        await counter.video(num_frames=17, size="128x64")
    assert caught.value.param == "size"
    at_the_limit = await counter.edit(steps=20, max_area=4096)
    assert (at_the_limit.params["steps"], at_the_limit.params["max_area"]) == (20, 4096)


@pytest.mark.parametrize(
    ("seconds", "frames"), [("1", 17), (0.5, 9), ("0.01", 5), (1.1, 17), (1.2, 21), ("2", 33), (1e-9, 5)]
)
async def test_seconds_are_read_as_frames(counter: Counter, seconds: object, frames: int) -> None:
    free = Counter(counter.folder, limits={})
    assert (await free.video(seconds=seconds)).params["num_frames"] == frames
    assert (await free.video(seconds=seconds, num_frames=13)).params["num_frames"] == 13


async def test_a_model_whose_length_lies_in_its_edges_has_no_seconds(counter: Counter) -> None:
    with pytest.raises(InvalidParameter, match="seconds: there is no such field"):
        await counter.edit(seconds=2)


@pytest.mark.parametrize("seconds", ["", "long", 0, -1, 3600, "nan", "inf", [4], {}])
async def test_seconds_that_cannot_be(counter: Counter, seconds: object) -> None:
    with pytest.raises(InvalidParameter, match="seconds: must be a number above 0 and below 3600, got ") as caught:
        await counter.video(seconds=seconds)
    assert caught.value.param == "seconds"


@pytest.mark.parametrize(
    ("fields", "kind", "param", "words"),
    [
        ({"model": "sora-2"}, InvalidParameter, "model", "must be one of v2v, rolling-edit"),
        ({"model": None}, InvalidParameter, "model", "must be one of v2v, rolling-edit"),
        ({"steps": "many"}, InvalidParameter, "steps", "input should be a valid integer"),
        ({"prompts": "x"}, InvalidParameter, "prompts", "there is no such field; did you mean prompt?"),
        ({"ttlg": {"lr": 0}}, InvalidParameter, "ttlg.lr", "input should be greater than 0, got 0"),
        ({"gate": {"edge_loss": 0}}, InvalidParameter, "gate.edge_loss", "input should be greater than 0, got 0"),
        ({"gate": {"tries": 5}}, InvalidParameter, "gate", "give at least one maximum: edge_loss, "),
        ({"gate": {"edge_los": 1}}, InvalidParameter, "gate.edge_los", "there is no such field"),
        ({"gate": {"edge_loss": 1, "tries": 17}}, InvalidParameter, "gate.tries", "input should be less than"),
        (
            {"gate": {"lpips_to_prev": 0.4}},
            InvalidParameter,
            "gate.lpips_to_prev",
            "must not be set, because this model does not measure it: `lpips` is not configured; got 0.4",
        ),
        ({"gate": "{"}, InvalidParameter, "gate", "must be a JSON object"),
        ({"gate": 3}, InvalidParameter, "gate", "input should be a valid dictionary"),
        ({"ttlg": {"start_step": 4}}, InvalidParameter, "ttlg.start_step", "must be below steps, got 4 of 4 steps"),
        ({"edge_frames": None}, InvalidParameter, "edge_frames", "there are no edges"),
        ({"init_frame": None}, InvalidParameter, "init_frame", "there is no first frame"),
        ({"edge_video": "file_x"}, InvalidParameter, "edge_video", "give either this or edge_frames"),
        ({"input_reference": "file_x"}, InvalidParameter, "init_frame", "give either this or input_reference"),
        ({"max_frames": EDGES + 2}, InvalidParameter, "max_frames", "6 frames need 5 edges, and there are 4"),
        ({"edge_start": EDGES}, InvalidParameter, "edge_start", "must be less than the number of edges (4), got 4"),
        ({"init_frame": "file_none"}, NotFound, "init_frame", "there is no file 'file_none'"),
        ({"init_frame": "http://x"}, InvalidParameter, "init_frame", "must be a file id"),
        ({"edge_frames": "data:text/plain;base64,dGV4dA=="}, UndecodableMedia, "edge_frames", "the file is text"),
    ],
)
async def test_what_is_refused(
    counter: Counter, fields: dict[str, Any], kind: type[ReelError], param: str, words: str
) -> None:
    with pytest.raises(kind) as caught:
        await counter.edit(**fields)
    assert caught.value.param == param
    assert caught.value.message.startswith(f"{param}: {words}")


async def test_another_owner_s_media_are_not_there(counter: Counter) -> None:
    with pytest.raises(NotFound, match=f"there is no file '{counter.first.id}'"):
        await counter.edit(owner="bob")


async def test_media_of_the_wrong_kind(counter: Counter) -> None:
    video = await counter.upload(media.one_frame(counter.folder).read_bytes())
    for field in ("init_frame", "edge_frames"):
        with pytest.raises(InvalidParameter, match=f"{field}: must be .*, got a video"):
            await counter.edit(**{field: video.id})


async def test_what_can_be_said_without_the_media_is_said_first(counter: Counter) -> None:
    before = {file.id for file in counter.store.list_files("ann", Page(100))[0]}
    data = base64.b64encode(albums.numbered(9)).decode()
    with pytest.raises(LimitExceeded, match="steps"):
        await counter.edit(init_frame=f"data:image/png;base64,{data}", edge_frames="file_none", steps=21)
    assert {file.id for file in counter.store.list_files("ann", Page(100))[0]} == before
