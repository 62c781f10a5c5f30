"""Requests built and answers understood. No I/O, and nothing of the library that does it."""

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
from reelgraph.objects import Deleted, Face, File, ImagesResponse, Model, Page, Video

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

DEFAULT_URL = "http://127.0.0.1:8000"

_POLL_S = 1.0
_SILENCE_S = 60.0
"""An event stream that says nothing for so long, not even `: keep-alive`, is dead."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. The names of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Part:
    """A file on this disk that is sent along, under a field's name."""

    name: str
    path: Path
    or_folder: bool = False
    """Whether it may be a folder, which is sent as a zip of the files in it."""


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request, and how its answer is understood."""

    method: str
    path: str
    parse: Callable[[Answer], T]
    query: Mapping[str, str | int] = field(default_factory=dict[str, str | int])
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    json: Mapping[str, object] | None = None
    form: Mapping[str, str | list[str]] = field(default_factory=dict[str, str | list[str]])
    parts: Sequence[Part] = ()
    """Where there are any, the request is multipart."""
    silence_s: float | None = None
    """How long the server may say nothing, where that is not what the client is set to; `inf` is for ever."""


def root(base_url: str) -> str:
    """Return the server's address without `/v1`, which people write and leave out alike."""
    if urlsplit(base_url).scheme not in ("http", "https"):
        raise ValueError(f"the server's address must begin with http:// or https://, got {base_url!r}")
    return base_url.rstrip("/").removesuffix("/v1")


def is_here(base_url: str) -> bool:
    """Whether the address is this machine's own, which no proxy can reach."""
    host = urlsplit(base_url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def authorization(api_key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def understood(call: Call[T], answer: Answer) -> T:
    """Return what the answer says. Raises ApiError and UnexpectedAnswer."""
    if not 200 <= answer.status < 300:
        raise error_of(answer)
    try:
        return call.parse(answer)
    except ValidationError as error:
        raise UnexpectedAnswer(f"{call.method} {call.path}: {error}") from error


def error_of(answer: Answer) -> ApiError:
    """Return the error that an answer is. Proxies answer with other bodies than the API does."""
    try:
        told: object = json.loads(answer.body)
    except ValueError:
        told = None
    error = cast("dict[str, object]", told).get("error") if isinstance(told, dict) else None
    if not isinstance(error, dict):
        text = answer.body.decode("utf-8", "replace").strip()[:200]
        return ApiError(answer.status, text or "the server gave no reason")
    said = {name: str(value) for name, value in cast("dict[str, object]", error).items() if value is not None}
    return ApiError(answer.status, said.get("message", ""), said.get("type"), said.get("param"), said.get("code"))


def upload_file(path: str | PathLike[str], purpose: str) -> Call[File]:
    parts = [Part("file", Path(path), or_folder=True)]
    return Call("POST", "/v1/files", _as(File), form={"purpose": purpose}, parts=parts)


def list_files(**options: Unpack[ListOptions]) -> Call[Page[File]]:
    return Call("GET", "/v1/files", _as(Page[File]), query=_query(options))


def retrieve_file(file_id: str) -> Call[File]:
    return Call("GET", f"/v1/files/{_segment(file_id)}", _as(File))


def delete_file(file_id: str) -> Call[Deleted]:
    return Call("DELETE", f"/v1/files/{_segment(file_id)}", _as(Deleted))


def create_video(model: str, fields: VideoFields) -> Call[Video]:
    """JSON, unless a field is a file on this disk: then multipart, everything else as form fields.

    Raises:
        ValueError: a list holds both files on this disk and others.
    """
    return _posted("/v1/videos", _as(Video), {"model": model} | _given(fields))


def edit_image(fields: ImageEditFields) -> Call[ImagesResponse]:
    """One picture is edited; of two, the first is the edges along which the second is edited."""
    given = _given(fields)
    given.pop("image")
    image = fields["image"]
    if isinstance(image, str | PathLike):
        parts = [Part("image", Path(image))]
    else:
        parts = [Part("image[]", Path(path)) for path in image]
    return Call("POST", "/v1/images/edits", _as(ImagesResponse), form=_form(given), parts=parts)


def generate_image(fields: GenerationFields) -> Call[ImagesResponse]:
    """JSON, unless the face is a file on this disk."""
    return _posted("/v1/images/generations", _as(ImagesResponse), _given(fields))


def stream_image(fields: ImageGenerationFields) -> Call[None]:
    """The same as a stream of events."""
    call: Call[None] = _posted("/v1/images/generations", lambda _: None, {**_given(fields), "stream": True})
    return replace(call, headers={"Accept": "text/event-stream"}, silence_s=_SILENCE_S)


def find_face(image: Media, model: str | None = None) -> Call[Face]:
    return _posted("/v1/faces", _as(Face), _given({"image": image, "model": model}))


def list_videos(**options: Unpack[ListOptions]) -> Call[Page[Video]]:
    return Call("GET", "/v1/videos", _as(Page[Video]), query=_query(options))


def retrieve_video(video_id: str) -> Call[Video]:
    return Call("GET", f"/v1/videos/{_segment(video_id)}", _as(Video))


def poll_video(video_id: str) -> Call[tuple[Video, float]]:
    """The video, and after how many seconds the server wants to be asked again."""
    call = retrieve_video(video_id)
    return Call("GET", call.path, lambda answer: (call.parse(answer), _poll_delay_s(answer.headers)))


def delete_video(video_id: str) -> Call[Deleted]:
    return Call("DELETE", f"/v1/videos/{_segment(video_id)}", _as(Deleted))


def cancel_video(video_id: str) -> Call[Video]:
    return Call("POST", f"/v1/videos/{_segment(video_id)}/cancel", _as(Video))


def content(
    video_id: str, options: ContentOptions, headers: Mapping[str, str] | None = None, *, live: bool = False
) -> Call[None]:
    """The bytes of a result. `live`: the job may still run, and then nobody knows when the next ones come."""
    return Call(
        "GET",
        f"/v1/videos/{_segment(video_id)}/content",
        lambda _: None,
        query=_query(options),
        headers={
            "Accept-Encoding": "identity",
            **(headers or {}),
        },  # a byte range counts the bytes that lie on the server
        silence_s=math.inf if live else None,
    )


def events(video_id: str, after: int | None) -> Call[None]:
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
    if after is not None:
        headers["Last-Event-ID"] = str(after)
    path = f"/v1/videos/{_segment(video_id)}/events"
    return Call("GET", path, lambda _: None, headers=headers, silence_s=_SILENCE_S)


def list_models() -> Call[Page[Model]]:
    return Call("GET", "/v1/models", _as(Page[Model]))


def health() -> Call[None]:
    return Call("GET", "/healthz", lambda _: None)


def next_page(call: Call[Page[T]], page: Page[T]) -> Call[Page[T]] | None:
    """The call for the page behind this one; None behind the last."""
    if not page.has_more or page.last_id is None:
        return None
    return replace(call, query={**call.query, "after": page.last_id})


def _posted(path: str, parse: Callable[[Answer], T], given: Mapping[str, object]) -> Call[T]:
    """JSON, unless a field is a file on this disk: then multipart, everything else as form fields."""
    parts = [part for name, value in given.items() for part in _parts(name, value)]
    if not parts:
        return Call("POST", path, parse, json=given)
    sent = {part.name for part in parts}
    form = _form({name: value for name, value in given.items() if name not in sent})
    return Call("POST", path, parse, form=form, parts=parts)


def _as(model: type[M]) -> Callable[[Answer], M]:
    return lambda answer: model.model_validate_json(answer.body)


def _given(fields: Mapping[str, object]) -> dict[str, object]:
    return {name: _without_none(value) for name, value in fields.items() if value is not None}


def _without_none(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return _given(cast("Mapping[str, object]", value)) if isinstance(value, Mapping) else value


def _query(options: ListOptions | ContentOptions) -> dict[str, str | int]:
    return cast("dict[str, str | int]", _given(options))


def _form(fields: Mapping[str, object]) -> dict[str, str | list[str]]:
    """Texts as they are, several of them as a field that is repeated, everything else as JSON."""
    return {name: _text(value) for name, value in fields.items()}


def _text(value: object) -> str | list[str]:
    if isinstance(value, str):
        return value
    entries = cast("Sequence[object]", value if isinstance(value, list | tuple) else ())
    texts = [entry for entry in entries if isinstance(entry, str)]
    return texts if texts and len(texts) == len(entries) else json.dumps(value)


def _parts(name: str, value: object) -> Iterator[Part]:
    """Yield the files that a field's value means. Raises ValueError."""
    if isinstance(value, PathLike):
        yield Part(name, Path(cast("PathLike[str]", value)), or_folder=name in PICTURES)
    elif isinstance(value, list | tuple):
        entries = cast("Sequence[object]", value)
        paths = [Path(cast("PathLike[str]", entry)) for entry in entries if isinstance(entry, PathLike)]
        if paths and len(paths) < len(entries):
            raise ValueError(f"{name}: a list holds either paths or file ids and data: URLs, not both")
        yield from (Part(name, path) for path in paths)


def _segment(name: str) -> str:
    if not name:
        raise ValueError("the id is empty")
    return quote(name, safe="")


def _poll_delay_s(headers: Mapping[str, str]) -> float:
    try:
        if "openai-poll-after-ms" in headers:
            return max(0.0, float(headers["openai-poll-after-ms"]) / 1000)
        return max(0.0, float(headers.get("retry-after", _POLL_S)))
    except ValueError:  # `Retry-After` may be a date
        return _POLL_S
