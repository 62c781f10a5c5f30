"""Sends requests with httpx, blocking and for asyncio."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import httpx

from reelgraph import wire
from reelgraph.disk import FilePart, OpenParts
from reelgraph.errors import ClientError, ConnectionLost, ServerUnreachable
from reelgraph.flows import Flow, OnBytes
from reelgraph.objects import Page

T = TypeVar("T")

_CONNECT_S = 10.0
"""Timeout for connecting, in seconds."""


class Connection:
    """A connection to a server, blocking.

    Every method raises ServerUnreachable, ConnectionLost, ApiError and UnexpectedAnswer.
    """

    def __init__(self, base_url: str, api_key: str | None, timeout_s: float) -> None:
        self._url = wire.strip_version(base_url)
        self._timeout_s = timeout_s
        self.http = httpx.Client(headers=wire.make_auth_headers(api_key), trust_env=not wire.is_loopback(base_url))

    def send(self, call: wire.Call[T], on_progress: OnBytes | None = None) -> T:
        """Send a request and return the parsed response."""
        with OpenParts(call.parts, on_progress) as parts, _translate_errors(self._url):
            response = self.http.request(**_make_request(self._url, call, self._timeout_s, parts))
        return wire.parse_response(call, _convert_response(response))

    @contextmanager
    def _open(self, call: wire.Call[None], parts: Sequence[FilePart] = ()) -> Generator[httpx.Response]:
        with (
            _translate_errors(self._url),
            self.http.stream(**_make_request(self._url, call, self._timeout_s, parts)) as response,
        ):
            if not response.is_success:
                response.read()
                raise wire.parse_error(_convert_response(response))
            yield response

    def read_flow(self, flow: Flow) -> Iterator[bytes]:
        """Yield the bytes of a flow, over as many connections as necessary."""
        while not flow.is_complete:
            try:
                with self._open(flow.call) as response:
                    flow.handle_open(response.status_code, response.headers)
                    for chunk in response.iter_bytes():
                        yield chunk
                        if flow.is_complete:
                            return
                flow.handle_close()
            except ClientError as error:
                time.sleep(flow.handle_error(error))

    def stream(self, call: wire.Call[None]) -> Generator[bytes]:
        """Yield the bytes of one response."""
        with OpenParts(call.parts, None) as parts, self._open(call, parts) as response:
            yield from response.iter_bytes()

    def list_entries(self, call: wire.Call[Page[T]]) -> Iterator[T]:
        """Yield the entries of a page and of all following pages."""
        following: wire.Call[Page[T]] | None = call
        while following is not None:
            page = self.send(following)
            yield from page.data
            following = wire.next_page(following, page)


class AsyncConnection:
    """A connection to a server, for asyncio. See Connection."""

    def __init__(self, base_url: str, api_key: str | None, timeout_s: float) -> None:
        self._url = wire.strip_version(base_url)
        self._timeout_s = timeout_s
        self.http = httpx.AsyncClient(headers=wire.make_auth_headers(api_key), trust_env=not wire.is_loopback(base_url))

    async def send(self, call: wire.Call[T], on_progress: OnBytes | None = None) -> T:
        # In a thread, because zipping a folder takes time.
        opened = await asyncio.to_thread(OpenParts, call.parts, on_progress) if call.parts else OpenParts((), None)
        with opened as parts, _translate_errors(self._url):
            response = await self.http.request(**_make_request(self._url, call, self._timeout_s, parts))
        return wire.parse_response(call, _convert_response(response))

    @asynccontextmanager
    async def _open(self, call: wire.Call[None], parts: Sequence[FilePart] = ()) -> AsyncGenerator[httpx.Response]:
        request = _make_request(self._url, call, self._timeout_s, parts)
        with _translate_errors(self._url):
            async with self.http.stream(**request) as response:
                if not response.is_success:
                    await response.aread()
                    raise wire.parse_error(_convert_response(response))
                yield response

    async def read_flow(self, flow: Flow) -> AsyncGenerator[bytes]:
        """See Connection.read_flow."""
        while not flow.is_complete:
            try:
                async with self._open(flow.call) as response:
                    flow.handle_open(response.status_code, response.headers)
                    async for chunk in response.aiter_bytes():
                        yield chunk
                        if flow.is_complete:
                            return
                flow.handle_close()
            except ClientError as error:
                await asyncio.sleep(flow.handle_error(error))

    async def stream(self, call: wire.Call[None]) -> AsyncGenerator[bytes]:
        with OpenParts(call.parts, None) as parts:
            async with self._open(call, parts) as response:
                async for chunk in response.aiter_bytes():
                    yield chunk

    async def list_entries(self, call: wire.Call[Page[T]]) -> AsyncGenerator[T]:
        following: wire.Call[Page[T]] | None = call
        while following is not None:
            page = await self.send(following)
            for entry in page.data:
                yield entry
            following = wire.next_page(following, page)


def _make_request(url: str, call: wire.Call[Any], timeout_s: float, parts: Sequence[FilePart] = ()) -> dict[str, Any]:
    """Return the keyword arguments of httpx for a request."""
    read_timeout_s = timeout_s if call.read_timeout_s is None else call.read_timeout_s
    return {
        "method": call.method,
        "url": f"{url}{call.path}",
        "params": call.query,
        "headers": call.headers,
        "json": call.json,
        "data": call.form or None,
        "files": parts or None,
        "timeout": httpx.Timeout(
            timeout_s, connect=_CONNECT_S, read=None if read_timeout_s == math.inf else read_timeout_s
        ),
    }


def _convert_response(response: httpx.Response) -> wire.Response:
    return wire.Response(
        response.status_code, {key.lower(): text for key, text in response.headers.items()}, response.content
    )


@contextmanager
def _translate_errors(url: str) -> Generator[None]:
    """Raise ServerUnreachable or ConnectionLost for the errors of httpx."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise ServerUnreachable(url, str(error) or "no response in time") from error
    except httpx.RequestError as error:
        raise ConnectionLost(f"the connection to {url} broke: {error or type(error).__name__}") from error
