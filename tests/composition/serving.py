"""Deployments without Ray: handles and streaming calls within this process, and a fake editing service."""

import asyncio
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import numpy as np

from composition.graphs.calls import Handle as RealHandle
from services.frames import Fact, Frames, Item, Pixels, Progress, Scores, Sketch, StageDone
from services.qwen_edit.request import EditRequest


class Call:
    """A streaming call. As in Ray, the producer runs in a separate task and does not wait for the consumer."""

    def __init__(self, items: AsyncGenerator[Item]) -> None:
        self._waiting: asyncio.Queue[Item | None] = asyncio.Queue()
        self.task = asyncio.ensure_future(self._work(items))
        self.cancelled = False

    async def _work(self, items: AsyncGenerator[Item]) -> None:
        try:
            async with aclosing(items):
                async for item in items:
                    self._waiting.put_nowait(item)
        finally:
            self._waiting.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[Item]:
        while (item := await self._waiting.get()) is not None:
            yield item
        await self.task

    def cancel(self) -> None:
        self.cancelled = True
        self.task.cancel()


class Answers:
    """The results of a broadcast."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    async def results_async(self, *, timeout_s: float, return_exceptions: bool) -> list[object]:
        assert return_exceptions, "one replica that does not answer must not hide the others"
        async with asyncio.timeout(timeout_s):
            return [await self._answer]


@dataclass(frozen=True)
class Method:
    """A method of a deployment, ready to be called."""

    handle: "Handle"
    name: str

    def remote(self, *args: object, **options: object) -> Call:
        call = Call(getattr(self.handle.deployed, self.name)(*args, **options))
        self.handle.calls.append(call)
        return call


class Handle(RealHandle[Any]):
    """Stands for the handle of a deployment; the deployment is an object in this process."""

    def __init__(self, deployed: object) -> None:
        self.deployed = deployed
        self.calls: list[Call] = []
        self.preferred: list[str] = []

    def options(self, *, method_name: str, **options: Any) -> Any:
        assert options["stream"], "all methods stream"
        assert options["_by_reference"], "by value, a frame is too large for one of Ray's messages"
        self.preferred.append(options.get("multiplexed_model_id", ""))
        return Method(self, method_name)

    def prefer(self, preferred: str) -> "PreferringHandle":
        return PreferringHandle(self, preferred)

    def broadcast(self, method: str, *args: object) -> Answers:
        return Answers(getattr(self.deployed, method)(*args))

    async def rested(self) -> list[Call]:
        """Wait until all calls so far have ended, and return them."""
        async with asyncio.timeout(60):
            await asyncio.gather(*(call.task for call in self.calls), return_exceptions=True)
        return self.calls


class PreferringHandle(RealHandle[Any]):
    """A handle that prefers replicas that were called with the same word before."""

    def __init__(self, handle: Handle, preferred: str) -> None:
        self._handle = handle
        self._word = preferred

    def options(self, *, method_name: str, **options: Any) -> Any:
        return self._handle.options(method_name=method_name, multiplexed_model_id=self._word, **options)


class HostHandle:
    """Stands for the handle of a host of several models: forwards each call to the handle of the called model.

    Args:
        services: services, or their handles, by model id.
    """

    def __init__(self, services: Mapping[str, object]) -> None:
        self.models = {name: each if isinstance(each, Handle) else Handle(each) for name, each in services.items()}

    def options(
        self, *, method_name: str, stream: bool = False, _by_reference: bool = False, multiplexed_model_id: str = ""
    ) -> "HostMethod":
        if stream:
            assert method_name == "stream", "a host has one method that streams"
            assert _by_reference, "by value, a frame is too large for one of Ray's messages"
        return HostMethod(self, method_name, stream, multiplexed_model_id)

    def broadcast(self, method: str, name: str, *args: object) -> Answers:
        return self.models[name].broadcast(method, *args)


@dataclass(frozen=True)
class HostMethod:
    """A method of a host: it streams or returns the result of one model."""

    host: HostHandle
    name: str
    stream: bool
    prefers: str

    def remote(self, model: str, *args: Any, **options: object) -> Any:
        handle = self.host.models[model]
        if not self.stream:
            return getattr(handle.deployed, self.name)(*args, **options)
        method, *rest = args
        routed = handle.options(method_name=method, stream=True, _by_reference=True, multiplexed_model_id=self.prefers)
        return routed.remote(*rest, **options)


@dataclass(frozen=True, eq=False)
class Asked:
    """The arguments of one call of the service."""

    request: EditRequest
    image: Frames
    edges: Frames | None
    first: Frames | None
    key: str
    references: Sequence[Frames] = ()


class EditService:
    """A fake Qwen-Image-Edit: it yields the same kinds of items, with pixels that depend on the same inputs.

    Args:
        failing: number of the call, from 0 → the exception raised after its first step.
        hanging: number of the call that waits for `may_go_on` after its first step.
    """

    def __init__(self, failing: Mapping[int, Exception] | None = None, hanging: int | None = None) -> None:
        self._failing = failing or {}
        self._hanging = hanging
        self.asked: list[Asked] = []
        self.stopped: list[str] = []
        self.working = 0
        """Number of calls in progress."""
        self.hangs = asyncio.Event()
        self.may_go_on = asyncio.Event()

    async def edit(
        self,
        request: EditRequest,
        image: Frames,
        edges: Frames | None = None,
        first: Frames | None = None,
        key: str = "",
        references: Sequence[Frames] = (),
    ) -> AsyncGenerator[Item]:
        number = len(self.asked)
        self.asked.append(Asked(request, image, edges, first, key, references))
        self.working += 1
        try:
            yield Fact("seed", request.seed)
            yield Fact("lpips", "random weights")
            for step in range(request.steps + 1):
                yield Progress("denoise", step, request.steps)
                if step and number == self._hanging:
                    self.hangs.set()
                    await self.may_go_on.wait()
                if step and number in self._failing:
                    raise self._failing[number]
            for item in results(request, image, edges, first or image):
                yield item
            yield StageDone("edit", "qwen-edit", "nowhere", "", f"replica {number % 2}", 0.5)
        finally:
            self.working -= 1

    async def stop(self, key: str) -> None:
        self.stopped.append(key)


def results(request: EditRequest, image: Frames, edges: Frames | None, first: Frames) -> list[Item]:
    """Return the results of an edit: sketches if `debug` is set, scores, and the picture."""
    style = first if request.ttlg.gram_scale > 0 else None
    given = [frames.pixels for frames in (image, edges, style) if frames is not None]
    mixed = zlib.crc32(b"".join(pixels.tobytes() for pixels in given))
    pixels = np.random.default_rng([request.seed, mixed]).integers(0, 256, image.pixels.shape, dtype=np.uint8)
    changed = [float(np.abs(pixels.astype(int) - other.pixels).mean()) for other in (image, first)]
    found: list[Item] = []
    if request.debug:
        found += [Sketch(0, "inverted", Frames(255 - pixels)), Sketch(0, "mirrored", Frames(flipped(pixels)))]
    return [*found, Scores(0, edge_loss=changed[0], temporal_loss=None, lpips_to_init=changed[1]), Frames(pixels)]


def flipped(pixels: Pixels) -> Pixels:
    return np.ascontiguousarray(pixels[:, :, ::-1])


def noise(seed: int, width: int = 50, height: int = 34) -> Pixels:
    """Return a picture of random pixels, (h, w, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


class MuteService:
    """A service that yields only `picture`, or no item at all, without facts or progress."""

    def __init__(self, picture: Frames | None = None) -> None:
        self._picture = picture

    async def edit(self, *asked: object, **options: object) -> AsyncGenerator[Item]:
        if self._picture is not None:
            yield self._picture
