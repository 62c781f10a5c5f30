"""Builds requests and parses responses. No I/O, and independent of the HTTP library."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from os import PathLike
from pathlib import Path
from typing import Generic, TypeVar, Unpack, cast
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, ValidationError

from reelgraph.about import Media
from reelgraph.errors import ApiError, UnexpectedAnswer
from reelgraph.fields import (
    PICTURES,
    ContentOptions,
    GenerationFields,
    ImageEditFields,
    ImageGenerationFields,
    ListOptions,
    VideoFields,
)
from reelgraph.objects import ContentProvenanceCheck, Deleted, Face, File, ImagesResponse, Model, Page, Video

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

DEFAULT_URL = "http://127.0.0.1:8000"

_REFERENCES = ("file_", "data:")
"""Beginnings of file ids and of `data:` URLs."""
_CONVERTED = ("gif", "webp", "png", "jpeg")
"""Formats of content that the server makes when they are first requested."""
_POLL_S = 1.0
"""Default interval between polls, in seconds."""
_EVENT_TIMEOUT_S = 60.0
"""Read timeout of an event stream, in seconds; the server sends a keep-alive comment more often."""


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response."""

    status: int
    headers: Mapping[str, str]
    """Name in lower case → value."""
    body: bytes


@dataclass(frozen=True, slots=True)
class Part:
    """A local file that is sent as a part of a multipart request."""

    name: str
    """Name of the field."""
    path: Path
    accepts_folder: bool = False
    """Whether `path` may be a folder, which is sent as a zip archive of its files."""


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request, and the function that parses its response."""

    method: str
    path: str
    parse: Callable[[Response], T]
    query: Mapping[str, str | int] = field(default_factory=dict[str, str | int])
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    json: Mapping[str, object] | None = None
    form: Mapping[str, str | list[str]] = field(default_factory=dict[str, str | list[str]])
    parts: Sequence[Part] = ()
    """Files to send; if there are any, the request is multipart."""
    read_timeout_s: float | None = None
    """Maximum time without data from the server, in seconds; None is the client's setting, `inf` is no timeout."""


def strip_version(base_url: str) -> str:
    """Return the server's URL without a trailing `/v1`. Raises ValueError if it is not an HTTP URL."""
    if urlsplit(base_url).scheme not in ("http", "https"):
        raise ValueError(f"the server's URL must start with http:// or https://, got {base_url!r}")
    return base_url.rstrip("/").removesuffix("/v1")


def is_loopback(base_url: str) -> bool:
    """Return whether the URL is of this machine, so that requests must not go through a proxy."""
    host = urlsplit(base_url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:  # a host name
        return False


def make_auth_headers(api_key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def parse_response(call: Call[T], response: Response) -> T:
    """Return the parsed response. Raises ApiError and UnexpectedAnswer."""
    if not 200 <= response.status < 300:
        raise parse_error(response)
    try:
        return call.parse(response)
    except ValidationError as error:
        raise UnexpectedAnswer(f"{call.method} {call.path}: {error}") from error


def parse_error(response: Response) -> ApiError:
    """Return the error in a response. If the body is not in the API's format, as from a proxy, it is the message."""
    try:
        body: object = json.loads(response.body)
    except ValueError:
        body = None
    error = cast("dict[str, object]", body).get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        text = response.body.decode("utf-8", "replace").strip()[:200]
        return ApiError(response.status, text or "the response has no error message")
    detail = {name: str(value) for name, value in cast("dict[str, object]", error).items() if value is not None}
    return ApiError(
        response.status, detail.get("message", ""), detail.get("type"), detail.get("param"), detail.get("code")
    )


def upload_file(path: str | PathLike[str], purpose: str) -> Call[File]:
    parts = [Part("file", Path(path), accepts_folder=True)]
    return Call("POST", "/v1/files", _parse_as(File), form={"purpose": purpose}, parts=parts)


def list_files(**options: Unpack[ListOptions]) -> Call[Page[File]]:
    return Call("GET", "/v1/files", _parse_as(Page[File]), query=_make_query(options))


def retrieve_file(file_id: str) -> Call[File]:
    return Call("GET", f"/v1/files/{_quote_segment(file_id)}", _parse_as(File))


def delete_file(file_id: str) -> Call[Deleted]:
    return Call("DELETE", f"/v1/files/{_quote_segment(file_id)}", _parse_as(Deleted))


def create_video(model: str, fields: VideoFields) -> Call[Video]:
    """Return a JSON request, or a multipart request if a field is a local file.

    Raises:
        ValueError: a list has both local files and other values.
    """
    return _make_post("/v1/videos", _parse_as(Video), {"model": model} | _drop_none(fields))


def edit_image(fields: ImageEditFields) -> Call[ImagesResponse]:
    """Return a request to edit the first of one or more pictures; the others are references.

    Raises ValueError if a list has both local files and other values.
    """
    given = _drop_none(fields)
    image, edges = given.pop("image"), given.pop("edges", None)
    media: dict[str, object] = {"edges": _read_path(edges)} if edges is not None else {}
    if isinstance(image, list | tuple):
        images = [_read_path(each) for each in cast("Sequence[object]", image)]
        media["image[]" if any(isinstance(each, PathLike) for each in images) else "image"] = images
    else:
        media["image"] = _read_path(image)
    return _make_post("/v1/images/edits", _parse_as(ImagesResponse), {**given, **media})


def generate_image(fields: GenerationFields) -> Call[ImagesResponse]:
    """Return a JSON request, or a multipart request if the face is a local file."""
    return _make_post("/v1/images/generations", _parse_as(ImagesResponse), _drop_none(fields))


def stream_image(fields: ImageGenerationFields) -> Call[None]:
    """Return a request for a stream of events, as `generate_image`."""
    call: Call[None] = _make_post("/v1/images/generations", lambda _: None, {**_drop_none(fields), "stream": True})
    return replace(call, headers={"Accept": "text/event-stream"}, read_timeout_s=_EVENT_TIMEOUT_S)


def find_face(image: Media, model: str | None = None) -> Call[Face]:
    return _make_post("/v1/faces", _parse_as(Face), _drop_none({"image": image, "model": model}))


def check_provenance(file: Media) -> Call[ContentProvenanceCheck]:
    return _make_post("/v1/content_provenance_checks", _parse_as(ContentProvenanceCheck), {"file": file})


def list_videos(**options: Unpack[ListOptions]) -> Call[Page[Video]]:
    return Call("GET", "/v1/videos", _parse_as(Page[Video]), query=_make_query(options))


def retrieve_video(video_id: str) -> Call[Video]:
    return Call("GET", f"/v1/videos/{_quote_segment(video_id)}", _parse_as(Video))


def poll_video(video_id: str) -> Call[tuple[Video, float]]:
    """Return a request for a video, and the time until the next poll, in seconds."""
    call = retrieve_video(video_id)
    return Call("GET", call.path, lambda response: (call.parse(response), _read_poll_delay_s(response.headers)))


def delete_video(video_id: str) -> Call[Deleted]:
    return Call("DELETE", f"/v1/videos/{_quote_segment(video_id)}", _parse_as(Deleted))


def cancel_video(video_id: str) -> Call[Video]:
    return Call("POST", f"/v1/videos/{_quote_segment(video_id)}/cancel", _parse_as(Video))


def get_content(
    video_id: str, options: ContentOptions, headers: Mapping[str, str] | None = None, *, live: bool = False
) -> Call[None]:
    """Return a request for the bytes of a result.

    There is no read timeout if the job may still run (`live`), or if the server may have to convert the result first.
    """
    is_slow = live or options.get("format") in _CONVERTED
    return Call(
        "GET",
        f"/v1/videos/{_quote_segment(video_id)}/content",
        lambda _: None,
        query=_make_query(options),
        # Byte ranges refer to the uncompressed file.
        headers={"Accept-Encoding": "identity", **(headers or {})},
        read_timeout_s=math.inf if is_slow else None,
    )


def get_events(video_id: str, after: int | None) -> Call[None]:
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
    if after is not None:
        headers["Last-Event-ID"] = str(after)
    path = f"/v1/videos/{_quote_segment(video_id)}/events"
    return Call("GET", path, lambda _: None, headers=headers, read_timeout_s=_EVENT_TIMEOUT_S)


def list_models() -> Call[Page[Model]]:
    return Call("GET", "/v1/models", _parse_as(Page[Model]))


def check_health() -> Call[None]:
    return Call("GET", "/healthz", lambda _: None)


def next_page(call: Call[Page[T]], page: Page[T]) -> Call[Page[T]] | None:
    """Return the call for the next page, or None after the last page."""
    if not page.has_more or page.last_id is None:
        return None
    return replace(call, query={**call.query, "after": page.last_id})


def _make_post(path: str, parse: Callable[[Response], T], fields: Mapping[str, object]) -> Call[T]:
    """Return a JSON request, or a multipart request if a field is a local file. Raises ValueError."""
    parts = [part for name, value in fields.items() for part in _list_parts(name, value)]
    if not parts:
        return Call("POST", path, parse, json=fields)
    files = {part.name for part in parts}
    form = _make_form({name: value for name, value in fields.items() if name not in files})
    return Call("POST", path, parse, form=form, parts=parts)


def _parse_as(model: type[M]) -> Callable[[Response], M]:
    return lambda response: model.model_validate_json(response.body)


def _drop_none(fields: Mapping[str, object]) -> dict[str, object]:
    return {name: _drop_nested_none(value) for name, value in fields.items() if value is not None}


def _drop_nested_none(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return _drop_none(cast("Mapping[str, object]", value)) if isinstance(value, Mapping) else value


def _make_query(options: ListOptions | ContentOptions) -> dict[str, str | int]:
    return cast("dict[str, str | int]", _drop_none(options))


def _make_form(fields: Mapping[str, object]) -> dict[str, str | list[str]]:
    """Return form fields: strings unchanged, a list of strings as a repeated field, other values as JSON."""
    return {name: _format_value(value) for name, value in fields.items()}


def _format_value(value: object) -> str | list[str]:
    if isinstance(value, str):
        return value
    entries = cast("Sequence[object]", value if isinstance(value, list | tuple) else ())
    texts = [entry for entry in entries if isinstance(entry, str)]
    return texts if texts and len(texts) == len(entries) else json.dumps(value)


def _read_path(value: object) -> object:
    """Return a medium that is neither a file id nor a `data:` URL as a path."""
    return Path(value) if isinstance(value, str) and not value.startswith(_REFERENCES) else value


def _list_parts(name: str, value: object) -> Iterator[Part]:
    """Yield the local files in a field's value. Raises ValueError."""
    if isinstance(value, PathLike):
        yield Part(name, Path(cast("PathLike[str]", value)), accepts_folder=name in PICTURES)
    elif isinstance(value, list | tuple):
        entries = cast("Sequence[object]", value)
        paths = [Path(cast("PathLike[str]", entry)) for entry in entries if isinstance(entry, PathLike)]
        if paths and len(paths) < len(entries):
            raise ValueError(f"{name}: a list must have either only paths or only file ids and data: URLs")
        yield from (Part(name, path) for path in paths)


def _quote_segment(name: str) -> str:
    """Return an id as a segment of a URL's path. Raises ValueError if it is empty."""
    if not name:
        raise ValueError("the id must not be empty")
    return quote(name, safe="")


def _read_poll_delay_s(headers: Mapping[str, str]) -> float:
    """Return the time until the next poll, in seconds, from the headers of a response."""
    try:
        if "openai-poll-after-ms" in headers:
            return max(0.0, float(headers["openai-poll-after-ms"]) / 1000)
        return max(0.0, float(headers.get("retry-after", _POLL_S)))
    except ValueError:  # `Retry-After` may also be a date
        return _POLL_S
