"""Streams of pictures: OpenAI's events, read by its own client; errors; and disconnects."""

import asyncio
import base64
import io
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from openai.types import ImageGenCompletedEvent, ImageGenPartialImageEvent
from PIL import Image
from starlette.types import Message

from composition.http.image_generation import STARTED, FacePictures, ImageGenerator
from composition.http.ingress import Ingress
from composition.http.sse import KEEP_ALIVE, EventStream, format_event
from composition.media.encode import encode_png
from reelgraph import AsyncClient
from reelgraph.errors import ApiError
from reelgraph.objects import CompletedImage, ImageProgress, PartialImage
from services.errors import InvalidParameter, ModelFailed
from services.frames import Pixels
from services.weights.request import Lora
from tests.composition.deployed import TRANSPORT, Hosted, served_model
from tests.composition.painting import FaceService, PaintService, flux, front_door, painted, served
from tests.composition.rolling import Full
from tests.composition.serving import Handle, noise

ROUTE = "/v1/images/generations"
PICTURE = f"data:image/png;base64,{base64.b64encode(encode_png(noise(1))).decode()}"
WAIT_S = 120
Event = dict[str, Any]


def body(**fields: Any) -> Event:
    return {"prompt": "a boat", "seed": 3, "steps": 4, "stream": True, **fields}


def shown(b64_json: str) -> Pixels:
    with Image.open(io.BytesIO(base64.b64decode(b64_json))) as picture:
        return np.array(picture)


def read(text: str) -> list[tuple[str, Event]]:
    """Return the events of a stream, without comments."""
    found: list[tuple[str, Event]] = []
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if not line.startswith(":")]
        if lines:
            name, data = lines
            found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


async def streamed(door: Ingress, **fields: Any) -> httpx.Response:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(door.build_app()), base_url="http://localhost"
    ) as client:
        return await client.post(ROUTE, json=body(**fields))


# Events.


async def test_each_picture_and_its_previews(tmp_path: Path) -> None:
    service = PaintService(preview_every=1)
    answer = await streamed(front_door(tmp_path, flux(service)), n=2, partial_images=2, size="48x32")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.text.startswith(STARTED)
    events = read(answer.text)
    assert [name.removeprefix("image_generation.") for name, _ in events] == [
        "partial_image",
        "partial_image",
        "completed",
    ] * 2
    assert all(event["type"] == name for name, event in events)
    assert [event.get("partial_image_index") for _, event in events] == [0, 1, None] * 2
    assert [(event["index"], event["n"]) for _, event in events] == [(0, 2)] * 3 + [(1, 2)] * 3
    previews = [shown(event["b64_json"]) for name, event in events if name.endswith("partial_image")]
    assert all(np.array_equal(a, noise(b, 8, 6)) for a, b in zip(previews, (2, 3, 6, 7), strict=True))
    done = [event for name, event in events if name.endswith("completed")]
    for index, event in enumerate(done):
        assert np.array_equal(shown(event["b64_json"]), painted(service.asked[0][0], index)[0])
    assert [event["seed"] for event in done] == [3, 4]
    assert [event["facts"] for event in done] == [{"seed": 3, "size": "48x32"}] * 2
    assert {event["size"] for _, event in events} == {"48x32"}


@pytest.mark.parametrize("form", ["jpeg", "webp"])
async def test_pictures_and_previews_have_the_format_that_is_asked_for(tmp_path: Path, form: str) -> None:
    service = PaintService(preview_every=1)
    answer = await streamed(front_door(tmp_path, flux(service)), partial_images=1, output_format=form)
    events = read(answer.text)
    assert [event["output_format"] for _, event in events] == [form] * 2
    for _, event in events:
        with Image.open(io.BytesIO(base64.b64decode(event["b64_json"]))) as picture:
            assert picture.format == form.upper()


@pytest.mark.parametrize("every", [0, 1])
async def test_no_preview_is_told_that_nobody_asked_for(tmp_path: Path, every: int) -> None:
    most = 3 if every == 0 else 0
    answer = await streamed(front_door(tmp_path, flux(PaintService(preview_every=every))), partial_images=most)
    assert [name for name, _ in read(answer.text)] == ["image_generation.completed"]


async def test_each_step_is_told_where_it_is_asked_for(tmp_path: Path) -> None:
    answer = await streamed(front_door(tmp_path, flux(PaintService())), n=2, steps=2, progress=True)
    steps = [event for name, event in read(answer.text) if name == "image_generation.progress"]
    assert [(event["stage"], event["done"], event["total"]) for event in steps] == [("paint", n, 4) for n in range(5)]


async def test_a_picture_is_told_before_the_next_one_is_painted(tmp_path: Path) -> None:
    service = PaintService(hanging=5)
    async with (
        served(front_door(tmp_path, flux(service))) as url,
        httpx.AsyncClient(base_url=url, timeout=WAIT_S) as client,
        client.stream("POST", ROUTE, json=body(n=2)) as answer,
    ):
        text = ""
        async for piece in answer.aiter_text():
            text += piece
            if "completed" in text and text.endswith("\n\n") and not service.may_go_on.is_set():
                assert [event["index"] for _, event in read(text)] == [0]
                service.may_go_on.set()
    assert [event["index"] for _, event in read(text)] == [0, 1]


async def test_openai_s_client_reads_it(tmp_path: Path) -> None:
    service = PaintService(preview_every=1)
    door = front_door(tmp_path, flux(service), Hosted("instantid", FaceService()))
    async with served(door) as url, openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused") as client:
        stream = await client.images.generate(
            model="flux", prompt="a boat", stream=True, partial_images=2, size="48x32", extra_body={"steps": 4}
        )
        events = [event async for event in stream]
        assert [type(event) for event in events] == [ImageGenPartialImageEvent] * 2 + [ImageGenCompletedEvent]
        for event in events:
            type(event).model_validate_json(event.to_json())  # strict: the client itself does not validate
        assert np.array_equal(shown(events[-1].b64_json), painted(service.asked[0][0], 0)[0])
        whole = await client.images.generate(
            model="flux", prompt="a boat", n=2, size="auto", response_format="b64_json"
        )
        assert (whole.size, whole.output_format, len(whole.data or [])) == ("32x16", "png", 2)
        with pytest.raises(openai.UnprocessableEntityError) as refused:
            await client.images.generate(model="flux", prompt="a boat", style="vivid")
        assert refused.value.param == "style"


async def test_our_own_client_reads_it(tmp_path: Path) -> None:
    service = PaintService(preview_every=2)
    file = tmp_path / "face.png"
    file.write_bytes(encode_png(noise(1)))
    async with (
        served(front_door(tmp_path, flux(service), Hosted("instantid", FaceService()))) as url,
        AsyncClient(url) as client,
    ):
        found = await client.faces.find(file)
        fields: dict[str, Any] = {"prompt": "a boat", "n": 2, "seed": 3, "loras": [{"name": "ink", "weight": 0.5}]}
        answers = [
            await client.images.generate(**fields, identity=found.identity),
            await client.images.generate(**fields, face=file),
        ]
        events = [event async for event in client.images.stream_generate(**fields, face=file, partial_images=1)]
        previews = [event.index for event in events if isinstance(event, PartialImage)]
        pictures = [event for event in events if isinstance(event, CompletedImage)]
        steps = client.images.stream_generate(**fields, progress=True)
        assert [event.done async for event in steps if isinstance(event, ImageProgress)] == list(range(9))
        with pytest.raises(ApiError) as caught:
            await client.images.generate(prompt="x", steps=41)
    assert (found.faces, found.notice) == (2, "2 faces were found")
    assert {answer.data[0].content for answer in answers} == {pictures[0].content}
    assert {answer.data[1].content for answer in answers} == {pictures[1].content}
    assert pictures[0].content != pictures[1].content
    assert (previews, [picture.seed for picture in pictures]) == ([0, 1], [3, 4])
    assert pictures[0].facts["notice"] == "2 faces were found"
    assert [stage.model for stage in answers[1].stages] == ["instantid", "flux"]
    assert (caught.value.status, caught.value.param) == (422, "steps")
    assert service.asked[0][0].loras == service.asked[2][0].loras == (Lora(name="ink", weight=0.5),)


async def test_openai_s_client_is_told_of_an_error_in_the_stream(tmp_path: Path) -> None:
    door = front_door(tmp_path, flux(PaintService(failing={6: ModelFailed("out of memory")})))
    async with served(door) as url, openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused") as client:
        stream = await client.images.generate(model="flux", prompt="a boat", stream=True, n=2)
        seen: list[str] = []
        with pytest.raises(openai.APIError, match="out of memory") as caught:
            await gathered(stream, seen)
    assert (caught.value.code, seen) == ("model_failed", ["image_generation.completed"])


async def gathered(stream: openai.AsyncStream[Any], seen: list[str]) -> None:
    async for event in stream:
        seen.append(event.type)  # noqa: PERF401 - a comprehension would lose them


# Errors.


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidParameter("loras: there is no x", param="loras"), 422, "invalid_parameter"),
        (Full(), 503, "service_busy"),
        (ModelFailed("out of memory"), 500, "model_failed"),
    ],
)
async def test_what_is_refused_before_the_work_begins_is_a_status(
    tmp_path: Path, error: Exception, status: int, code: str
) -> None:
    for models, fields in (
        ([flux(PaintService(failing={0: error}))], {}),
        ([flux(PaintService()), Hosted("instantid", FaceService(error))], {"face": PICTURE}),
    ):
        answer = await streamed(front_door(tmp_path, *models), **fields)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    ("error", "status", "code", "message"),
    [
        (ModelFailed("out of memory"), 500, "model_failed", "out of memory"),
        (Full(), 503, "service_busy", "the service's queue is full"),
        (KeyError("a secret"), 500, "internal_error", "internal server error; it has been logged"),
    ],
)
async def test_what_goes_wrong_later_is_the_last_event(
    tmp_path: Path, error: Exception, status: int, code: str, message: str
) -> None:
    answer = await streamed(front_door(tmp_path, flux(PaintService(failing={2: error}))))
    assert answer.status_code == 200
    kind = "server_error"
    detail = {"message": message, "type": kind, "param": None, "code": code}
    assert read(answer.text) == [("error", {"type": "error", "status": status, "error": detail})]


async def test_too_few_pictures_are_an_error(tmp_path: Path) -> None:
    answer = await streamed(front_door(tmp_path, flux(PaintService(forgets=1))), n=2)
    assert read(answer.text)[-1][1]["error"]["message"] == "the model generated 1 of 2 pictures"


# Disconnects.


@pytest.mark.parametrize("done", [1, 5])
async def test_closing_the_connection_stops_the_work(tmp_path: Path, done: int) -> None:
    service = PaintService(hanging=done)
    handle = Handle(service)
    async with (
        served(front_door(tmp_path, flux(handle))) as url,
        httpx.AsyncClient(base_url=url, timeout=WAIT_S) as client,
    ):
        async with client.stream("POST", ROUTE, json=body(n=2)) as answer:
            assert answer.status_code == 200
            await asyncio.wait_for(service.hangs.wait(), WAIT_S)
        assert [call.cancelled for call in await handle.rested()] == [True]
    assert service.working == 0


async def endless(opened: list[str]) -> AsyncGenerator[str]:
    opened.append("opened")
    try:
        while True:
            yield format_event("event", {})
            await asyncio.sleep(0)
    finally:
        opened.append("closed")


def unexpected(error: BaseException) -> str:
    raise AssertionError from error


class Listener:
    """A client of an ASGI application that receives `most` messages, and then stalls or disconnects."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.full = asyncio.Event()
        self.left = asyncio.Event()
        self.taken: list[Message] = []

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.taken.append(message)
        if len(self.taken) == self._most:
            self.full.set()
            await asyncio.Event().wait()


SCOPE = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}}


@pytest.mark.parametrize("most", [1, 2, 9])
@pytest.mark.parametrize("leaves", [True, False])
async def test_a_listener_that_takes_no_more_and_leaves(most: int, leaves: bool) -> None:
    opened: list[str] = []
    listener = Listener(most)
    stream = await EventStream(endless(opened), unexpected).start()
    task = asyncio.create_task(stream(SCOPE, listener.receive, listener.send))
    await listener.full.wait()
    assert opened == ["opened"]
    if leaves:
        listener.left.set()
        await task
    else:  # Serve cancels the task of a request whose client has disconnected
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert opened == ["opened", "closed"]


async def test_a_stream_that_nobody_comes_for_is_closed() -> None:
    opened: list[str] = []
    stream = await EventStream(endless(opened), unexpected).start()
    await stream.close()
    assert opened == ["opened", "closed"]


async def test_leaving_before_the_work_begins(tmp_path: Path) -> None:
    service = PaintService(hanging=0)
    handle = Handle(service)
    made = ImageGenerator(handle, served_model(flux(service)), None, TRANSPORT)
    request = made.parse_request(body(), has_face=False)
    task = asyncio.create_task(EventStream(made.stream_events(request, FacePictures()), unexpected).start())
    await service.hangs.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [call.cancelled for call in await handle.rested()] == [True]
    assert service.working == 0


# Keep-alive.


async def test_a_silent_stream_says_that_it_is_there() -> None:
    may_go_on = asyncio.Event()

    async def slow() -> AsyncGenerator[str]:
        yield format_event("one", {"text": "a\nb"})
        await may_go_on.wait()
        yield format_event("two", {})

    stream = await EventStream(slow(), unexpected, keep_alive_s=0.01).start()
    texts: list[str] = []
    async for text in stream.body_iterator:
        texts.append(str(text))
        if texts.count(KEEP_ALIVE) == 3:
            may_go_on.set()
    assert [text for text in texts if text != KEEP_ALIVE] == [
        'event: one\ndata: {"text": "a\\nb"}\n\n',
        "event: two\ndata: {}\n\n",
    ]
    assert texts[1:4] == [KEEP_ALIVE] * 3


async def test_who_waits_long_for_the_work_is_answered_before_it_begins() -> None:
    may_go_on = asyncio.Event()

    async def waiting() -> AsyncGenerator[str]:
        await may_go_on.wait()
        yield "x"
        raise ModelFailed("out of memory")

    stream = await EventStream(waiting(), str, keep_alive_s=0.01).start()
    texts: list[str] = []
    async for text in stream.body_iterator:
        texts.append(str(text))
        may_go_on.set()
    assert texts[0] == KEEP_ALIVE
    assert [text for text in texts if text != KEEP_ALIVE] == ["x", "out of memory"]
