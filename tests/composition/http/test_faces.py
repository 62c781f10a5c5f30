"""Identities of faces: validation, exact round trips, and `POST /v1/faces`."""

import base64
import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from composition.graphs.faces import find_face, read_identity, write_identity
from composition.graphs.identity import Identity, IdentityField
from composition.http.faces import FaceFinder
from composition.http.ingress import Ingress
from composition.media.encode import encode_png
from miniatures.random import written
from services.errors import InvalidParameter, LimitExceeded, ModelFailed, ReelError, ServiceBusy
from services.frames import Face, Fact, Features, Frames, StageDone
from services.instantid.service import InstantId
from services.instantid.settings import InstantIdSettings
from tests.composition.deployed import TRANSPORT, Hosted
from tests.composition.painting import FaceService, front_door, seen_in
from tests.composition.rolling import Full
from tests.composition.serving import Handle, noise

PICTURE = Frames(noise(1)[None])
FACE = seen_in(PICTURE)
ASTRONAUT = (Path(__file__).parents[2] / "data" / "astronaut.png").read_bytes()


def finder(service: object) -> FaceFinder:
    return FaceFinder(Handle(service), TRANSPORT)


def numbers(face: Face) -> list[Features]:
    return [face.embedding, face.keypoints, face.box]


def same(one: Face, other: Face) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(numbers(one), numbers(other), strict=True))


def said(**changes: Any) -> dict[str, Any]:
    return {**json.loads(write_identity(FACE).model_dump_json()), **changes}


# Identities.


@pytest.mark.parametrize("seed", range(20))
def test_no_bit_is_lost_through_json(seed: int) -> None:
    face = seen_in(Frames(noise(seed)[None]))
    text = write_identity(face).model_dump_json()
    assert same(read_identity(Identity.model_validate_json(text)), face)
    assert same(read_identity(TypeAdapter(IdentityField).validate_python(text)), face)
    assert same(read_identity(Identity.model_validate(json.loads(text))), face)
    assert read_identity(write_identity(face)).crop is None
    assert read_identity(write_identity(replace(face, size=(30, 20)))).size == (30, 20)


@pytest.mark.parametrize("factor", [0.991, 1.0, 1.009])
def test_a_length_that_was_rounded_away_comes_back(factor: float) -> None:
    face = read_identity(Identity.model_validate(said(embedding=[x * factor for x in said()["embedding"]])))
    assert math.hypot(*face.embedding.tolist()) == pytest.approx(1, abs=1e-6)
    assert np.allclose(face.embedding, FACE.embedding, atol=1e-6)


def embedding(**changes: object) -> list[object]:
    numbers: list[object] = list(said()["embedding"])
    for place, value in changes.items():
        numbers[int(place.removeprefix("at"))] = value
    return numbers


@pytest.mark.parametrize(
    ("given", "place", "told"),
    [
        ({"embedding": [0.0] * 512}, ("embedding",), "must have length 1 ± 0.01, not 0"),
        ({"embedding": [2 * x for x in said()["embedding"]]}, ("embedding",), "not 2"),
        ({"embedding": [1e300] * 512}, ("embedding",), "not 2.263e+301"),
        ({"embedding": [1e308] * 512}, ("embedding",), "not inf"),
        ({"embedding": said()["embedding"][:511]}, ("embedding",), "at least 512 items"),
        ({"embedding": [0.0] * 513}, ("embedding",), "at most 512 items"),
        ({"embedding": ["x"] * 100_000}, ("embedding", 0), "valid number"),
        ({"embedding": embedding(at7=float("nan"))}, ("embedding", 7), "finite number"),
        ({"embedding": embedding(at511=float("inf"))}, ("embedding", 511), "finite number"),
        ({"embedding": embedding(at0=None)}, ("embedding", 0), "valid number"),
        ({"embedding": "AAAA"}, ("embedding",), "valid tuple"),
        ({"keypoints": [[0.5, 0.5]] * 4}, ("keypoints",), "at least 5 items"),
        ({"keypoints": [[0.5, 0.5]] * 6}, ("keypoints",), "at most 5 items"),
        ({"keypoints": [[0.5, 0.5]] * 4 + [[0.5]]}, ("keypoints", 4, 1), "field required"),
        ({"keypoints": [[0.5, 0.5]] * 4 + [[0.5, 2.1]]}, ("keypoints", 4, 1), "less than or equal to 2"),
        ({"keypoints": [[float("nan"), 0.5]] * 5}, ("keypoints", 0, 0), "finite number"),
        ({"box": [-1.1, 0, 1, 1]}, ("box", 0), "greater than or equal to -1"),
        ({"box": [0, 0, 1]}, ("box", 3), "field required"),
        ({"crop": "x"}, ("crop",), "not permitted"),
    ],
)
def test_what_is_no_identity(given: dict[str, Any], place: tuple[str | int, ...], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Identity.model_validate(said(**given))
    first = caught.value.errors()[0]
    assert (first["loc"], told.lower() in first["msg"].lower()) == (place, True), first["msg"]
    assert len(caught.value.errors()) <= 5


@pytest.mark.parametrize("text", ["", "face", "[1, 2]", "null", "3", "[" * 100_000])
def test_a_text_that_is_no_identity(text: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(IdentityField).validate_python(text)


# FaceFinder.


async def test_a_face_and_what_was_said_beside_it() -> None:
    service = FaceService()
    face, beside = await find_face(Handle(service), PICTURE, TRANSPORT, "job")
    assert same(face, FACE)
    assert [type(item) for item in beside] == [Fact, Fact, StageDone]
    assert service.asked == [(PICTURE, "job")]


async def test_what_is_found() -> None:
    found = await finder(FaceService()).find(PICTURE)
    assert same(read_identity(found.identity), FACE)
    assert (found.object, found.faces, found.notice) == ("face", 2, "2 faces were found")
    assert [(stage.name, stage.model, stage.seconds) for stage in found.stages] == [("face", "instantid", 0.25)]
    with Image.open(io.BytesIO(base64.b64decode(found.crop.b64_json))) as crop:
        assert FACE.crop is not None
        assert crop.format == "PNG"
        assert np.array_equal(np.array(crop), FACE.crop.pixels[0])


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (InvalidParameter("face: there is no face", param="face"), InvalidParameter, "image: there is no face"),
        (LimitExceeded("face: at most 4 pixels, got 5", param="face"), LimitExceeded, "image: at most 4 pixels, got 5"),
        (ModelFailed("out of memory"), ModelFailed, "out of memory"),
        (Full(), ServiceBusy, "the service's queue is full"),
    ],
)
async def test_errors_name_the_field_that_was_asked(error: Exception, kind: type[ReelError], message: str) -> None:
    with pytest.raises(kind) as caught:
        await finder(FaceService(error)).find(PICTURE)
    assert (type(caught.value), caught.value.message) == (kind, message)
    assert caught.value.param == ("image" if message.startswith("image") else None)


@pytest.mark.parametrize("left_out", [Face, Fact])
async def test_a_service_that_says_too_little_has_failed(left_out: type) -> None:
    with pytest.raises(ModelFailed):
        await finder(FaceService(left_out=(left_out,))).find(PICTURE)


# Over HTTP.


async def posted(door: Ingress, **request: Any) -> httpx.Response:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(door.build_app()), base_url="http://localhost"
    ) as client:
        answer = await client.post("/v1/faces", **request)
        if answer.status_code != 401:
            assert (await client.get("/v1/files")).json()["data"] == []
    return answer


def data_url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


@pytest.fixture(scope="module")
def instantid(tmp_path_factory: pytest.TempPathFactory) -> InstantId:
    home = tmp_path_factory.mktemp("home")
    settings = InstantIdSettings(recogniser=written("instantid", "tiny", home), device="cpu")
    return InstantId(settings, home, lambda: "instantid#test cpu")


async def test_a_real_face_as_a_form_and_as_json(tmp_path: Path, instantid: InstantId) -> None:
    door = front_door(tmp_path, Hosted("instantid", instantid), max_json_bytes=2 << 20)
    form = await posted(door, files={"image": ("a.png", ASTRONAUT)}, data={"model": "instantid"})
    assert form.status_code == 200, form.text
    found = form.json()
    left, top, right, bottom = found["identity"]["box"]
    assert (left, right) == (pytest.approx(180 / 512, abs=0.03), pytest.approx(272 / 512, abs=0.03))
    assert (top, bottom) == (pytest.approx(58 / 512, abs=0.03), pytest.approx(174 / 512, abs=0.03))
    assert (found["faces"], [stage["model"] for stage in found["stages"]]) == (1, ["instantid"])
    with Image.open(io.BytesIO(base64.b64decode(found["crop"]["b64_json"]))) as crop:
        assert crop.size == (112, 112)
    json_ = (await posted(door, json={"image": data_url(ASTRONAUT)})).json()
    assert json_["identity"] == found["identity"]


async def test_a_picture_without_a_face(tmp_path: Path, instantid: InstantId) -> None:
    answer = await posted(
        front_door(tmp_path, Hosted("instantid", instantid)), json={"image": data_url(encode_png(noise(3)))}
    )
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert (error["param"], error["message"]) == ("image", "image: there is no face in this picture")


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        ({"json": {}}, 422, "image: field required"),
        ({"json": {"image": None}}, 422, "image: field required"),
        ({"json": {"image": "a.png"}}, 422, "image: must be a file id"),
        ({"json": {"image": 3}}, 422, "image: must be a file id"),
        ({"json": {"image": ["file_1", "file_2"]}}, 422, "image: must be a file id"),
        ({"json": {"image": "file_none"}}, 404, "image: there is no file 'file_none'"),
        ({"json": {"image": "data:image/png;base64,AAAA"}}, 422, "image: "),
        ({"json": {"image": "x", "modle": "y"}}, 422, "modle: there is no such field; did you mean model?"),
        ({"json": {"image": "x", "model": "flux"}}, 422, "model: must be one of instantid, got 'flux'"),
        ({"json": []}, 400, "the body must be a JSON object"),
        ({"content": b"x", "headers": {"content-type": "text/plain"}}, 400, "Content-Type: "),
        ({"files": {"face": ("a.png", ASTRONAUT)}}, 422, "face: there is no such media field"),
        ({"files": {"image": ("a.png", b"")}}, 422, "image: "),
        ({"json": {"image": "x" * 3000}}, 413, "the body is larger than the limit of 2000 bytes"),
    ],
)
async def test_what_is_refused(tmp_path: Path, request_: dict[str, Any], status: int, message: str) -> None:
    service = FaceService()
    answer = await posted(front_door(tmp_path, Hosted("instantid", service), max_json_bytes=2000), **request_)
    error = answer.json()["error"]
    assert (answer.status_code, error["message"].startswith(message)) == (status, True), answer.text
    assert service.asked == []


async def test_without_a_key_or_a_model_there_is_nothing(tmp_path: Path) -> None:
    assert (await posted(front_door(tmp_path), json={"image": "x"})).status_code == 404
    service = FaceService()
    closed = front_door(tmp_path, Hosted("instantid", service), auth="keys")
    assert (await posted(closed, json={"image": data_url(ASTRONAUT)})).status_code == 401
    assert service.asked == []
