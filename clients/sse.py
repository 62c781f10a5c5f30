"""Server-sent events: bytes in, messages out. Source: https://html.spec.whatwg.org/multipage/server-sent-events.html"""

from collections.abc import Iterator
from dataclasses import dataclass

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Message:
    event: str
    data: str
    id: str | None
    """None where the message carries no id of its own."""


class Decoder:
    """Decodes one connection's bytes, however they are cut."""

    def __init__(self) -> None:
        self._rest = b""
        self._begun = False
        self._clear()

    def feed(self, chunk: bytes) -> Iterator[Message]:
        """Yield the messages that are whole. What is begun and not ended by an empty line is never given out."""
        self._rest += chunk
        if not self._begun and len(self._rest) >= len(_BOM):
            self._begun = True
            self._rest = self._rest.removeprefix(_BOM)
        lines = self._rest.splitlines(keepends=True)  # of bytes: only at \r, \n and \r\n, never at U+2028
        # A last \r may be the first half of \r\n.
        self._rest = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
        for line in lines:
            message = self._line(line.rstrip(b"\r\n").decode("utf-8", "replace"))
            if message is not None:
                yield message

    def _line(self, line: str) -> Message | None:
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
            case _:  # a comment, which has no name, or a field that we have no use for
                pass
        return None

    def _clear(self) -> None:
        self._data: list[str] = []
        self._event = ""
        self._id: str | None = None
