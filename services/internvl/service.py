"""How InternVL is served: a question about frames goes in, the answer comes out as it is written."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.errors import LimitExceeded
from services.frames import MAX_RUN, Frames, Item, Progress, StageDone, Text
from services.internvl.request import MAX_NEW_TOKENS, DescribeRequest
from services.weights import Weights, resolve
from services.worker import Outlet, ServiceInfo, Worker

NAME = "internvl"
STAGE = "describe"


class InternVLSettings(BaseModel):
    """What the configuration file says about InternVL."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: Weights
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`; `auto` takes the GPU where there is one."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """`auto` is the dtype the checkpoint was saved in."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] | None = None
    """By default what transformers chooses."""
    max_frames: Annotated[int, Field(ge=1, le=MAX_RUN)] = MAX_RUN
    """The most frames a question may be about; each takes 256 tokens of the real checkpoint's context."""
    max_new_tokens: Annotated[int, Field(ge=1, le=MAX_NEW_TOKENS)] = MAX_NEW_TOKENS
    """The longest answer that may be asked for."""


class InternVL:
    """Answers questions about frames, one at a time.

    Args:
        settings: see `InternVLSettings`.
        home: REELGRAPH_HOME, where downloads lie.
        replica: says which replica this is, and on which devices.

    Raises:
        ConfigError: the weights cannot be had, or are not InternVL's.
    """

    def __init__(self, settings: InternVLSettings, home: Path, replica: Callable[[], str]) -> None:
        from services.internvl.model import Describer

        folder = resolve(settings.weights, home)
        self._describer = Describer(folder, device=settings.device, dtype=settings.dtype, attention=settings.attention)
        self._settings = settings
        self._replica = replica
        self._worker = Worker(NAME)

    async def describe(
        self, request: DescribeRequest, frames: Frames | None = None, key: str = ""
    ) -> AsyncGenerator[Item]:
        """Stream the answer: a Progress when it begins, a Text for each piece, a StageDone at the end.

        Decoding is greedy: the same request about the same frames on the same device has the same answer. A model may
        answer nothing at all, or be cut off at `max_new_tokens`; both end the stream as usual.

        Args:
            request: the question.
            frames: what it is about; None asks about the text alone.
            key: names the stream for `stop`.

        Raises:
            LimitExceeded: more frames or tokens than the settings allow, or more than the model's context holds.
            Cancelled: the stream was stopped.
            ModelFailed: out of memory, or numbers that are not finite.
        """
        self._check_limits(request, frames)

        def work(outlet: Outlet[Item]) -> None:
            started = time.perf_counter()
            outlet.put(Progress(STAGE, 0, request.max_new_tokens))
            self._describer.describe(
                request.prompt,
                None if frames is None else frames.pixels,
                request.max_new_tokens,
                write=lambda piece: outlet.put(Text(STAGE, piece)),
                check=outlet.check,
            )
            outlet.put(self._done(time.perf_counter() - started))

        async with aclosing(self._worker.stream(work, key)) as items:
            async for item in items:
                yield item

    async def stop(self, key: str) -> None:
        """Cancel the stream that was opened with `key`, within one token."""
        self._worker.stop(key)

    async def info(self) -> ServiceInfo:
        """Say what is served here, and whether it is at work."""
        weights = self._settings.weights
        return ServiceInfo(NAME, weights.source, weights.revision or "", self._replica(), self._worker.busy)

    def check_health(self) -> None:
        """Raise DeviceFailed when this process must be replaced."""
        self._worker.check()

    def _check_limits(self, request: DescribeRequest, frames: Frames | None) -> None:
        if frames is not None:
            _within("frames", frames.count, self._settings.max_frames)
        _within("max_new_tokens", request.max_new_tokens, self._settings.max_new_tokens)

    def _done(self, seconds: float) -> StageDone:
        weights = self._settings.weights
        return StageDone(STAGE, NAME, weights.source, weights.revision or "", self._replica(), seconds)


def _within(field: str, value: int, limit: int) -> None:
    if value > limit:
        raise LimitExceeded(f"{field}: at most {limit} here, got {value}", param=field)
