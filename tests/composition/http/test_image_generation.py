"""`POST /v1/images/generations`: validation and responses; an identity gives the same picture as its photograph."""

import asyncio
import base64
import io
import json
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from composition.graphs.faces import write_identity
from composition.graphs.identity import Identity
from composition.http.image_generation import (
    FacePictures,
    ImageGenerationRequest,
    ImageGenerator,
    PreviewSelector,
)
from composition.http.ingress import Ingress
from composition.http.schemas import ImageObject
from composition.media.encode import encode_png
from miniatures.random import written
from services.errors import InvalidParameter, LimitExceeded, ModelFailed, ReelError, ServiceBusy, ServiceLost
from services.flux.request import FluxRequest
from services.flux.service import Flux
from services.flux.settings import FluxSettings, IdentitySettings
from services.frames import Frames, Pixels
from services.instantid.service import InstantId
from services.instantid.settings import InstantIdSettings
from services.limits import MAX_SEED
from services.weights.request import Lora
from tests.composition.deployed import TRANSPORT, Cluster, Hosted, served_model
from tests.composition.painting import FaceService, PaintService, front_door, open_door, painted, painter, seen_in
from tests.composition.painting import flux as flux_model
from tests.composition.rolling import Full, Gone
from tests.composition.serving import Handle, noise

PICTURE = Frames(noise(1)[None])
IDENTITY = json.loads(write_identity(seen_in(PICTURE)).model_dump_json())
ASTRONAUT = (Path(__file__).parents[2] / "data" / "astronaut.png").read_bytes()


def asked(*, face: bool = False, finds: bool = True, **fields: Any) -> ImageGenerationRequest:
    return painter(PaintService(), FaceService() if finds else None).parse_request(
        {"prompt": "a boat", **fields}, has_face=face
    )


def shown(b64_json: str) -> Pixels:
    with Image.open(io.BytesIO(base64.b64decode(b64_json))) as picture:
        assert picture.format == "PNG"
        return np.array(picture)


def exact(image: ImageObject, request: FluxRequest, index: int = 0) -> bool:
    return np.array_equal(shown(image.b64_json), painted(request, index)[0])


# Validation.


def test_the_least_that_can_be_asked() -> None:
    request = asked()
    assert (request.prompt, request.n, request.size, request.steps) == ("a boat", 1, "32x16", 4)
    assert (request.stream, request.partial_images, request.identity) == (False, 0, None)
    assert 0 <= request.seed < 2**53


def test_what_is_asked_stands_before_the_configuration_s_defaults() -> None:
    request = asked(size="auto", steps=None, guidance_scale=None)
    assert (request.size, request.steps, request.guidance_scale) == ("32x16", 4, 3.5)
    request = asked(size="48x32", steps="5", seed=7, n="2", stream="true", partial_images="3", loras="ink:0.5")
    assert (request.size, request.steps, request.seed, request.n) == ("48x32", 5, 7, 2)
    assert (request.stream, request.partial_images, request.loras) == (True, 3, (Lora(name="ink", weight=0.5),))
    assert asked(identity=json.dumps(IDENTITY)).identity == Identity.model_validate(IDENTITY)


def test_what_openai_s_clients_say_and_what_means_nothing_here() -> None:
    told: dict[str, Any] = {
        "model": "flux",
        "quality": "standard",
        "background": "opaque",
        "user": "u",
        "safety_identifier": "s",
    }
    request = asked(**told, response_format="b64_json", output_format="png", style=None, moderation=None)
    assert (request.model, request.prompt) == ("flux", "a boat")


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"prompt": None}, InvalidParameter, "prompt: field required"),
        ({"prompt": ""}, InvalidParameter, "prompt: string should have at least 1 character"),
        ({"n": 0}, InvalidParameter, "n: input should be greater than or equal to 1, got 0"),
        ({"n": 11}, InvalidParameter, "n: input should be less than or equal to 10, got 11"),
        ({"n": 5}, LimitExceeded, "n: 5 is more than the limit of 4"),
        ({"steps": 41}, LimitExceeded, "steps: 41 is more than the limit of 40"),
        ({"size": "large"}, InvalidParameter, "size: string should match pattern"),
        ({"size": "100x100"}, LimitExceeded, "size: 100x100 has 10000 pixels, and the limit is 4096"),
        ({"response_format": "url"}, InvalidParameter, "response_format: must be 'b64_json'"),
        ({"response_format": "png"}, InvalidParameter, "response_format: input should be 'b64_json', got 'png'"),
        ({"output_format": "gif"}, InvalidParameter, "output_format: input should be 'png', 'jpeg' or 'webp', got"),
        ({"quality": "hd"}, InvalidParameter, "quality: input should be 'auto' or 'standard', got 'hd'"),
        ({"background": "transparent"}, InvalidParameter, "background: must be 'opaque' or 'auto': the models"),
        ({"style": "vivid"}, InvalidParameter, "style: not supported: describe it in the prompt"),
        ({"moderation": "low"}, InvalidParameter, "moderation: not supported"),
        ({"output_compression": 50}, InvalidParameter, "output_compression: must be 100 with output_format 'png', got"),
        ({"output_compression": 101, "output_format": "webp"}, InvalidParameter, "output_compression: input should be"),
        ({"partial_images": 4, "stream": True}, InvalidParameter, "partial_images: input should be less than"),
        ({"partial_images": 1}, InvalidParameter, "partial_images: allowed only with stream, got 1"),
        ({"progress": True}, InvalidParameter, "progress: allowed only with stream, got True"),
        ({"seed": MAX_SEED, "n": 2}, InvalidParameter, f"seed: must be at most {MAX_SEED - 1} with n=2, got"),
        ({"step": 3}, InvalidParameter, "step: there is no such field; did you mean steps?"),
        ({"loras": ["a", "a"]}, InvalidParameter, "loras: a must be listed once, got 2 times"),
        ({"identity": "me"}, InvalidParameter, "identity: must be a JSON object, got 'me'"),
        ({"identity": {**IDENTITY, "box": [9, 0, 1, 1]}}, InvalidParameter, "identity.box.0: input should be less"),
        ({"identity": IDENTITY, "face": True}, InvalidParameter, "identity: give either this or face, not both"),
        ({"face": True, "finds": False}, InvalidParameter, "face: no model that finds faces is served"),
    ],
)
def test_what_may_not_be_asked(fields: dict[str, Any], kind: type[ReelError], message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        asked(**fields)
    assert (type(caught.value), caught.value.message[: len(message)]) == (kind, message)
    assert caught.value.param == message.partition(":")[0]


def test_the_highest_seeds() -> None:
    assert asked(seed=MAX_SEED - 1, n=2).seed == MAX_SEED - 1


# Responses.


async def test_each_picture_has_its_seed() -> None:
    service = PaintService()
    handle = Handle(service)
    made = ImageGenerator(handle, served_model(flux_model(service)), None, TRANSPORT)
    loras = ["style/b:2", "a"]
    request = made.parse_request(
        {"prompt": "x", "seed": 5, "n": 3, "size": "32x16", "steps": 2, "loras": loras}, has_face=False
    )
    answer = await made.generate(request, FacePictures())
    ((given, face, key),) = service.asked
    assert (type(given), given.seed, given.n, face, key) == (FluxRequest, 5, 3, None, "")
    assert [image.seed for image in answer.data] == [5, 6, 7]
    assert all(exact(image, given, index) for index, image in enumerate(answer.data))
    assert (answer.size, answer.output_format, answer.facts) == ("32x16", "png", {"seed": 5, "size": "32x16"})
    assert [stage.model_dump() for stage in answer.stages] == [
        {
            "name": "paint",
            "model": "flux",
            "source": "nowhere",
            "revision": "",
            "replica": "flux#1",
            "seconds": 0.5,
        }
    ]
    assert abs(answer.created - time.time()) < 60
    assert handle.preferred == ["a+style/b"]


async def test_pictures_have_the_format_and_the_quality_that_are_asked_for() -> None:
    sizes: dict[tuple[str, int], int] = {}
    for form in ("jpeg", "webp"):
        for quality in (5, 60, 100):
            request = asked(output_format=form, output_compression=quality, seed=1, size="64x64")
            answer = await painter(PaintService()).generate(request, FacePictures())
            data = base64.b64decode(answer.data[0].b64_json)
            with Image.open(io.BytesIO(data)) as picture:
                assert (picture.format, picture.size) == (form.upper(), (64, 64))
            assert answer.output_format == form
            sizes[form, quality] = len(data)
    for form in ("jpeg", "webp"):
        assert sizes[form, 5] < sizes[form, 60] < sizes[form, 100]


async def test_a_picture_of_a_face_is_looked_at_first() -> None:
    service, finding = PaintService(), FaceService()
    answer = await painter(service, finding).generate(asked(face=True), FacePictures(PICTURE))
    face = service.asked[0][1]
    assert face is not None
    assert np.array_equal(face.embedding, seen_in(PICTURE).embedding)
    assert answer.facts | {"seed": 0} == {"faces": 2, "notice": "2 faces were found", "seed": 0, "size": "32x16"}
    assert [stage.model for stage in answer.stages] == ["instantid", "flux"]


async def test_an_identity_needs_nobody_to_look() -> None:
    service = PaintService()
    await painter(service).generate(asked(identity=IDENTITY, finds=False), FacePictures())
    face = service.asked[0][1]
    assert face is not None
    assert np.array_equal(face.embedding, seen_in(PICTURE).embedding)
    assert np.array_equal(face.keypoints, seen_in(PICTURE).keypoints)


@pytest.mark.parametrize(
    ("error", "becomes"), [(Full(), ServiceBusy), (Gone(), ServiceLost), (ModelFailed("no memory"), ModelFailed)]
)
@pytest.mark.parametrize("done", [0, 6])
async def test_an_error_anywhere_is_the_answer(error: Exception, becomes: type[Exception], done: int) -> None:
    service = PaintService(failing={done: error})
    with pytest.raises(becomes):
        await painter(service).generate(asked(n=3), FacePictures())
    assert service.working == 0
    with pytest.raises(becomes):
        await painter(service, FaceService(error)).generate(asked(face=True), FacePictures(PICTURE))
    assert len(service.asked) == 1


async def test_too_few_pictures_are_no_answer() -> None:
    with pytest.raises(ModelFailed, match="generated 1 of 2 pictures"):
        await painter(PaintService(forgets=1)).generate(asked(n=2), FacePictures())


@pytest.mark.parametrize("done", [0, 3, 6])
async def test_leaving_stops_the_work(done: int) -> None:
    service = PaintService(hanging=done)
    handle = Handle(service)
    made = ImageGenerator(handle, served_model(flux_model(service)), None, TRANSPORT)
    task = asyncio.create_task(made.generate(asked(n=2), FacePictures()))
    await service.hangs.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [call.cancelled for call in await handle.rested()] == [True]
    assert service.working == 0


# Selection of previews.


@pytest.mark.parametrize(
    ("steps", "every", "most", "passed"),
    [
        (28, 1, 3, [7, 14, 21]),
        (28, 5, 3, [10, 15, 25]),
        (28, 1, 1, [14]),
        (28, 1, 0, []),
        (28, 14, 3, [14]),
        (4, 1, 3, [1, 2, 3]),
        (3, 1, 3, [1, 2]),
        (2, 1, 3, [1]),
        (1, 1, 3, []),
    ],
)
def test_previews_are_spread_over_the_steps_of_each_picture(
    steps: int, every: int, most: int, passed: list[int]
) -> None:
    previews = PreviewSelector(steps, most)
    found = [done for done in range(1, 3 * steps + 1) if (done - 1) % steps % every == every - 1]
    told = [(done, previews.selected) for done in found if previews.select(done)]
    assert [done for done, _ in told] == [done + picture * steps for picture in range(3) for done in passed]
    assert [count for _, count in told] == list(range(1, len(passed) + 1)) * 3


# With the real services.


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def instantid(home: Path) -> InstantId:
    settings = InstantIdSettings(recogniser=written("instantid", "tiny", home), device="cpu")
    return InstantId(settings, home, lambda: "instantid#test cpu")


@pytest.fixture(scope="module")
def flux(home: Path) -> Flux:
    settings = FluxSettings(
        weights=written("flux", "tiny", home),
        device="cpu",
        dtype="float32",
        max_sequence_length=32,
        identity=IdentitySettings(weights=written("flux", "identity", home)),
    )
    return Flux(settings, home, lambda: "flux#test cpu")


async def posted(door: Ingress, route: str, key: str = "", **request: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(door.build_app()), base_url="http://localhost", headers=headers
    ) as client:
        return await client.post(route, **request)


def data_url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


async def test_a_ready_identity_paints_what_its_picture_did(tmp_path: Path, flux: Flux, instantid: InstantId) -> None:
    painting = Hosted("flux", flux, defaults={"size": "64x48", "steps": 2})
    door = front_door(tmp_path, painting, Hosted("instantid", instantid), max_json_bytes=2 << 20)
    found = await posted(door, "/v1/faces", files={"image": ("a.png", ASTRONAUT)})
    identity = found.json()["identity"]
    fields = {"prompt": "a boat", "seed": 3}
    route = "/v1/images/generations"
    form = {**fields, "seed": "3"}
    answers = [
        await posted(door, route, data=form, files={"face": ("a.png", ASTRONAUT)}),
        await posted(door, route, json={**fields, "face": data_url(ASTRONAUT)}),
        await posted(door, route, json={**fields, "identity": identity}),
        await posted(door, route, data=form | {"identity": json.dumps(identity)}),
        await posted(door, route, json={**fields, "identity": identity, "identity_strength": 0}),
        await posted(door, route, json=fields),
    ]
    assert [answer.status_code for answer in answers] == [200] * 6, answers[0].text
    pictures = [answer.json()["data"][0]["b64_json"] for answer in answers]
    assert shown(pictures[0]).shape == (48, 64, 3)
    assert len(set(pictures[:4])) == 1
    assert len(set(pictures[4:])) == 1
    assert pictures[0] != pictures[4]
    assert [stage["model"] for stage in answers[0].json()["stages"]] == ["instantid", "flux"]
    assert answers[0].json()["facts"] == {"faces": 1, "seed": 3, "size": "64x48"}


async def test_a_lora_that_is_not_there_is_refused_by_the_service(tmp_path: Path, flux: Flux) -> None:
    painting = Hosted("flux", flux, defaults={"size": "64x48", "steps": 2})
    for more in ({}, {"stream": True}):
        body = {"prompt": "x", "loras": [{"name": "none"}], **more}
        answer = await posted(front_door(tmp_path, painting), "/v1/images/generations", json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (422, "loras")


# Over HTTP.


async def test_a_form_is_answered_with_pictures(tmp_path: Path) -> None:
    service = PaintService()
    fields = {"prompt": "a boat", "n": "2", "seed": "9", "loras[]": ["a:0.5", "b"], "model": "flux"}
    door = front_door(tmp_path, flux_model(service), Hosted("instantid", FaceService()))
    picture = {"face": ("f.png", encode_png(PICTURE.pixels[0]))}
    answer = await posted(door, "/v1/images/generations", data=fields, files=picture)
    assert answer.status_code == 200, answer.text
    assert [image["seed"] for image in answer.json()["data"]] == [9, 10]
    given, face, _ = service.asked[0]
    assert [(lora.name, lora.weight) for lora in given.loras] == [("a", 0.5), ("b", 1.0)]
    assert face is not None
    assert np.array_equal(face.embedding, seen_in(PICTURE).embedding)


async def test_a_pose_is_that_of_the_photo_or_of_another_picture(tmp_path: Path) -> None:
    service, finding = PaintService(), FaceService()
    door = front_door(tmp_path, flux_model(service), Hosted("instantid", finding), max_json_bytes=2 << 20)
    route, prompt = "/v1/images/generations", {"prompt": "a boat"}
    photo, other = (encode_png(noise(seed)) for seed in (1, 2))
    whole = {**IDENTITY, "size": [30, 20]}
    answers = [
        await posted(door, route, data=prompt, files={"face": ("f.png", photo)}),
        await posted(door, route, data=prompt | {"face_pose": "none"}, files={"face": ("f.png", photo)}),
        await posted(door, route, data=prompt | {"face_pose": "photo"}, files={"face": ("f.png", photo)}),
        await posted(door, route, data=prompt, files={"face": ("f.png", photo), "face_pose": ("p.png", other)}),
        await posted(door, route, json={**prompt, "face": data_url(photo), "face_pose": data_url(other)}),
        await posted(door, route, json={**prompt, "identity": whole, "face_pose": "photo"}),
        await posted(door, route, json={**prompt, "identity": IDENTITY, "face_pose": data_url(other)}),
    ]
    assert [answer.status_code for answer in answers] == [200] * 7, [answer.text for answer in answers]
    expected = [None, None, photo, other, other, photo, other]
    embeddings = {photo: seen_in(PICTURE).embedding, other: seen_in(Frames(noise(2)[None])).embedding}
    for pose, data in zip(service.poses, expected, strict=True):
        assert (pose is None) == (data is None)
        assert pose is None or data is None or np.array_equal(pose.embedding, embeddings[data])
    assert all(face is not None and np.array_equal(face.embedding, embeddings[photo]) for _, face, _ in service.asked)
    facts = answers[3].json()["facts"]
    assert (facts["faces"], facts["notice"], facts["pose_notice"]) == (2, "2 faces were found", "2 faces were found")
    assert [stage["model"] for stage in answers[3].json()["stages"]] == ["instantid", "instantid", "flux"]


async def test_an_error_about_the_pose_names_its_field(tmp_path: Path) -> None:
    finding = FaceService(InvalidParameter("face: there is no face in this picture", param="face"))
    door = front_door(tmp_path, flux_model(PaintService()), Hosted("instantid", finding), max_json_bytes=2 << 20)
    body = {"prompt": "x", "identity": IDENTITY, "face_pose": data_url(encode_png(PICTURE.pixels[0]))}
    error = (await posted(door, "/v1/images/generations", json=body)).json()["error"]
    assert (error["param"], error["message"]) == ("face_pose", "face_pose: there is no face in this picture")
    (tmp_path / "alone").mkdir()
    alone = front_door(tmp_path / "alone", flux_model(PaintService()), max_json_bytes=2 << 20)
    error = (await posted(alone, "/v1/images/generations", json=body)).json()["error"]
    assert error["message"] == "face_pose: no model that finds faces is served; give none or photo instead"


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"prompt": "x", "promt": "y"}, 422, "promt: there is no such field; did you mean prompt?"),
        ({"prompt": "x", "face": "a.png"}, 422, "face: must be a file id"),
        ({"prompt": "x", "face": ["file_1"]}, 422, "face: must be a file id"),
        ({"prompt": "x", "face": "file_none"}, 404, "face: there is no file 'file_none'"),
        ({"prompt": "x", "face": "data:image/png;base64,AAAA"}, 422, "face: "),
        ({"prompt": "x", "face": "file_1", "identity": IDENTITY}, 422, "identity: give either this or face, not both"),
        (
            {"prompt": "x", "face_pose": "side"},
            422,
            "face_pose: must be none, photo, a file id (file_…), a data: URL or a",
        ),
        ({"prompt": "x", "face_pose": "file_none"}, 422, "face_pose: must be none or photo without a face"),
        ({"prompt": "x", "face": "file_none", "face_pose": "photo"}, 404, "face: there is no file 'file_none'"),
        (
            {"prompt": "x", "identity": {**IDENTITY, "size": None}, "face_pose": "photo"},
            422,
            "face_pose: photo needs the size of the photo, which this identity lacks",
        ),
        ({"prompt": "x", "steps": 41, "stream": True}, 422, "steps: 41 is more than the limit of 40"),
        ({"prompt": "x", "model": "dall-e-3"}, 422, "model: must be one of flux, got 'dall-e-3'"),
        ({"prompt": "x" * 30_000}, 413, "the body is larger than the limit of 20000 bytes"),
    ],
)
async def test_what_is_refused_over_http(tmp_path: Path, body: dict[str, Any], status: int, message: str) -> None:
    service = PaintService()
    door = front_door(tmp_path, flux_model(service), Hosted("instantid", FaceService()), max_json_bytes=20_000)
    answer = await posted(door, "/v1/images/generations", json=body)
    assert (answer.status_code, answer.json()["error"]["message"].startswith(message)) == (status, True), answer.text
    assert service.asked == []


async def test_somebody_else_s_picture_is_not_there(tmp_path: Path) -> None:
    service = PaintService()
    door = front_door(tmp_path, flux_model(service), Hosted("instantid", FaceService()), auth="keys")
    ann, ben = (door._store.add_key(owner) for owner in ("ann", "ben"))
    upload = await posted(door, "/v1/files", ann, files={"file": ("f.png", encode_png(PICTURE.pixels[0]))})
    body = {"prompt": "x", "face": upload.json()["id"]}
    answers = [await posted(door, "/v1/images/generations", key, json=body) for key in (ann, ben, "", "rg-wrong")]
    assert [answer.status_code for answer in answers] == [200, 404, 401, 401]
    assert len(service.asked) == 1


async def test_which_of_several_models_paints(tmp_path: Path) -> None:
    schnell, dev, eyes = PaintService(), PaintService(), FaceService()
    models = {"schnell": flux_model(schnell), "dev": Hosted("flux", dev, limits={"steps": 2}), "svd": Hosted("svd")}
    cluster = Cluster(tmp_path).host_models({**models, "eyes": Hosted("instantid", eyes)})
    doors = [open_door(cluster), open_door(cluster, roles={"text-to-image": "dev", "face": "elsewhere"})]
    body = {"prompt": "x", "size": "32x16", "steps": 2}
    answers = [
        await posted(door, "/v1/images/generations", json={**body, **chosen})
        for door in doors
        for chosen in ({}, {"model": "schnell"}, {"model": "dev"}, {"model": "svd"}, {"steps": 3})
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 422, 200, 200, 200, 200, 422, 422]
    assert (len(schnell.asked), len(dev.asked)) == (4, 3)
    error = answers[3].json()["error"]
    assert error["message"] == "model: must be one of schnell, dev, got 'svd'"
    assert answers[-1].json()["error"]["message"] == "steps: 3 is more than the limit of 2"
    face = await posted(
        doors[1], "/v1/images/generations", json={**body, "face": data_url(encode_png(PICTURE.pixels[0]))}
    )
    assert face.json()["error"]["param"] == "face", "the configured model, which finds faces, is not served"
    assert eyes.asked == []


async def test_without_a_model_there_is_nothing(tmp_path: Path) -> None:
    answer = await posted(front_door(tmp_path), "/v1/images/generations", json={"prompt": "x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    gone = front_door(tmp_path, flux_model(PaintService()), roles={"text-to-image": "dev"})
    answer = await posted(gone, "/v1/images/generations", json={"prompt": "x"})
    message = "model: dev, configured for text-to-image, is not served here"
    assert (answer.status_code, answer.json()["error"]["message"]) == (404, message)


async def test_the_schema_says_what_may_be_asked(tmp_path: Path) -> None:
    paths = front_door(tmp_path).build_app().openapi()["paths"]
    schema = paths["/v1/images/generations"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["prompt"]
    assert schema["properties"].keys() >= {"face", "identity", "loras", "steps", "stream", "partial_images"}
    assert "$ref" not in json.dumps(schema)
    schema = paths["/v1/faces"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert (schema["required"], schema["properties"].keys()) == (["image"], {"image", "model"})
