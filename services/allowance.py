"""How much memory a request may take by being read, and what a text takes.

The sizes are those of CPython 3.11 to 3.13 on 64 bits.
"""

import re
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from services.errors import PayloadTooLarge

MAX_JSON_BYTES = 1 << 20
"""Bytes of JSON, or of the text in a form, that a request may have unless the configuration says otherwise."""
MEMORY_RATIO = 4
"""Reading a request takes at most so many times the bytes that its texts may have, they themselves included."""
LEAST_BYTES = 1 << 18
"""A lower limit does not make the memory smaller."""

WIDE_TEXT = 96
"""A text without its characters; one of ASCII characters alone takes less."""
PIECE = 1 << 16
"""Bytes whose characters are counted at a time."""

CONTINUATION = bytes(range(0x80, 0xC0))
"""The bytes of UTF-8 that begin no character."""
FOUR_BYTES = re.compile(rb"[\xf0-\xff]|\\u[dD][89abAB]")
"""In a text with one of these each character takes 4 bytes."""
TWO_BYTES = re.compile(rb"[\xc4-\xff]|\\u(?!00)")
NOT_ASCII = re.compile(rb"[\x80-\xff]|\\u00[89a-fA-F]")


class Allowance:
    """How much memory the texts of one request may take, read.

    Args:
        limit: bytes that the texts may have as they come. Read, and with what is needed for that, they may take
            MEMORY_RATIO times as many, or as LEAST_BYTES.
    """

    def __init__(self, limit: int = MAX_JSON_BYTES) -> None:
        self.limit = limit
        self._memory = MEMORY_RATIO * max(limit, LEAST_BYTES)
        self._left = self._memory

    def take(self, size: int, passing: int = 0) -> None:
        """Count so many bytes, beside which there must be room for `passing` ones. Raises PayloadTooLarge."""
        self._left -= size
        if self._left < passing:
            raise PayloadTooLarge(
                f"the body would take more than the limit of {self._memory} bytes of memory, {MEMORY_RATIO} times "
                "max_json_bytes, once it is read: it has too many values, or too long texts of wide characters"
            )

    @contextmanager
    def lent(self, size: int) -> Generator[None]:
        """Count so many bytes until the block is left. Raises PayloadTooLarge."""
        self.take(size)
        try:
            yield
        finally:
            self._left += size


_current: ContextVar[Allowance | None] = ContextVar("allowance", default=None)


@contextmanager
def allowing(allowance: Allowance) -> Generator[None]:
    """Let all JSON that is read in the block, also that in the texts of fields, share one allowance."""
    token = _current.set(allowance)
    try:
        yield
    finally:
        _current.reset(token)


def current_allowance() -> Allowance | None:
    """Return that of the request that is being read, if one is."""
    return _current.get()


@dataclass(frozen=True, slots=True)
class TextCost:
    """Bytes that a string takes."""

    kept: int
    passing: int
    """More of them while it is made."""


def text_cost(data: bytes | bytearray, start: int = 0, stop: int | None = None, *, escapes: bool = False) -> TextCost:
    """Return what the text in `data[start:stop]`, which is UTF-8, takes as a string, at most.

    Python makes room for as many characters as there are bytes, and again when it meets a wider character.

    Args:
        data: the bytes.
        start, stop: the piece of them.
        escapes: whether a backslash in it begins an escape, as in JSON.
    """
    stop = len(data) if stop is None else stop
    size = stop - start
    characters = sum(
        len(data[at : min(at + PIECE, stop)].translate(None, CONTINUATION)) for at in range(start, stop, PIECE)
    )
    tape = 0
    if escapes and data.find(b"\\", start, stop) >= 0:
        # \\u and four digits are one character; those behind a backslash that is itself escaped are not meant.
        escaped = max(0, data.count(b"\\u", start, stop) - data.count(b"\\\\u", start, stop))
        size, characters = size - 3 * escaped, characters - 5 * escaped
        tape = size + size // 2
    width, before = _widths(data, start, stop)
    kept = WIDE_TEXT + width * characters
    return TextCost(kept, tape + (max(0, (width + before) * size - kept) if before else 0))


def _widths(data: bytes | bytearray, start: int, stop: int) -> tuple[int, int]:
    """Bytes for a character of a text, and of the narrower one that it may be made of, or 0."""
    if FOUR_BYTES.search(data, start, stop):
        return 4, 2
    if TWO_BYTES.search(data, start, stop):
        return 2, 1
    return (1, 1) if NOT_ASCII.search(data, start, stop) else (1, 0)
