"""Responses with server-sent events: kept alive while there are no events, and cancelled when the client disconnects.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from composition.http.content import KEEP_ALIVE_S

KEEP_ALIVE = ": keep-alive\n\n"
"""A comment, which clients ignore."""


def format_event(event: str, data: Mapping[str, Any]) -> str:
    """Return an event in the format of the stream. Its data is one line, because JSON text has no raw line breaks."""
    return f"event: {event}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


class EventStream(StreamingResponse):
    """Sends the events of a generator, and closes the generator when the response ends, also by a disconnect.

    Args:
        events: yields formatted events and comments.
        format_error: formats the last event if the generator raises, because the status has already been sent.
        keep_alive_s: interval of keep-alive comments while there are no events, in seconds.
    """

    def __init__(
        self,
        events: AsyncGenerator[str],
        format_error: Callable[[BaseException], str],
        keep_alive_s: float = KEEP_ALIVE_S,
    ) -> None:
        self._events = events
        self._format_error = format_error
        self._keep_alive_s = keep_alive_s
        self._next: asyncio.Task[str | None] | None = None
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(self._send_events(), media_type="text/event-stream", headers=headers)

    async def start(self) -> "EventStream":
        """Wait for the first event, at most `keep_alive_s`, and return this response.

        An error of the generator before its first event is raised here, so that it can still set the response's status.
        """
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.close)
            if await self._wait_for_event():
                self._request_event().result()
            stack.pop_all()
        return self

    async def close(self) -> None:
        """Cancel the pending event, if any, and close the generator."""
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)
        await self._events.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self.close()

    async def _send_events(self) -> AsyncGenerator[str]:
        while True:
            if not await self._wait_for_event():
                yield KEEP_ALIVE
                continue
            finished, self._next = self._request_event(), None
            error = finished.exception()
            if error is not None:
                yield self._format_error(error)
                return
            text = finished.result()
            if text is None:
                return
            yield text

    async def _wait_for_event(self) -> bool:
        """Wait for the next event, at most `keep_alive_s`. Return whether it has come."""
        done, _ = await asyncio.wait([self._request_event()], timeout=self._keep_alive_s)
        return bool(done)

    def _request_event(self) -> "asyncio.Task[str | None]":
        """Return the task that waits for the next event; its result is None at the end of the stream."""
        if self._next is None:
            self._next = asyncio.ensure_future(_next(self._events))
        return self._next


async def _next(events: AsyncGenerator[str]) -> str | None:
    return await anext(events, None)
