"""Sending and receiving, blocking and for asyncio. Nothing here knows what is asked for."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import httpx

from reelgraph import wire
from reelgraph.disk import OpenParts, Sent
from reelgraph.errors import ClientError, ConnectionLost, ServerUnreachable
from reelgraph.flows import Flow, OnBytes
from reelgraph.objects import Page

T = TypeVar("T")

_CONNECT_S = 10.0


class Connection:
    """One server, blocking. Every method raises ServerUnreachable, ConnectionLost, ApiError and UnexpectedAnswer."""

    def __init__(self, base_url: str, api_key: str | None, timeout_s: float) -> None:
        self._url = wire.root(base_url)
        self._timeout_s = timeout_s
        self.http = httpx.Client(headers=wire.authorization(api_key), trust_env=not wire.is_here(base_url))

    def send(self, call: wire.Call[T], on_progress: OnBytes | None = None) -> T:
        """Send one request and return what its answer says."""
        with OpenParts(call.parts, on_progress) as parts, _translated(self._url):
            response = self.http.request(**_request(self._url, call, self._timeout_s, parts))
        return wire.understood(call, _answer(response))

    @contextmanager
    def _open(self, call: wire.Call[None], parts: Sequence[Sent] = ()) -> Generator[httpx.Response]:
        with _translated(self._url), self.http.stream(**_request(self._url, call, self._timeout_s, parts)) as response:
            if not response.is_success:
                response.read()
                raise wire.error_of(_answer(response))
            yield response

    def chunks(self, flow: Flow) -> Iterator[bytes]:
        """Yield the bytes that a flow is after, over as many connections as it takes."""
        while not flow.over:
            try:
                with self._open(flow.call) as response:
                    flow.opened(response.status_code, response.headers)
                    for chunk in response.iter_bytes():
                        yield chunk
                        if flow.over:
                            return
                flow.closed()
            except ClientError as error:
                time.sleep(flow.failed(error))

    def stream(self, call: wire.Call[None]) -> Generator[bytes]:
        """Yield the bytes of one answer."""
        with OpenParts(call.parts, None) as parts, self._open(call, parts) as response:
            yield from response.iter_bytes()

    def pages(self, call: wire.Call[Page[T]]) -> Iterator[T]:
        """Yield the entries of a page and of all behind it."""
        left: wire.Call[Page[T]] | None = call
        while left is not None:
            page = self.send(left)
            yield from page.data
            left = wire.next_page(left, page)


class AsyncConnection:
    """One server, for asyncio. See Connection."""

    def __init__(self, base_url: str, api_key: str | None, timeout_s: float) -> None:
        self._url = wire.root(base_url)
        self._timeout_s = timeout_s
        self.http = httpx.AsyncClient(headers=wire.authorization(api_key), trust_env=not wire.is_here(base_url))

    async def send(self, call: wire.Call[T], on_progress: OnBytes | None = None) -> T:
        # Packing a folder takes its time.
        opened = await asyncio.to_thread(OpenParts, call.parts, on_progress) if call.parts else OpenParts((), None)
        with opened as parts, _translated(self._url):
            response = await self.http.request(**_request(self._url, call, self._timeout_s, parts))
        return wire.understood(call, _answer(response))

    @asynccontextmanager
    async def _open(self, call: wire.Call[None], parts: Sequence[Sent] = ()) -> AsyncGenerator[httpx.Response]:
        request = _request(self._url, call, self._timeout_s, parts)
        with _translated(self._url):
            async with self.http.stream(**request) as response:
                if not response.is_success:
                    await response.aread()
                    raise wire.error_of(_answer(response))
                yield response

    async def chunks(self, flow: Flow) -> AsyncGenerator[bytes]:
        """See Connection.chunks."""
        while not flow.over:
            try:
                async with self._open(flow.call) as response:
                    flow.opened(response.status_code, response.headers)
                    async for chunk in response.aiter_bytes():
                        yield chunk
                        if flow.over:
                            return
                flow.closed()
            except ClientError as error:
                await asyncio.sleep(flow.failed(error))

    async def stream(self, call: wire.Call[None]) -> AsyncGenerator[bytes]:
        with OpenParts(call.parts, None) as parts:
            async with self._open(call, parts) as response:
                async for chunk in response.aiter_bytes():
                    yield chunk

    async def pages(self, call: wire.Call[Page[T]]) -> AsyncGenerator[T]:
        left: wire.Call[Page[T]] | None = call
        while left is not None:
            page = await self.send(left)
            for entry in page.data:
                yield entry
            left = wire.next_page(left, page)


def _request(url: str, call: wire.Call[Any], timeout_s: float, parts: Sequence[Sent] = ()) -> dict[str, Any]:
    """What httpx calls the parts of a request."""
    silence_s = timeout_s if call.silence_s is None else call.silence_s
    return {
        "method": call.method,
        "url": f"{url}{call.path}",
        "params": call.query,
        "headers": call.headers,
        "json": call.json,
        "data": call.form or None,
        "files": parts or None,
        "timeout": httpx.Timeout(timeout_s, connect=_CONNECT_S, read=None if silence_s == math.inf else silence_s),
    }


def _answer(response: httpx.Response) -> wire.Answer:
    return wire.Answer(
        response.status_code, {key.lower(): text for key, text in response.headers.items()}, response.content
    )


@contextmanager
def _translated(url: str) -> Generator[None]:
    """Say what httpx raises in the words of this project."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise ServerUnreachable(url, str(error) or "no answer in time") from error
    except httpx.RequestError as error:
        raise ConnectionLost(f"the connection to {url} broke: {error or type(error).__name__}") from error
