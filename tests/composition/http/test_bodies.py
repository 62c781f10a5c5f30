"""Request bodies: JSON and forms are parsed into the same fields, and media fields are separated."""

import asyncio
import gc
import json
import os
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import httpx
import psutil
import pytest
from starlette.requests import Request

from composition.http.bodies import Body, BodySettings, Message, read_body, take_media
from composition.http.forms import MAX_PARTS, Part
from composition.media.limits import MediaKind
from services.errors import InvalidParameter, InvalidRequest, LimitExceeded, PayloadTooLarge, ReelError
from tests.memory import trace_memory

SETTINGS = BodySettings()
KINDS: dict[str, MediaKind] = {"init_frame": "image", "edge_frames": "pictures", "edge_video": "video"}
FORM = "application/x-www-form-urlencoded"


def asked(body: bytes, content_type: str, chunk: int = 65536, length: str | None = None) -> Request:
    """Return a request whose body arrives in chunks."""
    messages: Iterator[Message] = iter(
        [{"type": "http.request", "body": body[i : i + chunk], "more_body": True} for i in range(0, len(body), chunk)]
        + [{"type": "http.request", "body": b"", "more_body": False}]
    )

    async def receive() -> Message:
        return next(messages)

    named = {"content-type": content_type} | ({"content-length": length} if length else {})
    scope = {"type": "http", "method": "POST", "headers": [(k.encode(), v.encode()) for k, v in named.items()]}
    return Request(scope, receive)


def form(files: list[tuple[str, Any]], data: dict[str, Any] | None = None, chunk: int = 65536) -> Request:
    """Return a multipart request encoded by httpx."""
    request = httpx.Request("POST", "http://x", files=files, data=data)
    return asked(request.read(), request.headers["content-type"], chunk)


def written(fields: list[tuple[str, str, bytes]], chunk: int = 1 << 20) -> Request:
    """Return a multipart request of files (name, file name, content), encoded without a library."""
    head = '--b\r\nContent-Disposition: form-data; name="{}"; filename="{}"\r\n\r\n'
    body = b"".join(head.format(name, file).encode() + data + b"\r\n" for name, file, data in fields) + b"--b--\r\n"
    return asked(body, "multipart/form-data; boundary=b", chunk)


@asynccontextmanager
async def read(request: Request, settings: BodySettings = SETTINGS) -> AsyncIterator[dict[str, Any]]:
    async with read_body(request, settings) as body:
        yield body.fields


def content(value: Any) -> Any:
    """Return the value of a field, with files as (name, bytes)."""
    if isinstance(value, list):
        return [content(each) for each in value]
    return (value.name, value.file.read()) if isinstance(value, Part) else value


async def refusal(request: Request, settings: BodySettings = SETTINGS) -> ReelError:
    with pytest.raises(ReelError) as caught:
        async with read(request, settings):
            pass
    return caught.value


@pytest.mark.parametrize("chunk", [1, 7, 65536])
async def test_a_form_is_its_fields_and_files(chunk: int) -> None:
    files = [("edge_frames", ("a.png", b"one")), ("edge_frames", ("b.png", b"\r\n--two"))]
    files += [("init_frame", ("ü.png", b"")), ("edge_video[]", ("c", bytes(range(256)) * 3))]
    data = {"prompt": "schön\r\n", "ttlg[edge_scale]": "1", "ttlg[lr]": "0.1", "ids[]": "x", "many": ["1", "2", "3"]}
    async with read(form(files, data, chunk)) as fields:
        assert {name: content(value) for name, value in fields.items()} == {
            "prompt": "schön\r\n",
            "ttlg": {"edge_scale": "1", "lr": "0.1"},
            "ids": ["x"],
            "many": ["1", "2", "3"],
            "edge_frames": [("a.png", b"one"), ("b.png", b"\r\n--two")],
            "init_frame": ("ü.png", b""),
            "edge_video": [("c", bytes(range(256)) * 3)],
        }


async def test_the_other_form_and_json_are_the_same_fields() -> None:
    fields = {"prompt": "a&b ü", "edge_frames": ["file_a", "file_b"], "ttlg": {"lr": "1"}, "empty": ""}
    flat = "prompt=a%26b+%C3%BC&edge_frames=file_a&edge_frames[]=file_b&ttlg%5Blr%5D=1&empty="
    for body, kind in ((flat, f"{FORM}; charset=utf-8"), (json.dumps(fields), "Application/JSON")):
        async with read(asked(body.encode(), kind)) as got:
            assert got == fields


async def test_parts_are_files_of_their_own() -> None:
    """Each has its own position, independent of reads from the others."""
    async with read(written([("f", str(n), bytes([n]) * 100) for n in range(3)])) as fields:
        first, second, third = (part.file for part in fields["f"])
        assert (first.read(40), second.read(1), first.read(40), first.read(), first.read()) == (
            b"\0" * 40,
            b"\1",
            b"\0" * 40,
            b"\0" * 20,
            b"",
        )
        assert (third.seek(-10, os.SEEK_END), third.read(50)) == (90, b"\2" * 10)
        assert (second.seek(98), second.read(), second.seek(500), second.read()) == (98, b"\1\1", 500, b"")
    with pytest.raises(ValueError, match="closed"):
        first.read(0)


def open_files() -> int:
    """Return the number of open files of this process, after garbage collection."""
    gc.collect()
    return psutil.Process().num_fds()


async def test_a_long_list_costs_one_open_file_and_no_memory() -> None:
    """A form with 10,000 files, 40 MB. Starlette would keep each in memory or open a temporary file for each."""
    request = written([("edge_frames", f"{n}.png", n.to_bytes(4) * 1000) for n in range(10_000)])
    before = open_files()
    with trace_memory() as memory:
        async with read(request) as fields:
            assert open_files() <= before + 1
            assert len(fields["edge_frames"]) == 10_000
            assert memory.read() < 12 << 20
            for n in (0, 1, 4711, 9999):
                assert content(fields["edge_frames"][n]) == (f"{n}.png", n.to_bytes(4) * 1000)
    assert open_files() <= before


async def test_limits_of_a_form() -> None:
    many = await refusal(written([("f", "a", b"")] * (MAX_PARTS + 1)))
    assert isinstance(many, LimitExceeded)
    assert str(MAX_PARTS) in many.message
    flat = "&".join(f"f{n}=1" for n in range(MAX_PARTS + 1))
    assert str(MAX_PARTS) in (await refusal(asked(flat.encode(), FORM))).message
    small = BodySettings(max_json_bytes=1000)
    text = await refusal(form([("f", ("a", b"1"))], {"a": "x" * 500, "b": "y" * 501}), small)
    assert isinstance(text, PayloadTooLarge)
    assert "1000" in text.message
    async with read(form([("f", ("a", bytes(5000)))], {"a": "x" * 500, "b": "y" * 500}), small) as fields:
        assert len(fields["b"]) == 500
    for kind in (FORM, "application/json"):
        assert isinstance(await refusal(asked(b"a=" + b"x" * 1000, kind), small), PayloadTooLarge)
    whole = BodySettings(max_body_bytes=4000)
    assert "4000" in (await refusal(form([("f", ("a", bytes(5000)))]), whole)).message
    said = asked(b"{}", "application/json", length="99999")
    assert "99999" in (await refusal(said, small)).message
    assert isinstance(await refusal(asked(b"", FORM, length="-1")), InvalidRequest)


HEAD = b'--b\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n'


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (HEAD + b"cut o", "multipart/form-data; boundary=b", "form is incomplete"),
        (b"", "multipart/form-data; boundary=b", "form is incomplete"),
        (HEAD + b"x\r\n--b--\r\n", "multipart/form-data", "needs a boundary"),
        (HEAD + b"x\r\n--b--\r\n", f"multipart/form-data; boundary={'b' * 500}", "not a multipart form"),
        (b"no form at all", "multipart/form-data; boundary=b", "not a multipart form"),
        (b"--b\r\nBad Header\r\n\r\nx\r\n--b--\r\n", "multipart/form-data; boundary=b", "not a multipart form"),
        (b"--b\r\nContent-Type: a/b\r\n\r\nx\r\n--b--\r\n", "multipart/form-data; boundary=b", "has no name"),
        (b"a=1&a[b]=2", FORM, "a: give either"),
        (b"a[b]=2&a=1", FORM, "a: give either"),
        (b"[]", "application/json", "JSON object"),
        (b"{", "application/json", "not JSON"),
        (b"x", "text/plain", "Content-Type"),
        (b"x", "", "Content-Type"),
        (b"[" * 100_000, "application/json", "limit of 64"),
        (b'{"a": "\xff"}', "application/json", "not JSON"),
        ('{"a": 1}'.encode("utf-16"), "application/json; charset=utf-16", "not JSON"),
    ],
)
async def test_bodies_that_cannot_be_read(body: bytes, kind: str, words: str) -> None:
    error = await refusal(asked(body, kind))
    assert isinstance(error, InvalidRequest)
    assert words in error.message


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "text/plain",
        "text/plain; charset=application/json",
        "text/json",
        "application/x-json",
        "application/json5",
        "application/problem+json",
        "application/json, text/plain",
        "application/json/x",
        "json",
        "*/*",
        "multipart/mixed; boundary=b",
    ],
)
async def test_json_is_json_by_its_type_alone(kind: str) -> None:
    """A page of another site can send text/plain or no type without a CORS preflight."""
    error = await refusal(asked(b'{"prompt": "x"}', kind))
    assert (type(error), error.param) == (InvalidRequest, "Content-Type")


@pytest.mark.parametrize("kind", ["application/json", "application/json;charset=UTF-8", 'APPLICATION/JSON ; x="y"'])
async def test_json_may_name_its_charset_and_begin_with_a_mark(kind: str) -> None:
    for body in (b'{"prompt": "\xc3\xbc"}', b'\xef\xbb\xbf{"prompt": "\xc3\xbc"}'):
        async with read(asked(body, kind, chunk=3)) as fields:
            assert fields == {"prompt": "ü"}


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (asked(rb'{"prompt": "a\u0000"}', "application/json"), "prompt"),
        (asked(rb'{"script": {"scenes": [{"style": "\ud800"}]}}', "application/json"), "script.scenes.0.style"),
        (asked(rb'{"\udfff": 1}', "application/json"), "body"),
        (asked(b"prompt=a%00", FORM), "prompt"),
        (asked(b"seed=1&a%00b=1", FORM), "body"),
        (form([("f", ("a", b"1"))], {"prompt": "a\0"}), "prompt"),
        (written([("f", "a\0.png", b"1")]), "f"),
        (written([("f\0", "a.png", b"1")]), "body"),
    ],
)
async def test_texts_that_no_database_holds_are_named(request_: Request, param: str) -> None:
    error = await refusal(request_)
    assert (type(error), error.param) == (InvalidParameter, param)
    assert "must not contain" in error.message
    error.message.encode()


async def test_surrogates_that_came_as_bytes_are_letters() -> None:
    """A form that is not UTF-8 is decoded as Latin-1, in which every byte is a character."""
    async with read(asked(b"prompt=%ED%A0%80", FORM)) as fields:
        assert fields == {"prompt": "í\xa0\x80"}


async def test_a_form_has_as_many_names_as_an_object() -> None:
    flat = "&".join(f"f{n}=1" for n in range(257)).encode()
    parts = [(f"f{n}", "a", b"") for n in range(257)]
    for request in (asked(flat, FORM), written(parts)):
        error = await refusal(request)
        assert isinstance(error, LimitExceeded)
        assert "more distinct field names than the limit of 256" in error.message


async def test_long_values_of_an_urlencoded_form_keep_their_escapes_whole() -> None:
    for shift in range(3):
        value = "x" * shift + "ü+%" * 4000
        async with read(asked(urlencode({"prompt": value}).encode(), FORM)) as fields:
            assert fields == {"prompt": value}
    async with read(asked(b"&a=%4&b=%zz%&c+d=%2B+&=e&f&", FORM)) as fields:
        assert fields == {"a": "%4", "b": "%zz%", "c d": "+ ", "": "e", "f": ""}


async def test_leaving_by_an_error_or_by_cancelling_closes_the_files() -> None:
    before = open_files()
    with pytest.raises(RuntimeError, match="ours"):
        async with read(written([("f", "a", b"1")])):
            raise RuntimeError("ours")

    there = asyncio.Event()

    async def for_ever() -> None:
        async with read(written([("f", "a", b"1")])):
            there.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(for_ever())
    await there.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert open_files() <= before


def test_media_is_taken_under_its_own_name() -> None:
    body = Body(
        {"input_reference": {"file_id": "file_a"}, "edge_frames": ["file_b", {"image_url": "data:x"}], "seed": 1}
    )
    media, fields = take_media(KINDS, "init_frame", body)
    assert media == {"init_frame": "file_a", "edge_frames": ["file_b", "data:x"]}
    assert fields == {"seed": 1}
    assert "edge_frames" in body.fields
    assert take_media(KINDS, "", Body({"init_frame": None, "x": None})) == ({}, {"x": None})
    assert take_media(KINDS, "", Body({"input_reference": "file_a"}))[1] == {"input_reference": "file_a"}
    assert take_media(KINDS, "edge_frames", Body({"input_reference": ["a", "b"]}))[0] == {"edge_frames": ["a", "b"]}


PART = Part(open(os.devnull, "rb"), "a")  # noqa: SIM115, PTH123 - never read


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"init_frame": ["file_a"]}, "init_frame", r"init_frame: must be a file id .*only one"),
        ({"edge_video": [PART, PART]}, "edge_video", r"only one"),
        ({"input_reference": [PART]}, "input_reference", r"input_reference: .*only one"),
        ({"init_frame": 7}, "init_frame", r"file id"),
        ({"init_frame": {}}, "init_frame", r"file id"),
        ({"edge_frames": ["file_a", 7]}, "edge_frames", r"edge_frames\[1\]: must be a file id"),
        ({"edge_frames": ["file_a", ["file_b"]]}, "edge_frames", r"edge_frames\[1\]: must be a file id"),
        ({"init_frame": "a", "input_reference": "b"}, "init_frame", "not both"),
        ({"face": PART}, "face", "no such media field"),
        ({"face": ["x", PART]}, "face", "no such media field"),
        ({"a[b]": PART}, "a[b]", "no such media field"),
    ],
)
def test_media_that_is_none(fields: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(InvalidParameter, match=words) as caught:
        take_media(KINDS, "init_frame", Body(fields))
    assert caught.value.param == param
    assert re.match(re.escape(param), caught.value.message)


async def test_files_are_not_nested() -> None:
    async with read(form([("a[b]", ("c", b"d"))], {"a[e]": "f"})) as fields:
        assert content(fields["a[b]"]) == ("c", b"d")
        assert fields["a"] == {"e": "f"}
