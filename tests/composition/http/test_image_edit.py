"""`POST /v1/images/edits`: validation, responses, and that a disconnect stops the model."""

import asyncio
import base64
import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from composition.http.image_edit import ImageEditor, ImageEditRequest, Pictures
from composition.http.schemas import ImageObject
from composition.media.encode import encode_png
from services.errors import InvalidParameter, LimitExceeded, ModelFailed, ReelError, ServiceBusy
from services.frames import Frames, Pixels
from services.limits import MAX_SEED
from services.qwen_edit.request import DEFAULT_PROMPT
from tests.composition.deployed import TRANSPORT, Hosted, served_model
from tests.composition.painting import front_door
from tests.composition.rolling import Full
from tests.composition.serving import EditService, Handle, MuteService, noise, results

EDGES, PICTURE, OTHER = (Frames(noise(*each)[None]) for each in ((1, 64, 48), (2, 51, 37), (3, 20, 90)))
ALONG_EDGES = Pictures(PICTURE, edges=EDGES)
LIMITS = {"max_area": 64 * 64, "steps": 9}


def qwen_edit(service: object, **defaults: Any) -> Hosted:
    return Hosted("qwen-edit", service, LIMITS, {"steps": 3, "max_area": 64 * 32, **defaults})


def editor(service: object, **defaults: Any) -> ImageEditor:
    return ImageEditor(Handle(service), served_model(qwen_edit(service, **defaults)), TRANSPORT)


def asked(pictures: int = 1, has_edges: bool = True, **fields: Any) -> ImageEditRequest:
    return editor(EditService()).parse_request(fields, pictures, has_edges=has_edges)


def shown(image: ImageObject) -> Pixels:
    with Image.open(io.BytesIO(base64.b64decode(image.b64_json))) as picture:
        assert picture.format == "PNG"
        return np.array(picture)


def data_url(frames: Frames) -> str:
    return f"data:image/png;base64,{base64.b64encode(encode_png(frames.pixels[0])).decode()}"


# Validation.


def test_the_least_that_can_be_asked() -> None:
    request = asked()
    assert (request.prompt, request.n, request.size, request.ttlg.edge_scale) == (DEFAULT_PROMPT, 1, None, 1.0)
    assert (request.steps, request.max_area) == (3, 64 * 32)
    assert 0 <= request.seed < 2**53
    alone = asked(1, False, prompt="at night")
    assert (alone.prompt, alone.ttlg.edge_scale, alone.ttlg.on) == ("at night", 0.0, False)


def test_what_is_asked_stands_before_the_configuration_s_defaults() -> None:
    made = editor(EditService(), ttlg={"lr": 0.5}, n=2)
    request = made.parse_request({"steps": "4", "seed": 5, "size": "40x50", "model": "qwen-edit"}, 2, has_edges=True)
    assert (request.steps, request.seed, request.size, request.n, request.ttlg.lr) == (4, 5, "40x50", 2, 0.5)
    assert made.parse_request({"ttlg": '{"lr": 0.25}'}, 1, has_edges=True).ttlg.lr == 0.25
    assert made.parse_request({"size": "auto"}, 1, has_edges=True).size is None
    assert made.parse_request({"prompt": "x"}, 3, has_edges=False).ttlg.edge_scale == 0
    assert made.parse_request({"prompt": "x", "ttlg": '{"gram_scale": 1}'}, 1, has_edges=False).ttlg.edge_scale == 0
    # The service rejects it.
    assert made.parse_request({"prompt": "x", "ttlg": {"edge_scale": 2}}, 1, has_edges=False).ttlg.edge_scale == 2
    assert editor(EditService(), prompt="at night").parse_request({}, 1, has_edges=False).prompt == "at night"


@pytest.mark.parametrize(
    ("pictures", "fields", "kind", "message"),
    [
        (0, {"prompt": "x"}, InvalidParameter, "image: field required"),
        (3, {"prompt": "x"}, LimitExceeded, "image: at most 2 pictures beside edges, got 3"),
        (1, {"n": 0}, InvalidParameter, "n: input should be greater than or equal to 1, got 0"),
        (1, {"n": 5}, InvalidParameter, "n: input should be less than or equal to 4, got 5"),
        (1, {"size": "large"}, InvalidParameter, "size: string should match pattern"),
        (1, {"response_format": "url"}, InvalidParameter, "response_format: input should be 'b64_json', got 'url'"),
        (1, {"output_format": "gif"}, InvalidParameter, "output_format: input should be 'png', 'jpeg' or 'webp', got"),
        (1, {"output_compression": 99}, InvalidParameter, "output_compression: must be 100 with output_format 'png'"),
        (1, {"background": "transparent"}, InvalidParameter, "background: must be 'opaque' or 'auto': the models"),
        (1, {"step": 3}, InvalidParameter, "step: there is no such field; did you mean steps?"),
        (1, {"steps": 10}, LimitExceeded, "steps: 10 is more than the limit of 9"),
        (1, {"max_area": 5000}, LimitExceeded, "max_area: 5000 is more than the limit of 4096"),
        (1, {"size": "100x100"}, LimitExceeded, "size: 100x100 has 10000 pixels, and the limit is 4096"),
    ],
)
def test_what_may_not_be_asked(pictures: int, fields: dict[str, Any], kind: type[ReelError], message: str) -> None:
    with pytest.raises(kind) as caught:
        asked(pictures, **fields)
    assert caught.value.message.startswith(message)
    assert caught.value.param == message.partition(":")[0]


@pytest.mark.parametrize(
    ("pictures", "fields", "message"),
    [
        (4, {"prompt": "x"}, "image: at most 3 pictures, got 4"),
        (1, {}, "prompt: field required if no edges are given"),
        (3, {"prompt": ""}, "prompt: field required if no edges are given"),
    ],
)
def test_what_may_not_be_asked_without_edges(pictures: int, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        asked(pictures, False, **fields)
    assert (caught.value.message, caught.value.param) == (message, message.partition(":")[0])


# Responses.


async def test_edges_are_followed() -> None:
    service = EditService()
    request = asked(seed=5, prompt="a boat", size="40x50")
    answer = await editor(service).edit(request, ALONG_EDGES)
    (one,) = service.asked
    assert (one.image, one.edges, one.first, one.key) == (PICTURE, EDGES, None, "")
    assert (one.request.seed, one.request.prompt, one.request.size) == (5, "a boat", "40x50")
    assert not isinstance(one.request, ImageEditRequest)
    scores, frames = results(one.request, PICTURE, EDGES, PICTURE)
    assert isinstance(frames, Frames)
    (image,) = answer.data
    assert np.array_equal(shown(image), frames.pixels[0])
    assert image.seed == 5
    names = ("edge_loss", "gram_loss", "temporal_loss", "lpips_to_init", "lpips_to_prev")
    assert image.scores is not None
    assert image.scores.model_dump() == {name: getattr(scores, name) for name in names}
    assert (answer.size, answer.output_format) == ("51x37", "png")
    assert answer.facts == {"lpips": "random weights"}
    assert abs(answer.created - time.time()) < 60


@pytest.mark.parametrize(("form", "quality", "most"), [("png", 100, 0), ("jpeg", 100, 4), ("webp", 100, 0)])
async def test_the_picture_has_the_format_that_is_asked_for(form: str, quality: int, most: int) -> None:
    service = EditService()
    request = asked(seed=5, output_format=form, output_compression=quality)
    answer = await editor(service).edit(request, ALONG_EDGES)
    frames = results(service.asked[0].request, PICTURE, EDGES, PICTURE)[-1]
    assert isinstance(frames, Frames)
    with Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json))) as picture:
        assert (picture.format, picture.mode) == (form.upper(), "RGB")
        assert np.abs(np.array(picture).astype(int) - frames.pixels[0]).max() <= most
    assert answer.output_format == form


async def test_one_picture_is_edited_without_edges() -> None:
    service = EditService()
    await editor(service).edit(asked(1, False, prompt="x"), Pictures(PICTURE))
    one = service.asked[0]
    assert (one.image, one.edges, one.references) == (PICTURE, None, ())


async def test_references_reach_the_model_in_their_order() -> None:
    service = EditService()
    await editor(service).edit(asked(3, False, prompt="x", n=2), Pictures(PICTURE, [OTHER, EDGES]))
    assert [(one.image, one.edges, one.references) for one in service.asked] == [(PICTURE, None, [OTHER, EDGES])] * 2


async def test_an_error_about_a_reference_names_the_field_of_the_request() -> None:
    service = EditService(failing={0: InvalidParameter("references: 3000x16 is too long", param="references")})
    with pytest.raises(InvalidParameter) as caught:
        await editor(service).edit(asked(2, False, prompt="x"), Pictures(PICTURE, [OTHER]))
    assert (caught.value.message, caught.value.param) == ("image: 3000x16 is too long", "image")


@pytest.mark.parametrize(("seed", "seeds"), [(5, [5, 6, 7]), (MAX_SEED - 1, [MAX_SEED - 1, MAX_SEED, 0])])
async def test_several_have_the_seeds_that_follow_each_other(seed: int, seeds: list[int]) -> None:
    service = EditService()
    answer = await editor(service).edit(asked(seed=seed, n=3), ALONG_EDGES)
    assert [image.seed for image in answer.data] == [one.request.seed for one in service.asked] == seeds
    for image, one in zip(answer.data, service.asked, strict=True):
        frames = results(one.request, PICTURE, EDGES, PICTURE)[-1]
        assert isinstance(frames, Frames)
        assert np.array_equal(shown(image), frames.pixels[0])


async def test_a_seed_that_was_not_drawn_yet_is_drawn() -> None:
    answer = await editor(EditService()).edit(ImageEditRequest(image="given", steps=2, n=2), ALONG_EDGES)
    first, second = (image.seed for image in answer.data)
    assert 0 <= first < 2**53
    assert second == first + 1


async def test_what_nobody_measured_has_no_scores() -> None:
    answer = await editor(MuteService(Frames(noise(3)[None]))).edit(asked(), ALONG_EDGES)
    assert (answer.data[0].scores, answer.facts, answer.size) == (None, {}, "50x34")
    with pytest.raises(ModelFailed, match="the model returned no picture"):
        await editor(MuteService()).edit(asked(), ALONG_EDGES)


@pytest.mark.parametrize(("error", "becomes"), [(Full(), ServiceBusy), (ModelFailed("no memory"), ModelFailed)])
async def test_an_error_at_any_of_them_is_the_answer(error: Exception, becomes: type[Exception]) -> None:
    service = EditService(failing={1: error})
    with pytest.raises(becomes):
        await editor(service).edit(asked(n=3), ALONG_EDGES)
    assert (len(service.asked), service.working) == (2, 0)


@pytest.mark.parametrize("number", [0, 1])
async def test_leaving_stops_the_work(number: int) -> None:
    service = EditService(hanging=number)
    handle = Handle(service)
    made = ImageEditor(handle, served_model(qwen_edit(service)), TRANSPORT)
    task = asyncio.create_task(made.edit(asked(n=3), ALONG_EDGES))
    await service.hangs.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    calls = await handle.rested()
    assert [call.cancelled for call in calls] == [True] * (number + 1)
    assert (service.working, len(service.asked)) == (0, number + 1)


# Over HTTP.


async def posted(
    folder: Path, models: Sequence[Hosted], pictures: Sequence[Frames], edges: Frames | None = None, **fields: str
) -> httpx.Response:
    api = front_door(folder, *models).build_app()
    images = [("image[]", (f"{n}.png", encode_png(frames.pixels[0]))) for n, frames in enumerate(pictures)]
    if edges is not None:
        images.append(("edges", ("edges.png", encode_png(edges.pixels[0]))))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://localhost") as client:
        answer = await client.post("/v1/images/edits", data=fields, files=images)
        assert (await client.get("/v1/files")).json()["data"] == []
    return answer


async def test_a_form_is_answered_with_pictures(tmp_path: Path) -> None:
    service = EditService()
    fields = {"n": "2", "seed": "9", "ttlg[lr]": "0.25", "model": "qwen-edit"}
    answer = await posted(tmp_path, [qwen_edit(service)], [PICTURE, OTHER], EDGES, **fields)
    assert answer.status_code == 200, answer.text
    assert [image["seed"] for image in answer.json()["data"]] == [9, 10]
    one = service.asked[0]
    assert one.edges is not None
    assert np.array_equal(one.edges.pixels, EDGES.pixels)
    assert np.array_equal(one.image.pixels, PICTURE.pixels)
    assert [np.array_equal(given.pixels, OTHER.pixels) for given in one.references] == [True]
    assert one.request.ttlg.lr == 0.25


async def test_pictures_and_edges_may_be_data_urls_or_uploads(tmp_path: Path) -> None:
    service = EditService()
    urls = [data_url(frames) for frames in (PICTURE, OTHER, EDGES)]
    api = front_door(tmp_path, qwen_edit(service)).build_app()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://localhost") as client:
        sent = {"file": ("edges.png", encode_png(EDGES.pixels[0]))}
        uploaded = (await client.post("/v1/files", files=sent)).json()["id"]
        for edges in (urls[2], uploaded):
            body = {"image": urls[:2], "edges": edges, "seed": 1}
            assert (await client.post("/v1/images/edits", json=body)).status_code == 200
        several = await client.post("/v1/images/edits", json={"image": urls[0], "edges": urls})
    assert several.status_code == 422
    assert several.json()["error"]["message"].startswith("edges: must be a file id")
    for one in service.asked:
        assert one.edges is not None
        assert np.array_equal(one.edges.pixels, EDGES.pixels)
        assert np.array_equal(one.image.pixels, PICTURE.pixels)
        assert np.array_equal(one.references[0].pixels, OTHER.pixels)


async def test_what_is_refused_over_http(tmp_path: Path) -> None:
    service = EditService()
    four = await posted(tmp_path, [qwen_edit(service)], [PICTURE] * 4, prompt="x")
    assert (four.status_code, four.json()["error"]["param"]) == (422, "image")
    assert four.json()["error"]["message"] == "image: at most 3 pictures, got 4"
    three = await posted(tmp_path, [qwen_edit(service)], [PICTURE] * 3, EDGES)
    assert (three.status_code, three.json()["error"]["param"]) == (422, "image")
    other = await posted(tmp_path, [qwen_edit(service)], [PICTURE], prompt="x", model="dall-e-2")
    error = other.json()["error"]
    assert (other.status_code, error["param"]) == (422, "model")
    assert error["message"] == "model: must be one of qwen-edit, got 'dall-e-2'"
    assert (await posted(tmp_path, [], [PICTURE], prompt="x")).status_code == 404
    assert service.asked == []
