"""Requests for the contract tests of every service: pictures by role, fields by model kind."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.modules.module import register_module_forward_pre_hook

from miniatures.random import find_random_model, random_block, written
from services.catalogue import KINDS
from services.frames import Frames, Item, StageDone, Stream
from services.model import Model, Offer, Role
from services.roles import find_method
from services.service import Service

ROOT = Path(__file__).parents[2]
RANDOM = np.random.default_rng(7)
PICTURE = Frames(RANDOM.integers(0, 256, (1, 44, 60, 3), np.uint8))
EDGES = Frames(np.where(np.indices((1, 44, 60, 3))[2] // 8 % 2, 255, 0).astype(np.uint8))
RUN = Frames(RANDOM.integers(0, 256, (3, 36, 48, 3), np.uint8), first=5)
LARGE_RUN = Frames(RANDOM.integers(0, 256, (16, 96, 96, 3), np.uint8))
PORTRAIT = Image.open(ROOT / "tests/data/astronaut.png").convert("RGB").crop((96, 0, 352, 256))

FORMS: Mapping[tuple[str, str], str] = {("wan", "text-to-video"): "t2v"}
"""Kind and a role that is not its first → the form of random weights that can take it."""


class Subject:
    """A service with random weights, and requests for one of its roles.

    Args:
        kind: model kind, or `kind/role` for a role that is not its first.
        home: folder for the weights.
        settings: overrides of the kind's test settings.
    """

    def __init__(self, kind: str, home: Path, **settings: Any) -> None:
        kind, _, role = kind.partition("/")
        self.model: Model[Any] = KINDS[kind]
        self.offer: Offer = next(offer for offer in self.model.offers if role in ("", offer.role))
        block = {**random_block(kind, home), "device": "cpu", **settings}
        if role:
            block["weights"] = written(kind, FORMS[kind, role], home)
        fields = {name: value for name, value in block.items() if name not in ("kind", "defaults")}
        self.settings = self.model.settings.model_validate(fields)
        self.service: Service[Any, Any] = self.model.load(self.settings, home, lambda: f"{kind}#test cpu")
        example = find_random_model(kind)
        self.short, self.long = dict(example.SHORT), {**example.SHORT, **example.LONG}

    def ask(self, fields: Mapping[str, Any], *, large: bool = False, **options: Any) -> Stream:
        """Call the method of the role with a request of these fields."""
        return self.ask_with(self.make_request(fields), large=large, **options)

    def make_request(self, fields: Mapping[str, Any]) -> Any:
        """Return a request with these fields; None if the role has no request class."""
        return self.offer.request.model_validate(fields) if self.offer.request is not None else None

    def ask_with(self, request: Any, *, large: bool = False, **options: Any) -> Stream:
        """Call the method of the role with a request, which may violate the limits of its class."""
        method = getattr(self.service, find_method(self.offer.role))
        asked = {} if self.offer.request is None else {"request": request}
        return method(**asked, **choose_pictures(self.offer.role, large=large), **options)

    async def make(self, fields: Mapping[str, Any] | None = None, **options: Any) -> list[Item]:
        """Return all items of a request's stream, by default of the short request."""
        return [item async for item in self.ask(self.short if fields is None else fields, **options)]


def choose_pictures(role: Role, *, large: bool) -> dict[str, Frames]:
    """Return the pictures that the method of a role needs; `large` ones take longer to process."""
    if role in ("image-to-video", "restyle"):
        return {"image": PICTURE}
    if role == "guided-edit":
        return {"image": PICTURE, "edges": EDGES}
    if role == "upscale":
        return {"frames": LARGE_RUN if large else RUN}
    if role == "describe":
        return {"frames": RUN}
    if role == "face":
        side = 1024 if large else 256
        return {"image": Frames(np.array(PORTRAIT.resize((side, side), Image.Resampling.LANCZOS))[None])}
    return {}


def compare(items: list[Item]) -> list[Any]:
    """Return the items in comparable form, without durations: equal for two streams of the same request."""
    return [_freeze(asdict(replace(item, seconds=0.0) if isinstance(item, StageDone) else item)) for item in items]


def _freeze(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.shape, value.tobytes()
    if isinstance(value, dict):
        return {name: _freeze(part) for name, part in value.items()}
    return value


WAIT_S = 60.0


class Forwards:
    """Number of module calls in all models."""

    def __init__(self) -> None:
        self.count = 0
        self.begun = asyncio.Event()
        self._may_run = threading.Event()

    async def resume(self) -> None:
        """Let the first call run, after the tasks that are ready have had their turn."""
        for _ in range(10):
            await asyncio.sleep(0)
        self._may_run.set()

    def wait(self) -> None:
        """Wait for `resume`, in the thread of a model."""
        assert self._may_run.wait(WAIT_S)


@contextmanager
def count_forwards(*, held: bool = False) -> Generator[Forwards]:
    """Count the calls of all modules within the block. If `held`, the first one waits for `Forwards.resume`."""
    forwards, loop = Forwards(), asyncio.get_running_loop()

    def count(_module: torch.nn.Module, _args: Any) -> None:
        forwards.count += 1
        if forwards.count == 1:
            loop.call_soon_threadsafe(forwards.begun.set)
            if held:
                forwards.wait()

    hook = register_module_forward_pre_hook(count)
    try:
        yield forwards
    finally:
        hook.remove()


@contextmanager
def hold_first(module: torch.nn.Module) -> Generator[Forwards]:
    """Count the calls of one module within the block. The first one waits for `Forwards.resume`."""
    forwards, loop = Forwards(), asyncio.get_running_loop()

    def count(*_: object) -> None:
        forwards.count += 1
        if forwards.count == 1:
            loop.call_soon_threadsafe(forwards.begun.set)
            forwards.wait()

    hook = module.register_forward_hook(count)
    try:
        yield forwards
    finally:
        hook.remove()


async def close_while_decoding(stream: AsyncGenerator[Item], decoder: torch.nn.Module) -> int:
    """Close a stream behind its first frames, during the second call of `decoder`. Return the number of calls."""
    forwards = Forwards()

    def count(*_: object) -> None:
        forwards.count += 1
        if forwards.count == 2:
            forwards.wait()

    hook = decoder.register_forward_hook(count)
    async for item in stream:
        if isinstance(item, Frames):
            break
    closing = asyncio.create_task(stream.aclose())
    await forwards.resume()
    await closing
    hook.remove()
    return forwards.count


@contextmanager
def fail_forwards(error: RuntimeError) -> Generator[None]:
    """Let every module call within the block raise `error`, as a failing device would."""

    def fail(_module: torch.nn.Module, _args: Any) -> None:
        raise error

    hook = register_module_forward_pre_hook(fail)
    try:
        yield
    finally:
        hook.remove()
