"""The bodies of requests: JSON and forms, read within a limit, as the same fields; and the media among the fields."""

import asyncio
import codecs
import mmap
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias, cast

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from composition.http.forms import Part, read_form, read_pairs
from composition.media.limits import MediaKind
from services.allowance import MAX_JSON_BYTES, Allowance, allowing
from services.errors import InvalidParameter, InvalidRequest, PayloadTooLarge
from services.json_text import UnusableText, read_json

MediaValue: TypeAlias = Part | str | list[Part | str]
"""A media field as it came: a file of the request, a file id or a `data:` URL, or, for pictures, a list of them."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

MAX_DIGITS = 18
"""Of a number in a header: Python reads none of thousands of digits, and a database counts no further."""
MAX_SECONDS = 3600
"""Of a video that is asked for by its duration; less."""
REFERENCE_NAME = "input_reference"
"""OpenAI's name for the media that a video begins with."""
PENDING = "pending"
"""Stands for a medium in a request until it is taken in."""
MEDIA_ELSEWHERE = "send media as files of a form, or upload them first"
ONE_OF = "must be a file id (file_…), a data: URL or a form part"


class BodySettings(BaseModel):
    """What the bodies of requests may be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_body_bytes: int = Field(default=2 << 30, ge=1)
    """Of any request, and of the pictures of a list together, wherever they come from."""
    max_json_bytes: int = Field(default=MAX_JSON_BYTES, ge=1)
    """Of a JSON body or the text in a form, which is read into memory and takes at most four times as much there;
    larger media goes into a form as a file, or is uploaded first."""


class VideoBody(BaseModel):
    """What every video is asked for with, beside the fields of its graph or model."""

    model: str
    """A graph, or the id of a model, which then works alone."""
    input_reference: str | None = None
    """OpenAI's name for the medium that the video begins with, instead of its own."""
    seconds: Annotated[float, Field(gt=0, lt=MAX_SECONDS)] | None = None
    """OpenAI's name for how long the video lasts, instead of `num_frames`."""


@dataclass(frozen=True)
class Body:
    """A request's body: its fields as JSON has them, and a Part where a form has a file.

    A name that a form has several times, or as `name[]`, is a list; `outer[inner]` is the field `inner` of `outer`.
    """

    fields: dict[str, Any]


@asynccontextmanager
async def read_body(request: Request, settings: BodySettings) -> AsyncGenerator[Body]:
    """Read a body, JSON or form, within the limits; its files are gone when the block is left.

    Within the block the JSON in the texts of fields takes of the same memory.

    Raises InvalidRequest, InvalidParameter, LimitExceeded, PayloadTooLarge.
    """
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    has_files = kind == "multipart/form-data"
    length = request.headers.get("content-length")
    if has_files:
        receive = limited(request.receive, length, settings.max_body_bytes, "max_body_bytes")
    else:
        receive = limited(request.receive, length, settings.max_json_bytes, f"max_json_bytes; {MEDIA_ELSEWHERE}")
    bounded = Request(request.scope, receive)
    allowance = Allowance(settings.max_json_bytes)
    async with aclosing(bounded.stream()) as stream:
        if kind in WHOLE:
            fields = await _whole(stream, allowance, WHOLE[kind])
            with allowing(allowance):
                yield Body(fields)
        elif has_files:
            async with read_form(stream, content_type, allowance) as items:
                with allowing(allowance):
                    yield Body(_fields(items))
        else:
            raise InvalidRequest("Content-Type: must be application/json or multipart/form-data", param="Content-Type")


async def _whole(
    stream: AsyncIterable[bytes],
    allowance: Allowance,
    read: Callable[[bytes, Allowance], dict[str, Any]],
) -> dict[str, Any]:
    """Read a body that is one text, in a thread: a hostile one takes a tenth of a second."""
    data = await _gather(stream, allowance.limit)
    with allowance.lent(len(data)):
        return await asyncio.to_thread(read, data, allowance)


async def _gather(stream: AsyncIterable[bytes], limit: int) -> bytes:
    """Gather a body of at most `limit` bytes.

    Its pieces wait in pages of their own, which are given back whole, and of which only those count that are full: a
    buffer that grows leaves smaller and smaller holes behind it, into which nothing fits.
    """
    size = 0
    with mmap.mmap(-1, limit, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as pages:
        async for chunk in stream:
            pages[size : size + len(chunk)] = chunk
            size += len(chunk)
        return pages[:size]


def is_number(text: str) -> bool:
    """Whether the value of a header is a whole number that can be read."""
    return text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS


def limited(receive: Receive, content_length: str | None, limit: int, name: str) -> Receive:
    """Return a `receive` that raises PayloadTooLarge as soon as a body is known to have more than `limit` bytes.

    Args:
        receive: of the request.
        content_length: what its header says.
        limit: in bytes.
        name: what the message calls the limit.

    Raises:
        PayloadTooLarge: the Content-Length says so already.
        InvalidRequest: the Content-Length is no number.
    """
    too_large = f"the body has more bytes than the limit of {limit} ({name})"
    if content_length is not None:
        if not is_number(content_length):
            raise InvalidRequest("Content-Length: must be a number")
        if int(content_length) > limit:
            raise PayloadTooLarge(f"{too_large}: Content-Length says {content_length}")
    seen = 0

    async def counting() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise PayloadTooLarge(too_large)
        return message

    return counting


def taken_media(
    kinds: Mapping[str, MediaKind], reference: str, body: Body
) -> tuple[dict[str, MediaValue], dict[str, Any]]:
    """Part a body into its media, under their own names, and its other fields.

    Args:
        kinds: media field → what it holds. Only `pictures` may come as a list.
        reference: the field that `input_reference` stands for; empty where it stands for none.
        body: of the request.

    Raises:
        InvalidParameter: a media field is none of the things it may be, or a file has the name of no media field.
    """
    fields = dict(body.fields)
    found: dict[str, MediaValue] = {}
    for name in ((REFERENCE_NAME,) if reference else ()) + tuple(kinds):
        value = fields.pop(name, None)
        if value is None:
            continue
        target = reference if name == REFERENCE_NAME else name
        if target in found:
            raise InvalidParameter(f"{name}: give either this or {REFERENCE_NAME}, not both", param=name)
        found[target] = _media_value(value, kinds[target], name)
    for name, value in fields.items():
        if _has_file(value):
            raise InvalidParameter(f"{name[:60]}: there is no such media field", param=name[:60])
    return found, fields


def _media_value(value: Any, kind: MediaKind, name: str) -> MediaValue:
    if not isinstance(value, list):
        return _media_item(value, name, name)
    if kind != "pictures":
        raise InvalidParameter(f"{name}: {ONE_OF}, and only one of them", param=name)
    return [_media_item(each, name, f"{name}[{i}]") for i, each in enumerate(_listed(value))]


def _media_item(value: Any, name: str, place: str) -> Part | str:
    if isinstance(value, dict):  # OpenAI's reference object
        reference = cast("dict[str, Any]", value)
        value = reference.get("file_id") or reference.get("image_url")
    if not isinstance(value, str | Part):
        raise InvalidParameter(f"{place}: {ONE_OF}", param=name)
    return value


def _listed(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else [value]


def _has_file(value: Any) -> bool:
    return any(isinstance(each, Part) for each in _listed(value))


def _json_object(data: bytes, allowance: Allowance) -> dict[str, Any]:
    try:
        with allowing(allowance):
            value = read_json(data.removeprefix(codecs.BOM_UTF8))
    except UnusableText as error:
        raise InvalidParameter(str(error), param=error.path or "body") from error
    except ValueError as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object")
    return cast("dict[str, Any]", value)


def _form_fields(data: bytes, allowance: Allowance) -> dict[str, Any]:
    return _fields(read_pairs(data, allowance))


def _fields(items: Iterable[tuple[str, Part | str]]) -> dict[str, Any]:
    """Gather what a form has under one name."""
    flat: dict[str, Any] = {}
    for name, value in items:
        bare = name.removesuffix("[]")
        held = flat.get(bare)
        if isinstance(held, list):
            cast("list[Part | str]", held).append(value)
        elif held is not None:
            flat[bare] = [held, value]
        else:
            flat[bare] = value if bare == name else [value]
    return _nested(flat)


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Read `a[b]` in a form as field `b` of `a`, one level deep, as OpenAI's clients write it. Files are not nested."""
    fields: dict[str, Any] = {}
    for name, value in flat.items():
        outer, bracket, inner = name.removesuffix("]").partition("[")
        if not bracket or not name.endswith("]") or _has_file(value):
            outer, inner = name, None
        held = fields.setdefault(outer, value if inner is None else {})
        if inner is not None and isinstance(held, dict):
            held[inner] = value
        elif held is not value:
            raise InvalidParameter(f"{outer[:60]}: give either this or its fields, not both", param=outer[:60])
    return fields


WHOLE = {"application/json": _json_object, "application/x-www-form-urlencoded": _form_fields}
"""Content type → what reads a body of it that is held in memory whole."""
