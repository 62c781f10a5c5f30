"""JSON bodies of many shapes that are designed to need much memory when parsed."""

import itertools
from collections.abc import Callable

from services.allowance import LEAST_BYTES, Allowance, allowing
from services.errors import PayloadTooLarge
from services.json_text import read_json

LIMIT = LEAST_BYTES
"""Maximum size of these bodies in bytes; small, so that the tests are fast."""


def repeated(item: bytes) -> Callable[[int], bytes]:
    return lambda count: b"[" + b",".join(itertools.repeat(item, count)) + b"]"


def numbered(item: str, first: int = 0) -> Callable[[int], bytes]:
    return lambda count: b"[" + b",".join((item % n).encode() for n in range(first, first + count)) + b"]"


def one_text(start: str, end: str) -> Callable[[int], bytes]:
    return lambda count: f'["{start * count}{end}"]'.encode()


def objects(size: int) -> Callable[[int], bytes]:
    """Return a writer of objects with `size` fields each, all with different names."""

    def written(count: int) -> bytes:
        names = iter(range(count * size))
        return (
            b"["
            + b",".join(b"{" + b",".join(b'"%x":0' % next(names) for _ in range(size)) + b"}" for _ in range(count))
            + b"]"
        )

    return written


HOSTILE: dict[str, Callable[[int], bytes]] = {
    "empty lists": repeated(b"[]"),
    "empty objects": repeated(b"{}"),
    "nested": repeated(b"[" * 60 + b"]" * 60),
    "nested objects": repeated(b'{"a":' * 60 + b"0" + b"}" * 60),
    "small numbers": repeated(b"0"),
    "numbers": numbered("%d", 1000),
    "fractions": repeated(b"0.5"),
    "long numbers": repeated(b"9" * 4000),
    "words": repeated(b"null"),
    "empty texts": repeated(b'""'),
    "short texts": numbered('"%x"', 4096),
    "longer texts": numbered('"%040x"'),
    "latin-1": numbered('"é%x"'),
    "chinese": numbered('"中%x"'),
    "emoji": numbered('"😀%x"'),
    "emoji at the end": numbered('"%032x😀"'),
    "escaped emoji": repeated(rb'"\ud83d\ude00"'),
    "one field": repeated(b'{"a":0}'),
    "one field each": numbered('{"%x":0}'),
    "six fields": objects(6),
    "eleven fields": objects(11),
    "many fields": objects(171),
    "long names": numbered('{"%0100x":0}'),
    "wide names": numbered('{"%x😀":0}'),
    "a long text": one_text("a", ""),
    "a long text of escapes": one_text("\\n", ""),
    "a long text with an escape": one_text("a", "\\n"),
    "a long text with é": one_text("a", "é"),
    "a long text with 中": one_text("a", "中"),
    "a long text with 😀": one_text("a", "😀"),
    "a long text of 中": one_text("中", ""),
    "a long text of 中 with 😀": one_text("中", "😀"),
    "a long text of escaped 中": one_text("\\u4e2d", ""),
    "a long text of escaped backslashes": one_text("\\\\u", "😀"),
    "a long name": lambda count: b'{"' + b"a" * count + b'": 0}',
}


def most_sent(written: Callable[[int], bytes]) -> int:
    """Return the number of items in the largest body of a shape within the size limit."""
    count = LIMIT // (len(written(9)) - len(written(8)))
    while len(written(count)) > LIMIT:
        count = count * LIMIT // len(written(count)) - 1
    return count


def most_taken(written: Callable[[int], bytes]) -> int:
    """Return about the largest accepted number of items: a body with an eighth more items is rejected."""
    taken, refused = 0, most_sent(written) + 1
    while refused - taken > max(1, refused // 8):
        middle = (taken + refused) // 2
        if fits(written(middle)):
            taken = middle
        else:
            refused = middle
    return taken


def fits(body: bytes) -> bool:
    """Parse a body within the memory limit, and return whether it was accepted."""
    allowance = Allowance(LIMIT)
    try:
        with allowing(allowance), allowance.lent(len(body)):
            read_json(body)
    except PayloadTooLarge:
        return False
    return True
