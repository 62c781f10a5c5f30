"""Parser of server-sent events. Source: https://html.spec.whatwg.org/multipage/server-sent-events.html"""

from collections.abc import Iterator
from dataclasses import dataclass

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Message:
    """A server-sent event."""

    event: str
    data: str
    id: str | None
    """None if the event has no id."""


class Decoder:
    """Parses the bytes of one connection, in chunks of any size."""

    def __init__(self) -> None:
        self._rest = b""
        self._is_started = False
        self._clear()

    def feed(self, chunk: bytes) -> Iterator[Message]:
        """Yield the complete messages. A message that is not followed by an empty line is not yielded."""
        self._rest += chunk
        if not self._is_started and len(self._rest) >= len(_BOM):
            self._is_started = True
            self._rest = self._rest.removeprefix(_BOM)
        lines = self._rest.splitlines(keepends=True)  # of bytes: only at \r, \n and \r\n, never at U+2028
        # A last \r may be the first half of \r\n.
        self._rest = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
        for line in lines:
            message = self._read_line(line.rstrip(b"\r\n").decode("utf-8", "replace"))
            if message is not None:
                yield message

    def _read_line(self, line: str) -> Message | None:
        if not line:
            message = Message(self._event or "message", "\n".join(self._data), self._id) if self._data else None
            self._clear()
            return message
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "data":
                self._data.append(value)
            case "event":
                self._event = value
            case "id":
                self._id = value
            case _:  # a comment, which has no name, or an unused field
                pass
        return None

    def _clear(self) -> None:
        self._data: list[str] = []
        self._event = ""
        self._id: str | None = None
