"""Request bodies: parses JSON and forms into the same fields, within limits, and separates the media fields."""

import asyncio
import codecs
import mmap
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    MutableMapping,
)
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias, cast

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from composition.http.forms import Part, read_multipart, read_urlencoded
from composition.media.limits import MediaKind
from services.allowance import MAX_JSON_BYTES, Allowance, allowing
from services.errors import InvalidParameter, InvalidRequest, PayloadTooLarge
from services.json_text import UnusableText, read_json

MediaValue: TypeAlias = Part | str | list[Part | str]
"""Value of a media field: a file of the form, a file id or a `data:` URL; for pictures also a list of these."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

MAX_DIGITS = 18
"""Maximum digits of a number in a header, so that it fits a 64-bit integer."""
MAX_SECONDS = 3600
"""Upper bound, exclusive, of the duration of a requested video, in seconds."""
REFERENCE_NAME = "input_reference"
"""OpenAI's name for the picture or video that a video starts from."""
PENDING = "pending"
"""Placeholder for a media field in a request until the media is stored."""
MEDIA_VALUE = "must be a file id (file_…), a data: URL or a form part"
"""The rest of a message after the name of a media field."""
ONLY_ONE_MEDIA_VALUE = f"{MEDIA_VALUE}; only one value is allowed"


NO_WORDS: Mapping[str, Collection[str]] = {}


class BodySettings(BaseModel):
    """Limits of request bodies."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_body_bytes: int = Field(default=2 << 30, ge=1)
    """Maximum size of a request, and of all pictures of a list together, wherever they are stored, in bytes."""
    max_json_bytes: int = Field(default=MAX_JSON_BYTES, ge=1)
    """Maximum size of a JSON body, or of the text fields of a form, in bytes. Parsing takes at most four times as much
    memory. Larger media must be sent as files of a form, or uploaded first."""


class VideoBody(BaseModel):
    """Fields of every request for a video, in addition to those of its graph or model."""

    model: str
    """Name of a graph, or id of a model, which then runs alone."""
    input_reference: str | None = None
    """OpenAI's name for the picture or video that the video starts from; given instead of the field's own name."""
    seconds: Annotated[float, Field(gt=0, lt=MAX_SECONDS)] | None = None
    """OpenAI's name for the duration of the video in seconds; given instead of `num_frames`."""


@dataclass(frozen=True)
class Body:
    """The parsed body of a request."""

    fields: dict[str, Any]
    """Field → JSON value; a file of a form is a Part.

    In a form, a repeated name or `name[]` is a list, and `outer[inner]` is the field `inner` of the object `outer`.
    """


@asynccontextmanager
async def read_body(request: Request, settings: BodySettings) -> AsyncGenerator[Body]:
    """Parse a body, JSON or form, within the limits.

    Its files are closed at the end of the `async with` block. JSON in text fields counts against the same memory limit
    if it is parsed within the block.

    Raises InvalidRequest, InvalidParameter, LimitExceeded, PayloadTooLarge.
    """
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    is_multipart = kind == "multipart/form-data"
    length = request.headers.get("content-length")
    if is_multipart:
        receive = limit_body(request.receive, length, settings.max_body_bytes, "max_body_bytes")
    else:
        name = "max_json_bytes; send media as files of a form, or upload it first"
        receive = limit_body(request.receive, length, settings.max_json_bytes, name)
    bounded = Request(request.scope, receive)
    allowance = Allowance(settings.max_json_bytes)
    async with aclosing(bounded.stream()) as stream:
        if kind in PARSERS:
            fields = await _parse_whole(stream, allowance, PARSERS[kind])
            with allowing(allowance):
                yield Body(fields)
        elif is_multipart:
            async with read_multipart(stream, content_type, allowance) as items:
                with allowing(allowance):
                    yield Body(_group_by_name(items))
        else:
            raise InvalidRequest("Content-Type: must be application/json or multipart/form-data", param="Content-Type")


async def _parse_whole(
    stream: AsyncIterable[bytes],
    allowance: Allowance,
    parse: Callable[[bytes, Allowance], dict[str, Any]],
) -> dict[str, Any]:
    """Parse a body that is held in memory, in a thread: a hostile one takes a tenth of a second."""
    data = await _collect_chunks(stream, allowance.limit)
    with allowance.lent(len(data)):
        return await asyncio.to_thread(parse, data, allowance)


async def _collect_chunks(stream: AsyncIterable[bytes], limit: int) -> bytes:
    """Join the chunks of a body of at most `limit` bytes.

    The chunks are collected in an anonymous mapping, which uses memory only for pages that were written and returns it
    to the system when it is closed. A growing buffer would fragment the heap.
    """
    size = 0
    with mmap.mmap(-1, limit, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as pages:
        async for chunk in stream:
            pages[size : size + len(chunk)] = chunk
            size += len(chunk)
        return pages[:size]


def is_number(text: str) -> bool:
    """Whether the value of a header is a whole number of at most MAX_DIGITS digits."""
    return text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS


def limit_body(receive: Receive, content_length: str | None, limit: int, name: str) -> Receive:
    """Return a `receive` that raises PayloadTooLarge as soon as a body is known to have more than `limit` bytes.

    Args:
        receive: the request's ASGI callable.
        content_length: value of the `Content-Length` header.
        limit: maximum size of the body, in bytes.
        name: name of the limit in the message.

    Raises:
        PayloadTooLarge: `content_length` is more than the limit.
        InvalidRequest: `content_length` is not a number.
    """
    too_large = f"the body is larger than the limit of {limit} bytes ({name})"
    if content_length is not None:
        if not is_number(content_length):
            raise InvalidRequest(f"Content-Length: must be a number, got {content_length[:60]!r}")
        if int(content_length) > limit:
            raise PayloadTooLarge(f"{too_large}, got {content_length} (Content-Length)")
    received = 0

    async def receive_limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise PayloadTooLarge(too_large)
        return message

    return receive_limited


def take_media(
    kinds: Mapping[str, MediaKind], reference: str, body: Body, words: Mapping[str, Collection[str]] = NO_WORDS
) -> tuple[dict[str, MediaValue], dict[str, Any]]:
    """Split the fields of a body into media fields and other fields.

    Args:
        kinds: media field → its kind. Only `pictures` accepts a list.
        reference: the media field for which `input_reference` is another name; empty if there is none.
        body: the parsed body.
        words: media field → the words that it accepts instead of a medium; such a field is not a media field.

    Returns:
        Media field → value, and the other fields.

    Raises:
        InvalidParameter: a media field has an invalid value, or a file is given for a field that is not a media field.
    """
    fields = dict(body.fields)
    media: dict[str, MediaValue] = {}
    for name in ((REFERENCE_NAME,) if reference else ()) + tuple(kinds):
        value = fields.pop(name, None)
        if value is None:
            continue
        if name in words and isinstance(value, str):
            if value in words[name]:
                fields[name] = value
                continue
            _check_word(value, name, words[name])
        target = reference if name == REFERENCE_NAME else name
        if target in media:
            raise InvalidParameter(f"{name}: give either this or {REFERENCE_NAME}, not both", param=name)
        media[target] = _parse_media(value, kinds[target], name)
    for name, value in fields.items():
        if _has_file(value):
            raise InvalidParameter(f"{name[:60]}: there is no such media field", param=name[:60])
    return media, fields


def _check_word(value: str, name: str, words: Collection[str]) -> None:
    """Raise InvalidParameter if the value of a field is neither one of its words nor the text of a medium."""
    if not value.startswith(("file_", "data:")):
        listed = "".join(f"{word}, " for word in words)
        raise InvalidParameter(
            f"{name}: {MEDIA_VALUE.replace('be ', f'be {listed}', 1)}, got {value[:60]!r}", param=name
        )


def _parse_media(value: Any, kind: MediaKind, name: str) -> MediaValue:
    if not isinstance(value, list):
        return _parse_media_item(value, name, name)
    if kind != "pictures":
        raise InvalidParameter(f"{name}: {ONLY_ONE_MEDIA_VALUE}", param=name)
    return [_parse_media_item(each, name, f"{name}[{i}]") for i, each in enumerate(_as_list(value))]


def _parse_media_item(value: Any, name: str, place: str) -> Part | str:
    """Return one medium. `place` names it in the message, e.g. `edge_frames[3]`. Raises InvalidParameter."""
    if isinstance(value, dict):  # OpenAI's reference object
        reference = cast("dict[str, Any]", value)
        value = reference.get("file_id") or reference.get("image_url")
    if not isinstance(value, str | Part):
        raise InvalidParameter(f"{place}: {MEDIA_VALUE}", param=name)
    return value


def _as_list(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else [value]


def _has_file(value: Any) -> bool:
    return any(isinstance(each, Part) for each in _as_list(value))


def _parse_json(data: bytes, allowance: Allowance) -> dict[str, Any]:
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


def _parse_urlencoded(data: bytes, allowance: Allowance) -> dict[str, Any]:
    return _group_by_name(read_urlencoded(data, allowance))


def _group_by_name(items: Iterable[tuple[str, Part | str]]) -> dict[str, Any]:
    """Return the fields of a form; a repeated name, or `name[]`, is a list of its values."""
    flat: dict[str, Any] = {}
    for name, value in items:
        bare = name.removesuffix("[]")
        earlier = flat.get(bare)
        if isinstance(earlier, list):
            cast("list[Part | str]", earlier).append(value)
        elif earlier is not None:
            flat[bare] = [earlier, value]
        else:
            flat[bare] = value if bare == name else [value]
    return _nest_fields(flat)


def _nest_fields(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Parse the name `a[b]` as the field `b` of the object `a`, one level deep, as OpenAI's clients send it.

    The name of a file is not parsed.
    """
    fields: dict[str, Any] = {}
    for name, value in flat.items():
        outer, bracket, inner = name.removesuffix("]").partition("[")
        if not bracket or not name.endswith("]") or _has_file(value):
            outer, inner = name, None
        existing = fields.setdefault(outer, value if inner is None else {})
        if inner is not None and isinstance(existing, dict):
            existing[inner] = value
        elif existing is not value:
            raise InvalidParameter(f"{outer[:60]}: give either this or {outer[:60]}[…], not both", param=outer[:60])
    return fields


PARSERS = {"application/json": _parse_json, "application/x-www-form-urlencoded": _parse_urlencoded}
"""Content type → parser of a body that is held in memory."""
