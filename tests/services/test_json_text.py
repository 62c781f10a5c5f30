"""Parsing of received JSON: results equal json.loads, unsupported text is reported, and memory is limited."""

import json
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.allowance import MAX_JSON_BYTES, MEMORY_RATIO, Allowance, allowing, current_allowance, text_cost
from services.errors import LimitExceeded, PayloadTooLarge
from services.json_text import MAX_DEPTH, MAX_FIELDS, UnusableText, read_json, read_json_text, unusable
from services.limits import parse_json_object
from tests.memory import trace_memory
from tests.services.hostile_json import HOSTILE, LIMIT, fits, most_sent, most_taken, repeated

characters = st.characters(codec="utf-8", exclude_characters="\0")
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(characters),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(characters), inner, max_size=5),
    max_leaves=30,
)
SPACES = st.sampled_from([None, 0, 2, "\t"])


@settings(deadline=None)
@given(values, st.booleans(), SPACES)
def test_json_is_read_as_it_always_was(value: object, plain: bool, indent: int | str | None) -> None:
    data = json.dumps(value, ensure_ascii=plain, indent=indent).encode()
    assert read_json(data) == value
    assert read_json_text(data.decode()) == value


@settings(deadline=None)
@given(st.binary(max_size=40) | st.text('[]{}",:\\u0dc8 1e', max_size=40).map(str.encode))
def test_what_json_loads_refuses_is_refused(data: bytes) -> None:
    """`read_json` also rejects text that cannot be stored, and UTF-16."""
    try:
        read = read_json(data)
    except (ValueError, LimitExceeded):
        return
    assert json.loads(data) == read


def test_numbers_keep_all_their_digits() -> None:
    told = b"[0.1, 1e400, -1e-400, 123456789012345678901234567890, 0.044194173067808151, 5e-324]"
    assert repr(read_json(told)) == repr(json.loads(told))


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (r'"\u0000"', ""),
        (r'["a", "b\u0000"]', "1"),
        (r'{"prompt": "\ud800"}', "prompt"),
        (r'{"a": 1, "prompt": "x\udc00y"}', "prompt"),
        (r'{"script": {"scenes": [{}, {"style": "\ud83d\ud83d"}]}}', "script.scenes.1.style"),
        (r'{"a": [[], {"b": 1}, "\uD800\\uDC00"]}', "a.2"),
        (r'{"a": {"b": 1}, "\ud800": 2}', ""),
        (r'{"a": {"b": 1, "c\u0000": 2}}', "a"),
        (r'{"' + "k" * 5000 + r'": "\u0000"}', "k" * 59),
    ],
)
def test_a_text_that_cannot_be_stored_is_named(text: str, path: str) -> None:
    with pytest.raises(UnusableText, match="must not contain") as caught:
        read_json(text.encode())
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r'"\\u0000"', "\\u0000"),
        (r'"\\\\ud800"', "\\\\ud800"),
        (r'"\ud83d\ude00\u00e9\u4e2d"', "😀é中"),
        (r'"\"\\\/\b\f\n\r\t"', '"\\/\b\f\n\r\t'),
    ],
)
def test_what_looks_like_one_is_not(text: str, value: str) -> None:
    assert read_json(text.encode()) == value


@pytest.mark.parametrize("text", ["a\0", "\ud800", "x\udfff"])
def test_texts_that_came_otherwise_are_looked_at_too(text: str) -> None:
    assert "must not contain" in (unusable(text) or "")
    assert unusable("x\x01\x7f\ue000\U0010ffff") is None


@pytest.mark.parametrize(
    "data", [b'["\x00"]', b'["\x1f"]', b'["\xff"]', b'["\xed\xa0\x80"]', b'["\\x"]', b'["\\u12"]', b'["a']
)
def test_what_is_no_text_at_all_is_no_json(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"byte|line 1 column"):
        read_json(data)


def test_depth_and_fields_have_limits() -> None:
    assert read_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    for opened, closed in ((b"[", b"]"), (b'{"a":', b"}")):
        with pytest.raises(LimitExceeded, match="limit of 64 levels"):
            read_json(opened * (MAX_DEPTH + 1) + b"0" + closed * (MAX_DEPTH + 1))
    with pytest.raises(LimitExceeded, match="limit of 64 levels"):
        read_json(b"[" * 1_000_000)
    assert len(read_json(fields(MAX_FIELDS))) == MAX_FIELDS  # pyright: ignore[reportArgumentType]
    with pytest.raises(LimitExceeded, match="the JSON: has more fields than the limit of 256"):
        read_json(fields(MAX_FIELDS + 1))
    with pytest.raises(LimitExceeded, match=r"a\.0: has more fields than the limit of 256"):
        read_json(b'{"a": [' + fields(MAX_FIELDS + 1) + b"]}")


def fields(count: int) -> bytes:
    return json.dumps(dict.fromkeys(map(str, range(count)), 0)).encode()


def read(data: bytes) -> tuple[bool, int]:
    """Parse a body; return whether it was accepted, and the peak of Python's memory in bytes, including the body."""
    with trace_memory() as memory:
        taken = fits(data)
    return taken, memory.peak + len(data)


@pytest.mark.parametrize("shape", HOSTILE)
def test_no_body_takes_more_memory_than_four_times_the_limit(shape: str) -> None:
    written = HOSTILE[shape]
    read(b"[]")  # objects that are created once
    for data, taken in ((written(most_sent(written)), None), (written(most_taken(written)), True)):
        was_taken, peak = read(data)
        assert taken in (None, was_taken)
        assert peak <= MEMORY_RATIO * LIMIT, f"{len(data)} bytes took {peak}"


def test_the_refusal_names_the_limit() -> None:
    with pytest.raises(PayloadTooLarge, match=r"limit of 4194304 bytes of memory \(4 times max_json_bytes\)"):
        read_json(repeated(b"[]")(MAX_JSON_BYTES // 3))


def legit() -> dict[str, Any]:
    scene: dict[str, Any] = {
        "description": "“A boat” leaves the harbour — at dawn. " * 120,
        "duration": 3.25,
        "style": "oil, " * 300,
    }
    face = {"embedding": [n / 7 for n in range(512)], "keypoints": [[0.1, 0.2]] * 5, "box": [0.1, 0.2, 0.3, 0.4]}
    return {
        "a script": {"script": {"title": "t", "scenes": [scene | {"scene_number": n} for n in range(1, 101)]}},
        "a short script": {"scenes": [{"scene_number": n, "description": "x", "duration": 1} for n in range(1, 101)]},
        "a face": {"identity": face},
        "files": {"edge_frames": [f"file_{n:032x}" for n in range(10_000)]},
        "reference objects": {"edge_frames": [{"file_id": f"file_{n:032x}"} for n in range(10_000)]},
        "a data: URL": {"prompt": "🎬", "image": f"data:image/png;base64,{'QUJD/9+a' * 130_000}"},
    }


@pytest.mark.parametrize("name", legit())
@pytest.mark.parametrize("plain", [True, False])
def test_what_may_be_asked_for_is_read(name: str, plain: bool) -> None:
    value = legit()[name]
    data = json.dumps(value, ensure_ascii=plain).encode()
    assert len(data) <= MAX_JSON_BYTES
    allowance = Allowance()
    with allowing(allowance), allowance.lent(len(data)):
        assert read_json(data) == value


def test_an_escaped_data_url_is_read() -> None:
    """PHP escapes the slashes of such a URL."""
    url = "data:image/png;base64," + "QUJD/9+a" * 120_000
    data = json.dumps({"image": url}).replace("/", "\\/").encode()
    allowance = Allowance()
    with allowing(allowance), allowance.lent(len(data)):
        assert read_json(data) == {"image": url}


def test_all_json_of_a_request_shares_its_memory() -> None:
    text = repeated(b"[]")(12_000).decode()
    with allowing(Allowance()) as nothing:
        assert nothing is None
        assert current_allowance() is not None
        assert [len(parse_json_object(text)) for _ in range(3)] == [12_000] * 3  # pyright: ignore[reportArgumentType]
        with pytest.raises(PayloadTooLarge):
            parse_json_object(text)
    assert current_allowance() is None
    assert parse_json_object(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x", "must be a JSON object"),
        ("\ud800", "must be a JSON object"),
        ("[" * 100, "limit of 64 levels"),
        (r'{"a": ["\u0000"]}', "a.0: must not contain the character NUL"),
    ],
)
def test_a_field_that_is_no_json(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_json_object(text)


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=200))
def test_a_text_costs_what_python_says(text: str) -> None:
    data = text.encode()
    cost = text_cost(b"  " + data + b"  ", 2, 2 + len(data))
    assert sys.getsizeof(text) <= cost.kept <= sys.getsizeof(text) + 96
