"""Server-sent events as an answer: alive while nothing is said, and over for the model too when the listener leaves.

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
"""A comment, which clients pass over."""


def said(event: str, data: Mapping[str, Any]) -> str:
    """One event. JSON has no raw line breaks, so its data is one line."""
    return f"event: {event}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


class EventStream(StreamingResponse):
    """Sends what a generator yields, and closes it however the answer ends, also when the listener is gone.

    Args:
        events: texts, each a whole event or comment.
        failed: makes the last event of an error, since the status is sent by then.
        keep_alive_s: a stream that is silent for so long says that it is still there.
    """

    def __init__(
        self,
        events: AsyncGenerator[str],
        failed: Callable[[BaseException], str],
        keep_alive_s: float = KEEP_ALIVE_S,
    ) -> None:
        self._events = events
        self._failed = failed
        self._keep_alive_s = keep_alive_s
        self._next: asyncio.Task[str | None] | None = None
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(self._told(), media_type="text/event-stream", headers=headers)

    async def begun(self) -> "EventStream":
        """Return when there is something to say, or after `keep_alive_s`.

        What goes wrong before is raised here, while it can still be the status of the answer.
        """
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.close)
            if await self._ready():
                self._drawn().result()
            stack.pop_all()
        return self

    async def close(self) -> None:
        """Stop drawing from the generator, and close it."""
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)
        await self._events.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self.close()

    async def _told(self) -> AsyncGenerator[str]:
        while True:
            if not await self._ready():
                yield KEEP_ALIVE
                continue
            drawn, self._next = self._drawn(), None
            error = drawn.exception()
            if error is not None:
                yield self._failed(error)
                return
            text = drawn.result()
            if text is None:
                return
            yield text

    async def _ready(self) -> bool:
        """Wait for what is said next, at most `keep_alive_s`."""
        done, _ = await asyncio.wait([self._drawn()], timeout=self._keep_alive_s)
        return bool(done)

    def _drawn(self) -> "asyncio.Task[str | None]":
        if self._next is None:
            self._next = asyncio.ensure_future(_next(self._events))
        return self._next


async def _next(events: AsyncGenerator[str]) -> str | None:
    return await anext(events, None)
