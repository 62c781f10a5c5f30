"""Server-sent events, however they are cut."""

import pytest

from reelgraph.sse import Decoder, Message

WIRE = (
    "\ufeff: hello\n\n"
    "id: 1\nevent: text\ndata: ein Bär\u2028läuft\n\n"
    "event: two\r\ndata: first\r\ndata:second\r\n\r\n"
    "data\r\r"
    "unknown: field\nid: 9\n\n"
    ": keep-alive\n\n"
    "id:3\nretry: 10\ndata: : \n\n"
    "id: 4\ndata: never ended"
).encode()
MESSAGES = [
    Message("text", "ein Bär\u2028läuft", "1"),
    Message("two", "first\nsecond", None),
    Message("message", "", None),
    Message("message", ": ", "3"),
]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 11, 50, 1000])
def test_messages_do_not_depend_on_how_the_bytes_are_cut(size: int) -> None:
    decoder = Decoder()
    chunks = [WIRE[start : start + size] for start in range(0, len(WIRE), size)]
    assert [message for chunk in chunks for message in decoder.feed(chunk)] == MESSAGES
