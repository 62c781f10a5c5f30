"""Jobs of a model that makes videos from a prompt, from a picture, or from either."""

from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import pytest

from composition.graphs.calls import Models, Transport
from composition.graphs.run import NOTHING_KNOWN, GraphSettings, Known
from composition.graphs.single import SINGLES
from composition.graphs.single.request import ClipJob
from composition.media.encode import encode_png
from composition.records.artifacts import ArtifactSettings
from miniatures.random import written
from services.errors import InvalidParameter
from services.frames import Fact, Frames, Item, Pixels
from services.model import Role
from services.wan.request import WanRequest, WanTextRequest
from services.wan.service import Wan
from services.wan.settings import WanSettings
from tests.composition.deployed import Cluster, Hosted
from tests.composition.painting import open_door
from tests.composition.rolling import Full, Gone, facts, of
from tests.composition.serving import Handle, noise

CLIP = SINGLES["wan"]
FIELDS: dict[str, Any] = {"prompt": "a boat", "num_frames": 9, "size": "64x32", "steps": 2, "seed": 3}
BOTH: tuple[Role, ...] = ("image-to-video", "text-to-video")


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Wan:
    home = tmp_path_factory.mktemp("home")
    weights = written("wan", "ti2v", home)
    settings = WanSettings(weights=weights, device="cpu", dtype="float32", max_sequence_length=32)
    return Wan(settings, home, lambda: "wan#test cpu")


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "picture.png"
    path.write_bytes(encode_png(noise(0, 64, 32)))
    return path.as_uri()


class Room:
    """A graph and the service that it asks."""

    def __init__(self, folder: Path, service: object, roles: Collection[Role] = BOTH) -> None:
        settings = GraphSettings(artifacts=ArtifactSettings(url=str(folder)))
        handle = Handle(service)
        self.graph = CLIP.make(Models(dict.fromkeys(roles, handle)), settings, Transport(lost=(Gone,), busy=(Full,)))

    async def items(self, known: Known = NOTHING_KNOWN, **fields: Any) -> list[Item]:
        request = CLIP.request.model_validate({**FIELDS, **fields})
        async with aclosing(cast("AsyncGenerator[Item]", self.graph.run(request, known))) as items:
            return [item async for item in items]


def join_pixels(items: list[Item]) -> Pixels:
    return np.concatenate([run.pixels for run in of(Frames, items)])


async def test_without_a_picture_it_is_the_video_of_the_prompt(tmp_path: Path, wan: Wan) -> None:
    items = await Room(tmp_path, wan).items()
    assert facts(items) == {"frames_total": 9, "seed": 3, "size": "64x32"}
    asked = [item async for item in wan.generate_video(WanTextRequest(**FIELDS))]
    assert np.array_equal(join_pixels(items), join_pixels(asked))
    rest = await Room(tmp_path, wan).items(Known("job", frames=5))
    assert np.array_equal(join_pixels(rest), join_pixels(asked)[5:])


async def test_with_a_picture_it_begins_with_it(tmp_path: Path, wan: Wan, picture: str) -> None:
    items = await Room(tmp_path, wan).items(image=picture)
    image = Frames(noise(0, 64, 32)[None])
    asked = [item async for item in wan.animate(WanRequest(**FIELDS), image)]
    assert np.array_equal(join_pixels(items), join_pixels(asked))


async def test_every_field_reaches_the_service(tmp_path: Path) -> None:
    class Listening:
        def __init__(self) -> None:
            self.heard: list[object] = []

        async def generate_video(self, request: WanTextRequest, start: int = 0, key: str = "") -> AsyncGenerator[Item]:
            self.heard += [request, start, key]
            yield Fact("seed", 5)

    service = Listening()
    fields = {
        "prompt": "a goat",
        "negative_prompt": "rain",
        "num_frames": 21,
        "steps": 7,
        "shift": 12.0,
        "solver": "dpm++",
        "guidance_scale": 4.0,
        "guidance_scale_2": 3.0,
        "max_area": 4096,
        "size": "64x48",
        "seed": 5,
    }
    await Room(tmp_path, service).items(Known("job", frames=8), **fields)
    assert service.heard == [WanTextRequest(**fields), 8, "job"]


@pytest.mark.parametrize(
    ("roles", "fields", "param", "message"),
    [
        (BOTH[:1], {}, "image", "image: required, because this model animates a picture"),
        (BOTH[1:], {"image": "a"}, "image", "image: this model generates videos from a prompt alone"),
        (BOTH, {"prompt": ""}, "prompt", "prompt: field required if no image is given"),
    ],
)
async def test_what_the_checkpoint_cannot_do_is_refused(
    tmp_path: Path, wan: Wan, roles: Collection[Role], fields: dict[str, Any], param: str, message: str
) -> None:
    with pytest.raises(InvalidParameter) as caught:
        await Room(tmp_path, wan, roles).items(**fields)
    assert (caught.value.param, caught.value.message) == (param, message)


def test_a_last_picture_needs_a_first() -> None:
    with pytest.raises(InvalidParameter, match="last_image: only valid with image"):
        CLIP.request.model_validate({**FIELDS, "last_image": "a"})


def test_a_job_names_the_model_of_its_role_alone() -> None:
    models = dict.fromkeys(BOTH, "wan-5b")
    for fields, role in ({}, "text-to-video"), ({"image": "a"}, "image-to-video"):
        request = cast("ClipJob", CLIP.request.model_validate({**FIELDS, **fields, "models": models}))
        request = request.drop_unserved(BOTH)
        assert request.models == {role: "wan-5b"}
        assert request.offer.role == role


# At the door.


@pytest.fixture
async def door(tmp_path: Path) -> AsyncGenerator[httpx.AsyncClient]:
    models = {
        "wan-i2v-a14b": Hosted("wan", defaults={"num_frames": 81}, rate=16, roles=BOTH[:1]),
        "wan-t2v-a14b": Hosted("wan", defaults={"num_frames": 77}, rate=16, roles=BOTH[1:]),
        "wan-5b": Hosted("wan", defaults={"num_frames": 121}, rate=24, roles=BOTH),
    }
    cluster = Cluster(tmp_path)
    cluster.host_models(models).host_graphs("single")
    api = open_door(cluster).build_app()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://localhost") as client:
        yield client


@pytest.mark.parametrize(
    ("model", "role", "frames"),
    [("wan-t2v-a14b", "text-to-video", 77), ("wan-5b", "text-to-video", 121), ("wan-t2v", "text-to-video", 77)],
)
async def test_a_prompt_alone_is_a_job(door: httpx.AsyncClient, model: str, role: str, frames: int) -> None:
    answer = await door.post("/v1/videos", json={"model": model, "prompt": "a boat"})
    assert answer.status_code == 200, answer.text
    shown = answer.json()
    assert (shown["model"], shown["status"]) == (model, "queued")
    assert shown["params"]["num_frames"] == frames
    assert list(shown["params"]["models"]) == [role]


@pytest.mark.parametrize("model", ["wan-i2v-a14b", "wan-i2v"])
async def test_a_model_that_needs_a_picture_says_so(door: httpx.AsyncClient, model: str) -> None:
    answer = await door.post("/v1/videos", json={"model": model, "prompt": "a boat"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "image")


async def test_a_model_that_takes_no_picture_says_so(door: httpx.AsyncClient) -> None:
    files = {"input_reference": ("a.png", encode_png(noise(0, 64, 32)), "image/png")}
    answer = await door.post("/v1/videos", data={"model": "wan-t2v-a14b", "prompt": "a boat"}, files=files)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "image")
    assert answer.json()["error"]["message"] == "image: this model generates videos from a prompt alone"


async def test_the_list_has_the_roles_and_fields_of_each_checkpoint(door: httpx.AsyncClient) -> None:
    listed = {each["id"]: each for each in (await door.get("/v1/models")).json()["data"]}
    assert listed["wan-i2v-a14b"]["roles"] == ["image-to-video"]
    assert listed["wan-t2v-a14b"]["roles"] == ["text-to-video"]
    assert listed["wan-5b"]["roles"] == list(BOTH)
    assert {"image", "last_image", "fit"} <= listed["wan-5b"]["fields"].keys()
    assert not {"image", "last_image", "fit", "background"} & listed["wan-t2v-a14b"]["fields"].keys()
    document = (await door.get("/openapi.json")).json()
    body = document["paths"]["/v1/videos"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    fields = {each["properties"]["model"]["enum"][0]: each["properties"].keys() for each in body["oneOf"]}
    assert "input_reference" in fields["wan-5b"]
    assert not {"input_reference", "image"} & fields["wan-t2v-a14b"]
