"""What takes more than one request: following events, waiting, downloading. State only; the shells do the I/O.

Each flow says what to send next (`call`), is told what came, and is told what went wrong: then it either says how long
to wait before the next try or raises.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from pydantic import ValidationError

from reelgraph import wire
from reelgraph.errors import (
    ApiError,
    ClientError,
    ConnectionLost,
    JobFailed,
    ServerUnreachable,
    UnexpectedAnswer,
    WaitTimedOut,
)
from reelgraph.fields import ContentOptions
from reelgraph.objects import EVENTS, Event, StatusEvent, Video
from reelgraph.sse import Decoder, Message

OnBytes: TypeAlias = Callable[[int, int | None], None]
"""Called with the bytes that are through and the bytes there are in all; None where nobody knows."""


NO_CONTENT = 204
"""An event stream says so where the job has ended and every event has been told."""
_HELD_S = 10.0
"""An event stream that held so long was not refused: some proxies cut every connection after a minute."""


class Flow(Protocol):
    """Bytes that come over as many connections as it takes."""

    over: bool
    """Whether all is there that is wanted."""

    @property
    def call(self) -> wire.Call[None]: ...

    def opened(self, status: int, headers: Mapping[str, str]) -> None: ...

    def closed(self) -> None:
        """The server closed the connection in good order. Raises ConnectionLost where that was too early."""
        ...

    def failed(self, error: ClientError) -> float: ...


@dataclass(frozen=True, slots=True)
class Backoff:
    """How often, and how soon, something that was begun is taken up again after the connection broke."""

    limit: int = 6
    """Failures in a row that are borne."""
    first_s: float = 0.5
    """Doubled at each failure."""
    longest_s: float = 8.0


class Attempts:
    """Counts failures in a row."""

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self._failures = 0
        self._reached = False

    def reached(self) -> None:
        """The server answered; from now on its absence may be short."""
        self._reached = True

    def succeeded(self) -> None:
        """There is more than there was before."""
        self._failures = 0
        self._reached = True

    def failed(self, error: ClientError) -> float:
        """Return the seconds to wait before the next try; raise the error where another try is of no use."""
        never_there = isinstance(error, ServerUnreachable) and not self._reached
        transient = isinstance(error, ConnectionLost | ServerUnreachable) or (
            isinstance(error, ApiError) and error.transient
        )
        if never_there or not transient or self._failures >= self._backoff.limit:
            raise error
        self._failures += 1
        return min(self._backoff.first_s * 2 ** (self._failures - 1), self._backoff.longest_s)


class EventFeed:
    """A job's events, over as many connections as it takes. Each event is given once."""

    def __init__(self, video_id: str, after: int | None, backoff: Backoff) -> None:
        self._video_id = video_id
        self._last = after
        self._attempts = Attempts(backoff)
        self._decoder = Decoder()
        self._opened_at = math.inf
        self.over = False

    @property
    def call(self) -> wire.Call[None]:
        return wire.events(self._video_id, self._last)

    def opened(self, status: int, headers: Mapping[str, str]) -> None:
        self._attempts.reached()
        self._decoder = Decoder()
        self._opened_at = time.monotonic()
        self.over = status == NO_CONTENT

    def read(self, chunk: bytes) -> Iterator[Event]:
        """Yield the events that are whole, but none twice and none behind the last."""
        for message in self._decoder.feed(chunk):
            event = self._event(message)
            if event is not None:
                self.over = isinstance(event, StatusEvent) and event.over
                yield event
            if self.over:
                return

    def closed(self) -> None:
        if not self.over:
            raise ConnectionLost(f"the events of {self._video_id} ended before the job did")

    def failed(self, error: ClientError) -> float:
        if time.monotonic() - self._opened_at > _HELD_S:
            self._attempts.succeeded()
        self._opened_at = math.inf
        return self._attempts.failed(error)

    def _event(self, message: Message) -> Event | None:
        """None for what was given before, and for a kind of event that is newer than this client."""
        try:
            number = int(message.id) if message.id else self._last or 0
            if message.id and self._last is not None and number <= self._last:
                return None
            self._last = number
            self._attempts.succeeded()
            kind = EVENTS.get(message.event)
            return kind.model_validate({**json.loads(message.data), "id": number}) if kind else None
        except (ValueError, TypeError, ValidationError) as error:
            raise UnexpectedAnswer(f"an event of {self._video_id} cannot be read: {error}") from error


class Polling:
    """Asking again and again until the job has ended."""

    def __init__(self, video_id: str, timeout_s: float | None, backoff: Backoff) -> None:
        self.call = wire.poll_video(video_id)
        self._attempts = Attempts(backoff)
        self._video_id = video_id
        self._timeout_s = timeout_s
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self.result: Video | None = None
        """The video, once it is completed."""

    def heard(self, answer: tuple[Video, float]) -> float:
        """Return the seconds until the next question. Raises JobFailed and WaitTimedOut."""
        self._attempts.succeeded()
        video, delay_s = answer
        if video.status == "failed":
            raise JobFailed(video)
        if video.over:
            self.result = video
            return 0.0
        return self._in_time(delay_s)

    def failed(self, error: ClientError) -> float:
        return self._in_time(self._attempts.failed(error))

    def _in_time(self, delay_s: float) -> float:
        if self._deadline is None:
            return delay_s
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise WaitTimedOut(f"{self._video_id} has not ended within {self._timeout_s:g} s; it goes on")
        return min(delay_s, left)


class Download:
    """A result's bytes, over as many connections as it takes. A broken one is taken up where it broke."""

    def __init__(self, video_id: str, options: ContentOptions, backoff: Backoff, on_progress: OnBytes | None) -> None:
        self._video_id = video_id
        self._options = options
        self._attempts = Attempts(backoff)
        self._on_progress = on_progress
        self._etag: str | None = None
        self._total: int | None = None
        self._furthest = 0
        self.received = 0
        """Where in the file the next byte belongs."""
        self.over = False

    @property
    def call(self) -> wire.Call[None]:
        headers: dict[str, str] = {}
        if self.received and self._etag:
            headers = {"Range": f"bytes={self.received}-", "If-Range": self._etag}
        return wire.content(self._video_id, self._options, headers=headers)

    def opened(self, status: int, headers: Mapping[str, str]) -> None:
        self._attempts.reached()
        if status != 206:  # the whole of it, because this is the first try or because it is another file now
            self.received = 0
        elif not headers.get("content-range", "").startswith(f"bytes {self.received}-"):
            raise UnexpectedAnswer(f"asked for bytes from {self.received}, got {headers.get('content-range')!r}")
        length = headers.get("content-length")
        self._total = self.received + int(length) if length else None
        etag = headers.get("etag", "")
        self._etag = None if etag.startswith("W/") else etag or None  # a weak one does not vouch for bytes

    def took(self, count: int) -> None:
        self.received += count
        if self.received > self._furthest:
            self._furthest = self.received
            self._attempts.succeeded()
        if self._on_progress is not None:
            self._on_progress(self.received, self._total)

    def closed(self) -> None:
        if self._total is not None and self.received < self._total:
            raise ConnectionLost(f"{self._video_id}: {self.received} of {self._total} bytes came")
        self.over = True

    def failed(self, error: ClientError) -> float:
        return self._attempts.failed(error)
