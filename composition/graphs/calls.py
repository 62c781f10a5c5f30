"""Calls to other deployments: cancellable streams, ordered concurrent calls, and merged streams."""

import asyncio
import contextlib
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import asynccontextmanager
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

from services.errors import ReelError, ServiceBusy, ServiceLost
from services.model import Role
from services.roles import (
    Describe,
    FaceDetection,
    GuidedEdit,
    ImageToVideo,
    Restyle,
    TextToImage,
    TextToVideo,
    Upscale,
)

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")
Interface_co = TypeVar("Interface_co", covariant=True)
T_co = TypeVar("T_co", covariant=True)

STOP_TIMEOUT_S = 10.0


class Call(AsyncIterable[T_co], Protocol[T_co]):
    """A streaming response from another deployment, as a handle returns it."""

    def cancel(self) -> None: ...


class Transport:
    """The exceptions that the transport raises when a call fails.

    Args:
        lost: raised when the process that handles the call has died.
        busy: raised when the deployment's queue is full.
    """

    def __init__(self, lost: tuple[type[Exception], ...] = (), busy: tuple[type[Exception], ...] = ()) -> None:
        self.lost = lost
        self.busy = busy


class Handle(Generic[Interface_co]):
    """A handle of one model or graph of a host deployment, typed by its interface.

    Args:
        host: the `ray.serve.handle.DeploymentHandle` of the host. Ray itself is imported only where it is opened.
        name: name of the model or graph.
        preferred: see `prefer`.
    """

    def __init__(self, host: Any, name: str, preferred: str = "") -> None:
        self._host = host
        self._name = name
        self._preferred = preferred

    def prefer(self, preferred: str) -> "Handle[Interface_co]":
        """Return a handle that prefers a replica that was called with the same text before, if one is free."""
        return Handle(self._host, self._name, preferred)

    def options(self, *, method_name: str, **options: Any) -> "Method":
        """Return the streaming method of that name; `remote` calls it."""
        routing = {"multiplexed_model_id": self._preferred} if self._preferred else {}
        return Method(self._host.options(method_name="stream", **routing, **options), self._name, method_name)

    def broadcast(self, method: str, *args: object) -> Any:
        """Call a method on every replica of the host."""
        return self._host.broadcast(method, self._name, *args)

    def call(self, method: str) -> Awaitable[Any]:
        """Call a method that returns one value."""
        return self._host.options(method_name=method).remote(self._name)


class Method:
    """A streaming method of a `Handle`."""

    def __init__(self, stream_method: Any, name: str, method: str) -> None:
        self._stream_method = stream_method
        self._name = name
        self._method = method

    def remote(self, *args: object, **options: object) -> Any:
        """Start the call."""
        return self._stream_method.remote(self._name, self._method, *args, **options)


class Models(Mapping[Role, Handle[Any]]):
    """The models of a graph by their roles, each with the interface of its role. Missing ones raise KeyError."""

    def __init__(self, handles: Mapping[Role, Handle[Any]]) -> None:
        self._handles = handles

    def __getitem__(self, role: Role) -> Handle[Any]:
        return self._handles[role]

    def __iter__(self) -> Iterator[Role]:
        return iter(self._handles)

    def __len__(self) -> int:
        return len(self._handles)

    @property
    def describe(self) -> Handle[Describe[Any]]:
        return self["describe"]

    @property
    def face(self) -> Handle[FaceDetection]:
        return self["face"]

    @property
    def guided_edit(self) -> Handle[GuidedEdit[Any]]:
        return self["guided-edit"]

    @property
    def image_to_video(self) -> Handle[ImageToVideo[Any]]:
        return self["image-to-video"]

    @property
    def restyle(self) -> Handle[Restyle[Any]]:
        return self["restyle"]

    @property
    def text_to_image(self) -> Handle[TextToImage[Any]]:
        return self["text-to-image"]

    @property
    def text_to_video(self) -> Handle[TextToVideo[Any]]:
        return self["text-to-video"]

    @property
    def upscale(self) -> Handle[Upscale[Any]]:
        return self["upscale"]


def stream(
    handle: Handle[S], method: Callable[Concatenate[S, P], AsyncIterator[T]], /, *args: P.args, **kwargs: P.kwargs
) -> Call[T]:
    """Begin a streaming call, e.g. `stream(models.image_to_video, ImageToVideo[WanRequest].animate, request, image)`.

    By reference always: by value, Ray's messages end at 4 MiB, less than a frame.

    Args:
        handle: of a model or graph.
        method: of its interface; only its name is sent.
        args: of the method.
        kwargs: of the method.
    """
    named = handle.options(method_name=method.__name__, stream=True, _by_reference=True)
    return named.remote(*args, **kwargs)


def ask(handle: Handle[S], method: Callable[Concatenate[S, P], Awaitable[T]], /) -> Awaitable[T]:
    """Call a method without arguments that returns one value."""
    return handle.call(method.__name__)


@asynccontextmanager
async def open_stream(call: Call[T], transport: Transport) -> AsyncGenerator[AsyncIterator[T]]:
    """Open a stream from another deployment and cancel it on exit from the block.

    Every stream must be opened here, because discarding a Ray stream does not stop its producer.

    Raises:
        ServiceLost: the process at the other end died.
        ServiceBusy: the queue of the other deployment is full.
    """
    try:
        yield aiter(call)
    except ReelError:
        raise
    except transport.busy as error:
        raise ServiceBusy("the service's queue is full") from error
    except transport.lost as error:
        raise ServiceLost("the process that handled this request died") from error
    finally:
        call.cancel()


async def stop_everywhere(handle: Handle[Any], key: str, transport: Transport) -> None:
    """Stop the work that a dead caller left running under `key`, on any replica.

    Ray does not cancel an actor's task when its caller dies. This is best effort: replicas that do not respond are
    ignored, because their work ends with the current clip.
    """
    with contextlib.suppress(*transport.lost, TimeoutError):
        await handle.broadcast("stop", key).results_async(timeout_s=STOP_TIMEOUT_S, return_exceptions=True)


async def call_in_order(
    calls: AsyncIterable[Callable[[], Awaitable[T]]] | Iterable[Callable[[], Awaitable[T]]], window: int
) -> AsyncGenerator[T]:
    """Run up to `window` calls concurrently and yield their results in the order of `calls`.

    The window provides back-pressure: a call is taken from `calls` and started only after the result `window` places
    before it has been consumed. Closing the generator cancels the running calls and closes `calls`.
    """
    source = _iterate(calls)
    running: deque[asyncio.Future[T]] = deque()
    pending: asyncio.Future[Callable[[], Awaitable[T]] | None] | None = None
    exhausted = False
    try:
        while running or not exhausted:
            if pending is None and not exhausted and len(running) < window:
                pending = asyncio.ensure_future(_next(source))
            waited: list[asyncio.Future[Any]] = [*([pending] if pending else []), *([running[0]] if running else [])]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if pending is not None and pending.done():
                call, pending = pending.result(), None
                if call is None:
                    exhausted = True
                else:
                    running.append(asyncio.ensure_future(call()))
            elif running[0].done():
                yield await running.popleft()
    finally:
        unfinished: list[asyncio.Future[Any]] = [*running, *([pending] if pending else [])]
        for future in unfinished:
            future.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
        await source.aclose()


async def merge_streams(*sources: AsyncGenerator[T]) -> AsyncGenerator[T]:
    """Yield the items of several generators in the order in which they become available.

    All generators are closed when this one is closed or when one of them raises.
    """
    pending = {asyncio.ensure_future(_next(source)): source for source in sources}
    try:
        while pending:
            ready, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for future in ready:
                item = future.result()
                source = pending.pop(future)
                if item is not None:
                    pending[asyncio.ensure_future(_next(source))] = source
                    yield item
    finally:
        for future in pending:
            future.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for source in sources:
            await source.aclose()


async def _iterate(items: AsyncIterable[T] | Iterable[T]) -> AsyncGenerator[T]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


async def _next(source: AsyncGenerator[T]) -> T | None:
    return await anext(source, None)
