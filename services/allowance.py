"""The memory allowance of a request while it is parsed, and the memory that a string takes.

The sizes are those of 64-bit CPython 3.11 to 3.13.
"""

import re
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from services.errors import PayloadTooLarge

MAX_JSON_BYTES = 1 << 20
"""Default limit of the JSON, or of the text fields of a form, in one request, in bytes."""
MEMORY_RATIO = 4
"""Maximum memory for parsing a request, including its text, as a multiple of the limit of its text."""
LEAST_BYTES = 1 << 18
"""Smallest limit from which the memory allowance is computed, in bytes."""

WIDE_TEXT = 96
"""Bytes of a string object without its characters; an ASCII string takes less."""
PIECE = 1 << 16
"""Number of bytes whose characters are counted at a time."""

CONTINUATION = bytes(range(0x80, 0xC0))
"""UTF-8 continuation bytes."""
FOUR_BYTES = re.compile(rb"[\xf0-\xff]|\\u[dD][89abAB]")
"""Matches if a string takes 4 bytes per character."""
TWO_BYTES = re.compile(rb"[\xc4-\xff]|\\u(?!00)")
NOT_ASCII = re.compile(rb"[\x80-\xff]|\\u00[89a-fA-F]")


class Allowance:
    """The memory that parsing one request may take.

    Args:
        limit: maximum size of the request's text in bytes. The parsed values and the temporary memory may take
            MEMORY_RATIO times the larger of this limit and LEAST_BYTES.
    """

    def __init__(self, limit: int = MAX_JSON_BYTES) -> None:
        self.limit = limit
        self._memory = MEMORY_RATIO * max(limit, LEAST_BYTES)
        self._left = self._memory

    def take(self, size: int, passing: int = 0) -> None:
        """Allocate `size` bytes; `passing` more bytes must be available temporarily. Raises PayloadTooLarge."""
        self._left -= size
        if self._left < passing:
            raise PayloadTooLarge(
                f"the parsed body would take more than the limit of {self._memory} bytes of memory ({MEMORY_RATIO} "
                "times max_json_bytes): it has too many values or too many non-ASCII characters"
            )

    @contextmanager
    def lent(self, size: int) -> Generator[None]:
        """Allocate `size` bytes until the end of the block. Raises PayloadTooLarge."""
        self.take(size)
        try:
            yield
        finally:
            self._left += size


_current: ContextVar[Allowance | None] = ContextVar("allowance", default=None)


@contextmanager
def allowing(allowance: Allowance) -> Generator[None]:
    """Use one allowance for all JSON parsed in the block, including JSON in form fields."""
    token = _current.set(allowance)
    try:
        yield
    finally:
        _current.reset(token)


def current_allowance() -> Allowance | None:
    """Return the allowance of the request being parsed, or None."""
    return _current.get()


@dataclass(frozen=True, slots=True)
class TextCost:
    """The memory that a string takes, in bytes."""

    kept: int
    passing: int
    """Additional bytes while the string is created."""


def text_cost(data: bytes | bytearray, start: int = 0, stop: int | None = None, *, escapes: bool = False) -> TextCost:
    """Return an upper bound of the memory for the UTF-8 text in `data[start:stop]` as a string.

    Python allocates one character per byte, and allocates again when it decodes a wider character.

    Args:
        data: UTF-8 text.
        start, stop: the slice of `data` to decode.
        escapes: whether a backslash starts an escape sequence, as in JSON.
    """
    stop = len(data) if stop is None else stop
    size = stop - start
    characters = sum(
        len(data[at : min(at + PIECE, stop)].translate(None, CONTINUATION)) for at in range(start, stop, PIECE)
    )
    tape = 0
    if escapes and data.find(b"\\", start, stop) >= 0:
        # \\u and four digits are one character, unless the backslash itself is escaped.
        escaped = max(0, data.count(b"\\u", start, stop) - data.count(b"\\\\u", start, stop))
        size, characters = size - 3 * escaped, characters - 5 * escaped
        tape = size + size // 2
    width, before = _widths(data, start, stop)
    kept = WIDE_TEXT + width * characters
    return TextCost(kept, tape + (max(0, (width + before) * size - kept) if before else 0))


def _widths(data: bytes | bytearray, start: int, stop: int) -> tuple[int, int]:
    """Return the bytes per character of the string, and of the narrower string that Python creates first, or 0."""
    if FOUR_BYTES.search(data, start, stop):
        return 4, 2
    if TWO_BYTES.search(data, start, stop):
        return 2, 1
    return (1, 1) if NOT_ASCII.search(data, start, stop) else (1, 0)
