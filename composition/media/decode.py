"""Media files to Frames. Files come from users and are native code's input, so a process of their own decodes them.

One process per file (`composition.media.decoding.worker`), forked from a prepared one: a crash, a hang or a bomb costs
that process and no more. It has limits of memory, processor time and open files; every operation has a deadline, kept
by killing. It decodes only what it is asked for, so what is pulled slowly is decoded slowly.
"""

import asyncio
import json
import logging
import struct
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from composition.media.decoding.process import decoder_processes
from composition.media.limits import MediaKind, MediaLimits
from services.errors import LimitExceeded, ReelError, ServiceLost, UndecodableMedia
from services.frames import MAX_RUN, Frames, Pixels

log = logging.getLogger(__name__)

START_S = 30.0
"""How long a process may take to start, on a machine that is busy."""
ANSWER_BYTES = 1 << 16
"""The most that an answer may have beside its pixels."""


@dataclass(frozen=True)
class MediaFacts:
    """What a file is."""

    kind: MediaKind
    width: int
    """Pixels, as it is shown: rotation is applied. Of several pictures, that of the first."""
    height: int
    """Pixels."""
    frames: int
    """As far as is known: AVI says so for certain only once it was decoded to its end."""
    rate: Fraction | None
    """Frames per second, on average where they come at irregular times; None for pictures."""
    duration_s: float
    damaged: str | None
    """What is wrong although it can be used, as far as it was decoded. A frame that is missing is filled with the one
    before it."""
    codec: str
    """FFmpeg's name. Of several pictures, that of the first."""


class Decoder:
    """A file that is open in a process of its own. Made by `Decoder.open`; one operation at a time, others wait.

    Every operation raises UndecodableMedia, LimitExceeded, and ServiceLost when the process was lost by no fault of the
    file; after the first that was killed, all do.
    """

    def __init__(self, path: Path, limits: MediaLimits, param: str | None) -> None:
        self._path = path
        self._limits = limits
        self._param = param
        self._lock = asyncio.Lock()
        self._facts: MediaFacts | None = None
        self._process = decoder_processes.start()

    @classmethod
    @asynccontextmanager
    async def open(
        cls, path: Path, limits: MediaLimits | None = None, *, param: str | None = None
    ) -> AsyncGenerator["Decoder"]:
        """Open a file; when the block is left, however that happens, its process is gone.

        A zip archive is opened as the pictures in it, in natural order of their names; so is a folder.

        Args:
            path: a local file, or a folder of pictures.
            limits: what it may be and cost.
            param: the field to blame.

        Raises:
            UndecodableMedia: it is empty, no video or picture, without frames, or its end is missing; or that can be
                said of one of its pictures, which is named.
            LimitExceeded: its header or its packets go beyond a limit.
            ServiceLost: no process could be started, or it was lost with the one that it was forked from.
        """
        try:
            decoder = cls(path, limits or MediaLimits(), param)
        except OSError as error:
            raise ServiceLost("no process could be started to decode") from error
        try:
            await decoder._open_file()
            yield decoder
        finally:
            await decoder._close()

    @property
    def facts(self) -> MediaFacts:
        """What is known by now: `frames` and `damaged` may say more after each operation."""
        if self._facts is None:
            raise AssertionError("a Decoder is made by Decoder.open")
        return self._facts

    async def sample(self, count: int) -> Frames:
        """Return `count` (1 to 16) frames spread over the video, or all if it has fewer, at InternVL's positions.

        Pictures of another size than the first one's are made its size.
        """
        if not 1 <= count <= MAX_RUN:
            raise ValueError(f"count must be 1 to {MAX_RUN}, got {count}")
        return self._make_frames(await self._ask({"op": "sample", "count": count}), 0)

    async def read_last(self) -> Frames:
        """Return the last frame that can be decoded."""
        pixels = await self._ask({"op": "last"})
        return self._make_frames(pixels, self.facts.frames - 1)

    async def stream_runs(self, start: int = 0, count: int | None = None) -> AsyncGenerator[Frames]:
        """Yield the frames from the one numbered `start`, `count` of them or all, in runs of 1 to 16.

        Each run is decoded when it is asked for. Runs of large frames are short: up to 64 MiB. The frames of a run have
        one size: a run of pictures ends where another size begins, or before one that cannot be decoded.
        """
        stop = sys.maxsize if count is None else start + count
        while start < stop:
            pixels = await self._ask({"op": "run", "start": start, "most": min(MAX_RUN, stop - start)})
            if pixels is None:
                return
            yield self._make_frames(pixels, start)
            start += len(pixels)

    async def verify(self) -> None:
        """Decode the first frame, the last and some between. Raises UndecodableMedia when the end does not decode."""
        await self._ask({"op": "verify"})

    def _make_frames(self, pixels: Pixels | None, first: int) -> Frames:
        if pixels is None:
            raise self._make_error(UndecodableMedia, "it has no frames")
        return Frames(pixels, first, self.facts.rate or Fraction(1))

    async def _open_file(self) -> None:
        path = await asyncio.to_thread(self._path.resolve)
        try:
            async with asyncio.timeout(START_S):
                await self._receive_answer()
        except (TimeoutError, OSError, EOFError) as error:  # no fault of the file
            await self._reap_process()
            raise ServiceLost("the process that was to decode did not start") from error
        await self._ask({"path": str(path), "limits": self._limits.model_dump()})

    async def _ask(self, request: dict[str, Any]) -> Pixels | None:
        """Ask the process once. Whatever cuts the exchange short, our being cancelled too, kills the process."""
        async with self._lock:
            whole = False
            try:
                async with asyncio.timeout(self._limits.deadline_s):
                    said, pixels = await self._exchange(request)
                whole = True
            except TimeoutError:
                raise self._make_error(
                    UndecodableMedia, f"decoding it takes longer than {self._limits.deadline_s:g} s (deadline_s)"
                ) from None
            except (OSError, EOFError):
                if await self._reap_process() is None:
                    raise ServiceLost("the process that was decoding was lost") from None
                raise self._make_error(UndecodableMedia, "the decoder crashed on it") from None
            finally:
                if not whole:
                    self._process.kill()
        if "error" in said:
            kind = LimitExceeded if said["error"] == LimitExceeded.code else UndecodableMedia
            raise self._make_error(kind, said["message"])
        facts = said["facts"]
        self._facts = MediaFacts(**facts | {"rate": None if facts["rate"] is None else Fraction(facts["rate"])})
        return pixels

    async def _exchange(self, request: dict[str, Any]) -> tuple[dict[str, Any], Pixels | None]:
        data = json.dumps(request).encode()
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._process.link, struct.pack(">I", len(data)) + data)
        said = await self._receive_answer()
        if said.get("shape") is None:
            return said, None
        shape = tuple(said["shape"])
        if shape[0] > MAX_RUN or prod(shape) > MAX_RUN * self._limits.max_pixels * 3:
            raise EOFError
        pixels = np.empty(shape, np.uint8)  # (n, h, w, 3) uint8 RGB
        await self._receive(pixels.data.cast("B"))
        return said, pixels

    async def _receive_answer(self) -> dict[str, Any]:
        head = bytearray(4)
        await self._receive(memoryview(head))
        (size,) = struct.unpack(">I", head)
        if size > ANSWER_BYTES:
            raise EOFError
        answer = bytearray(size)
        await self._receive(memoryview(answer))
        return json.loads(answer)

    async def _receive(self, buffer: memoryview) -> None:
        """Fill the buffer. Raises EOFError when the process is gone."""
        loop = asyncio.get_running_loop()
        while buffer:
            count = await loop.sock_recv_into(self._process.link, buffer)
            if count == 0:
                raise EOFError
            buffer = buffer[count:]

    async def _reap_process(self) -> int | None:
        code = await asyncio.to_thread(self._process.end)
        log.warning("a decoder process died", extra={"exit": code, "said": self._process.stderr_text[-2000:]})
        return code

    def _make_error(self, kind: type[ReelError], message: str) -> Any:
        return kind(f"{self._param}: {message}" if self._param else message, param=self._param)

    async def _close(self) -> None:
        self._process.kill()
        self._process.link.close()
        await asyncio.shield(asyncio.to_thread(self._process.close))


async def probe_media(path: Path, limits: MediaLimits | None = None, *, param: str | None = None) -> MediaFacts:
    """Return what a file is if it may be used: within the limits, whole, and its last frame decodes.

    Nothing is decoded before the header is known to be within the limits. Then all packets are read, and the first
    frame, the last and some between are decoded; only what lies on the way to them is found damaged.

    Raises:
        UndecodableMedia, LimitExceeded: with `param` as the field to blame.
    """
    async with Decoder.open(path, limits, param=param) as decoder:
        await decoder.verify()
        return decoder.facts
