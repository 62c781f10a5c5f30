"""Operations that need several requests: following events, waiting, downloading. No I/O.

A flow provides the next request (`call`), and handles the response or the error. For an error it returns the delay
before the next attempt, or raises the error.
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
"""Called with the number of bytes transferred and the total number of bytes, or None if the total is not known."""


NO_CONTENT = 204
"""Status of an event stream if the job has ended and there are no more events."""
_STABLE_S = 10.0
"""An event stream that lasted this long counts as a success: some proxies close each connection after a minute."""


class Flow(Protocol):
    """A download over as many connections as necessary."""

    is_complete: bool

    @property
    def call(self) -> wire.Call[None]:
        """The next request."""
        ...

    def handle_open(self, status: int, headers: Mapping[str, str]) -> None:
        """Handle the start of a response."""
        ...

    def handle_close(self) -> None:
        """Handle the end of a response. Raises ConnectionLost if it is incomplete."""
        ...

    def handle_error(self, error: ClientError) -> float:
        """Return the delay before the next attempt, in seconds, or raise the error."""
        ...


@dataclass(frozen=True, slots=True)
class Backoff:
    """Number of retries after a broken connection, and the delays between them."""

    limit: int = 6
    """Maximum number of consecutive failures."""
    first_s: float = 0.5
    """Delay after the first failure, in seconds; doubled with each further failure."""
    longest_s: float = 8.0
    """Maximum delay, in seconds."""


class Attempts:
    """Counts consecutive failures."""

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self._failures = 0
        self._has_response = False

    def record_response(self) -> None:
        """Record that the server responded; from now on, ServerUnreachable is retried."""
        self._has_response = True

    def record_progress(self) -> None:
        """Record that new data was received, and reset the number of failures."""
        self._failures = 0
        self._has_response = True

    def record_failure(self, error: ClientError) -> float:
        """Return the delay before the next attempt, in seconds; raise the error if it must not be retried."""
        is_absent = isinstance(error, ServerUnreachable) and not self._has_response
        is_transient = isinstance(error, ConnectionLost | ServerUnreachable) or (
            isinstance(error, ApiError) and error.transient
        )
        if is_absent or not is_transient or self._failures >= self._backoff.limit:
            raise error
        self._failures += 1
        return min(self._backoff.first_s * 2 ** (self._failures - 1), self._backoff.longest_s)


class EventFeed:
    """The events of a job, over as many connections as necessary. Each event is yielded once."""

    def __init__(self, video_id: str, after: int | None, backoff: Backoff) -> None:
        self._video_id = video_id
        self._last = after
        self._attempts = Attempts(backoff)
        self._decoder = Decoder()
        self._opened_at = math.inf
        self.is_complete = False

    @property
    def call(self) -> wire.Call[None]:
        return wire.get_events(self._video_id, self._last)

    def handle_open(self, status: int, headers: Mapping[str, str]) -> None:
        self._attempts.record_response()
        self._decoder = Decoder()
        self._opened_at = time.monotonic()
        self.is_complete = status == NO_CONTENT

    def read(self, chunk: bytes) -> Iterator[Event]:
        """Yield the complete events in a chunk, without duplicates, up to the last event of the job."""
        for message in self._decoder.feed(chunk):
            event = self._parse_message(message)
            if event is not None:
                self.is_complete = isinstance(event, StatusEvent) and event.over
                yield event
            if self.is_complete:
                return

    def handle_close(self) -> None:
        if not self.is_complete:
            raise ConnectionLost(f"the event stream of {self._video_id} ended before the job")

    def handle_error(self, error: ClientError) -> float:
        if time.monotonic() - self._opened_at > _STABLE_S:
            self._attempts.record_progress()
        self._opened_at = math.inf
        return self._attempts.record_failure(error)

    def _parse_message(self, message: Message) -> Event | None:
        """Return the event, or None for a duplicate or an unknown kind of event. Raises UnexpectedAnswer."""
        try:
            number = int(message.id) if message.id else self._last or 0
            if message.id and self._last is not None and number <= self._last:
                return None
            self._last = number
            self._attempts.record_progress()
            kind = EVENTS.get(message.event)
            return kind.model_validate({**json.loads(message.data), "id": number}) if kind else None
        except (ValueError, TypeError, ValidationError) as error:
            raise UnexpectedAnswer(f"an event of {self._video_id} cannot be parsed: {error}") from error


class Polling:
    """Polls a job until it has ended."""

    def __init__(self, video_id: str, timeout_s: float | None, backoff: Backoff) -> None:
        self.call = wire.poll_video(video_id)
        self._attempts = Attempts(backoff)
        self._video_id = video_id
        self._timeout_s = timeout_s
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self.result: Video | None = None
        """The video, after the job has completed."""

    def handle_response(self, response: tuple[Video, float]) -> float:
        """Return the time until the next poll, in seconds. Raises JobFailed and WaitTimedOut."""
        self._attempts.record_progress()
        video, delay_s = response
        if video.status == "failed":
            raise JobFailed(video)
        if video.over:
            self.result = video
            return 0.0
        return self._limit_delay(delay_s)

    def handle_error(self, error: ClientError) -> float:
        return self._limit_delay(self._attempts.record_failure(error))

    def _limit_delay(self, delay_s: float) -> float:
        """Return the delay, cut at the deadline. Raises WaitTimedOut after the deadline."""
        if self._deadline is None:
            return delay_s
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise WaitTimedOut(f"{self._video_id} has not ended within {self._timeout_s:g} s; it is still running")
        return min(delay_s, left)


class Download:
    """A download of a result, which resumes at the last byte received if a connection breaks."""

    def __init__(self, video_id: str, options: ContentOptions, backoff: Backoff, on_progress: OnBytes | None) -> None:
        self._video_id = video_id
        self._options = options
        self._attempts = Attempts(backoff)
        self._on_progress = on_progress
        self._etag: str | None = None
        self._total: int | None = None
        self._furthest = 0
        self.received = 0
        """Number of bytes received so far: the offset of the next byte."""
        self.is_complete = False

    @property
    def call(self) -> wire.Call[None]:
        headers: dict[str, str] = {}
        if self.received and self._etag:
            headers = {"Range": f"bytes={self.received}-", "If-Range": self._etag}
        return wire.get_content(self._video_id, self._options, headers=headers)

    def handle_open(self, status: int, headers: Mapping[str, str]) -> None:
        self._attempts.record_response()
        if status != 206:  # the whole file: this is the first attempt, or the file has changed
            self.received = 0
        elif not headers.get("content-range", "").startswith(f"bytes {self.received}-"):
            raise UnexpectedAnswer(f"expected bytes from {self.received}, got {headers.get('content-range')!r}")
        length = headers.get("content-length")
        self._total = self.received + int(length) if length else None
        etag = headers.get("etag", "")
        self._etag = None if etag.startswith("W/") else etag or None  # a weak ETag does not guarantee equal bytes

    def handle_bytes(self, count: int) -> None:
        """Record that `count` bytes were written."""
        self.received += count
        if self.received > self._furthest:
            self._furthest = self.received
            self._attempts.record_progress()
        if self._on_progress is not None:
            self._on_progress(self.received, self._total)

    def handle_close(self) -> None:
        if self._total is not None and self.received < self._total:
            raise ConnectionLost(f"{self._video_id}: received {self.received} of {self._total} bytes")
        self.is_complete = True

    def handle_error(self, error: ClientError) -> float:
        return self._attempts.record_failure(error)
