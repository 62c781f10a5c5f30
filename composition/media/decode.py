"""Decoding media files to Frames. Native code parses untrusted files, so each file is decoded in a separate process.

The process (`composition.media.decoding.worker`) is forked from a prepared one: a crash, a hang or a decompression bomb
costs that process only. It has limits of memory, processor time and open files, and is killed if an operation misses
its deadline. It decodes on demand, at the pace of the consumer.

A decoder first reads headers, with little memory and time. Then it tells what decoding the file costs. That memory is
reserved in one budget of all decoders of the machine (`composition.media.memory_budget`), and is its limit.
"""

import asyncio
import json
import logging
import signal
import struct
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from fractions import Fraction
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from composition.media.backgrounds import check_background
from composition.media.cost import HEADER_BYTES, Cost, estimate_task
from composition.media.decoding.allowance import HEADER_CPU_S
from composition.media.decoding.process import decoder_processes
from composition.media.limits import MediaKind, MediaLimits
from composition.media.memory_budget import Reservation, find_budget
from composition.media.sound_form import SoundChunk, SoundForm, UnfitForCopying, parse_chunk, parse_form
from composition.media.turns import Pace
from services.errors import ConfigError, LimitExceeded, ReelError, ServiceBusy, ServiceLost, UndecodableMedia
from services.frames import MAX_RUN, Frames, Pixels

log = logging.getLogger(__name__)

START_S = 30.0
"""Timeout for starting a decoder process, in seconds. Generous, for busy machines."""
ANSWER_BYTES = 1 << 16
"""Maximum size of an answer without its pixels, in bytes."""
MAX_DATA_BYTES = 16 << 20
"""Maximum size of a chunk of sound, or of the result of a task, in bytes."""

Times: TypeAlias = tuple[Fraction, ...]
"""When each frame of a run is shown, and when the last one ends, in seconds."""


@dataclass(frozen=True)
class MediaFacts:
    """Properties of a media file."""

    kind: MediaKind
    width: int
    """Displayed width in pixels, after rotation; of the first picture if there are several."""
    height: int
    """Displayed height in pixels."""
    frames: int
    """Number of frames. For AVI an estimate until the file was decoded to its end."""
    rate: Fraction | None
    """Frames per second, the average if the frame rate is variable; None for pictures."""
    duration_s: float
    """Time from the first frame to the end of the last one, in seconds; 0 for pictures."""
    damaged: str | None
    """Description of damage found so far in a file that is still usable. A missing frame repeats the one before it."""
    codec: str
    """FFmpeg's name of the codec; of the first picture if there are several."""
    is_variable: bool = False
    """Whether the frame rate is variable. The runs of such a video have `Frames.times`."""
    sound: str | None = None
    """FFmpeg's name of the codec of the sound; None if there is no sound."""
    changes: Mapping[str, str | bool] = field(default_factory=dict[str, str | bool])
    """What was changed to show the picture as a viewer would see it: name → value, e.g. `tone_mapped`: `hlg`,
    `deinterlaced`: true, `pixel_aspect`: `16:15`, `alpha`: `on white`."""


class Decoder:
    """An open media file, decoded in a separate process. Create it with `Decoder.open`. Operations run one at a time.

    Every operation waits for its turn (`composition.media.turns`). It raises UndecodableMedia, LimitExceeded,
    ServiceBusy if there was no turn, or ServiceLost if the process was lost for a reason other than the file. Once the
    process was killed, every later operation fails.
    """

    def __init__(
        self, path: Path, limits: MediaLimits, param: str | None, owner: str, reservation: Reservation
    ) -> None:
        self._path = path
        self._limits = limits
        self._param = param
        self._reservation = reservation
        self._cost: Cost | None = None
        self._lock = asyncio.Lock()
        self._facts: MediaFacts | None = None
        try:
            self._process = decoder_processes.start()
        except OSError as error:
            raise ServiceLost("the decoder process could not be started") from error
        self._pace = Pace(self._process, owner, limits.turn_wait_s)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        path: Path,
        limits: MediaLimits | None = None,
        *,
        param: str | None = None,
        owner: str = "",
        background: str | None = None,
        takes_sound: bool = False,
    ) -> AsyncGenerator["Decoder"]:
        """Open a file, or the pictures in a zip archive or a folder in natural order; its process ends with the block.

        Args:
            path: a local file, or a folder of pictures.
            limits: limits on the file; by default those of `MediaLimits`.
            param: the request field to name in errors.
            owner: the owner of the file, among whom the processor is shared; empty if it is not known.
            background: what transparent frames are composited on; by default that of `limits`.
            takes_sound: whether to open a file that holds only sound; otherwise it raises UndecodableMedia.

        Raises:
            ValueError: `background` is no colour.
            UndecodableMedia: the file, or a picture in it, is empty, truncated, has no frames or is no supported video
                or picture. The message names the picture.
            LimitExceeded: the header or the packets exceed a limit.
            ServiceLost: the process could not be started, or died with the process that it was forked from.
            ServiceBusy: neither the processor nor the memory was free in time.
        """
        limits = limits or MediaLimits()
        if background is not None:
            limits = limits.model_copy(update={"background": check_background(background)})
        async with cls._start(path, limits, param, owner, HEADER_BYTES) as decoder:
            await decoder._open_file(takes_sound=takes_sound)
            yield decoder

    @classmethod
    async def run_task(
        cls,
        path: Path,
        task: str,
        options: dict[str, Any],
        limits: MediaLimits | None = None,
        *,
        param: str | None = None,
        owner: str = "",
    ) -> tuple[dict[str, Any], bytes]:
        """Run a task that decodes nothing, e.g. reading marks, in a decoder process of its own.

        Args:
            path: a local file.
            task: a key of `composition.media.decoding.worker.TASKS`.
            options: its options, as JSON.
            limits: limits on the process; by default those of `MediaLimits`.
            param: the request field to name in errors.
            owner: the owner of the file; empty if it is not known.

        Returns:
            JSON and bytes. Their maker has read a file that may be hostile.

        Raises:
            UndecodableMedia: the file cannot be read, or the process crashed on it or took too long.
            LimitExceeded: the file exceeds a limit.
            ServiceLost: the process could not be started, or died with the process that it was forked from.
            ServiceBusy: other files are being decoded, and the processor or the memory was not free in time.
        """
        limits = limits or MediaLimits()
        memory_bytes = await asyncio.to_thread(_estimate_task_memory, path, task, limits, param)
        async with cls._start(path, limits, param, owner, memory_bytes) as decoder:
            return await decoder._run_task(task, options)

    @classmethod
    @asynccontextmanager
    async def _start(
        cls, path: Path, limits: MediaLimits, param: str | None, owner: str, memory_bytes: int
    ) -> AsyncGenerator["Decoder"]:
        """Reserve memory and start a process inside the `with` block."""
        with closing(find_budget(limits).open_reservation(owner)) as reservation:
            try:
                await reservation.resize(memory_bytes)
            except (LimitExceeded, ServiceBusy) as error:
                raise _blame_field(type(error), error.message, param) from None
            decoder = cls(path, limits, param, owner, reservation)
            try:
                yield decoder
            finally:
                await decoder._close()

    @property
    def facts(self) -> MediaFacts:
        """Properties of the file. `frames` and `damaged` may change after each operation."""
        if self._facts is None:
            raise AssertionError("create a Decoder with Decoder.open")
        return self._facts

    @property
    def cost(self) -> Cost:
        """What decoding the file costs, estimated from its headers; it grows if the file turns out to need more."""
        if self._cost is None:
            raise AssertionError("create a Decoder with Decoder.open")
        return self._cost

    async def sample(self, count: int) -> Frames:
        """Return `count` (1 to 16) frames at InternVL's sampling positions, or all frames if there are fewer.

        Pictures are resized to the first one's size.
        """
        if not 1 <= count <= MAX_RUN:
            raise ValueError(f"count must be 1 to {MAX_RUN}, got {count}")
        parts: list[Pixels] = []
        request: dict[str, Any] = {"op": "sample", "count": count}
        while True:
            answer, pixels = await self._request(request)
            if pixels is not None:
                parts.append(pixels)
            request = {"op": "sample", "positions": answer.get("rest", [])[: count - sum(map(len, parts))]}
            if pixels is None or not request["positions"]:
                return self._make_frames(np.concatenate(parts) if parts else None, 0)

    async def read_last(self) -> Frames:
        """Return the last frame that can be decoded."""
        pixels, _ = await self._ask({"op": "last"})
        return self._make_frames(pixels, self.facts.frames - 1)

    async def read_picture_with_alpha(self) -> tuple[Frames, Frames | None]:
        """Return the picture, or the last frame of a video, not composited, and its opacity.

        Returns:
            The colours, and a grey frame of the same size that is 255 where the picture is opaque; None if it is
            opaque everywhere.
        """
        pixels, _ = await self._ask({"op": "straight"})
        if pixels is None or pixels.shape[3] == 3:
            return self._make_frames(pixels, 0), None
        colours = np.ascontiguousarray(pixels[..., :3])
        return self._make_frames(colours, 0), self._make_frames(np.repeat(pixels[..., 3:], 3, 3), 0)

    async def stream_runs(self, start: int = 0, count: int | None = None) -> AsyncGenerator[Frames]:
        """Yield `count` frames, or all, from index `start` on, in runs of 1 to 16 frames and at most 64 MiB.

        Each run is decoded when it is requested. All frames of a run have the same size: a run of pictures ends before
        a picture of another size, and before one that cannot be decoded. If the frame rate is variable, each run has
        its times, counted from the first frame of the video.
        """
        stop = sys.maxsize if count is None else start + count
        while start < stop:
            pixels, times = await self._ask({"op": "run", "start": start, "most": min(MAX_RUN, stop - start)})
            if pixels is None:
                return
            yield self._make_frames(pixels, start, times)
            start += len(pixels)

    async def verify(self) -> None:
        """Decode the first frame, the last and some in between. Raises UndecodableMedia if the last does not decode."""
        await self._ask({"op": "verify"})

    async def begin_sound(self, *, copied: bool, rate: int | None = None, channels: int | None = None) -> SoundForm:
        """Begin to read the sound of the file, which `stream_sound` continues.

        Args:
            copied: whether to read the packets as they are, or else samples, which have no gaps.
            rate: samples per second to convert to; None keeps the file's up to 48,000.
            channels: 1, 2 or 6 channels to convert to; None keeps the file's, or the next smaller of these numbers.

        Raises:
            UnfitForCopying: MP4 cannot hold the packets as they are. `stream_sound` may raise it as well.
            UndecodableMedia: there is no sound, or it cannot be decoded. The message has no name for the sound.
        """
        form = "packets" if copied else "samples"
        answer, _ = await self._request({"op": "sound", "form": form, "rate": rate, "channels": channels})
        _check_fitness(answer["sound"])
        return parse_form(answer["sound"])

    async def stream_sound(self) -> AsyncGenerator[SoundChunk]:
        """Yield the packets or samples of the sound. Each chunk is read when it is requested."""
        while True:
            answer, _ = await self._request({"op": "sound_next"})
            _check_fitness(answer["sound"])
            if answer["sound"].get("end"):
                return
            yield parse_chunk(answer["sound"], answer["data"])

    def _make_frames(self, pixels: Pixels | None, first: int, times: Times | None = None) -> Frames:
        if pixels is None:
            raise self._make_error(UndecodableMedia, "the file has no frames")
        return Frames(pixels, first, self.facts.rate or Fraction(1), times)

    async def _open_file(self, *, takes_sound: bool) -> None:
        path = await self._await_start()
        await self._ask({"path": path, "limits": self._limits.model_dump(), "takes_sound": takes_sound})

    async def _run_task(self, task: str, options: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        path = await self._await_start()
        answer, _ = await self._request(
            {"path": path, "limits": self._limits.model_dump(), "task": task, "options": options}
        )
        return answer["task"], answer["data"]

    async def _await_start(self) -> str:
        """Wait until the process is running. Returns the absolute path of the file."""
        path = await asyncio.to_thread(self._path.resolve)
        try:
            async with asyncio.timeout(START_S):
                self._process.identify((await self._receive_answer())["pid"])
        except (TimeoutError, OSError, EOFError) as error:  # no fault of the file
            await self._reap_process()
            raise ServiceLost("the decoder process did not start") from error
        return str(path)

    async def _ask(self, request: dict[str, Any]) -> tuple[Pixels | None, Times | None]:
        """Send a request, and return the pixels of the answer and their times."""
        answer, pixels = await self._request(request)
        return pixels, _parse_times(answer.get("times"))

    async def _request(self, request: dict[str, Any]) -> tuple[dict[str, Any], Pixels | None]:
        """Send a request and return the answer and its pixels. If the exchange is cut short, the process is killed."""
        async with self._lock:
            is_complete = False
            try:
                answer, pixels = await self._exchange_in_turn(request)
                is_complete = True
            except TimeoutError:
                raise self._make_error(
                    UndecodableMedia, f"decoding takes longer than {self._limits.deadline_s:g} s (deadline_s)"
                ) from None
            except (OSError, EOFError):
                raise self._explain_end(await self._reap_process()) from None
            finally:
                if not is_complete:
                    self._process.kill()
        if "error" in answer:
            if answer["error"] == ConfigError.code:
                raise ConfigError(answer["message"])
            kind = LimitExceeded if answer["error"] == LimitExceeded.code else UndecodableMedia
            raise self._make_error(kind, answer["message"])
        if "facts" in answer:
            facts = answer["facts"]
            self._facts = MediaFacts(**facts | {"rate": None if facts["rate"] is None else Fraction(facts["rate"])})
        return answer, pixels

    def _explain_end(self, code: int | None) -> ReelError:
        """Return the error for a process that has ended with this status; None if it was lost."""
        if code is None:
            return ServiceLost("the decoder process was lost")
        limit_s = self._limits.cpu_s if self._cost else min(HEADER_CPU_S, self._limits.cpu_s)
        used_s = self._process.status.cpu_s if self._process.status else 0.0
        if code != -signal.SIGXCPU or used_s < limit_s:
            return self._make_error(UndecodableMedia, "the decoder crashed on the file")
        what = "decoding" if self._cost else "reading its headers"
        text = f"{what} takes more than {limit_s:g} s of processor time"
        return self._make_error(LimitExceeded, f"{text} (cpu_s)" if self._cost else f"{text}, which is the limit")

    async def _exchange_in_turn(self, request: dict[str, Any]) -> tuple[dict[str, Any], Pixels | None]:
        """Send a request and return the answer and its pixels. Memory is waited for without holding a turn."""
        answer, pixels = await self._pace.run(lambda: self._exchange(request), self._limits.deadline_s)
        while "cost" in answer:
            await self._reserve(Cost(**answer["cost"]), answer["used"])
            answer, pixels = await self._pace.run(lambda: self._exchange({}), self._limits.deadline_s)
        return answer, pixels

    async def _exchange(self, request: dict[str, Any]) -> tuple[dict[str, Any], Pixels | None]:
        data = json.dumps(request).encode()
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._process.link, struct.pack(">I", len(data)) + data)
        answer = await self._receive_answer()
        if "bytes" in answer:
            answer["data"] = await self._receive_data(answer["bytes"])
        if answer.get("shape") is None:
            return answer, None
        shape = tuple(answer["shape"])
        if shape[0] > MAX_RUN or prod(shape) > MAX_RUN * self._limits.max_pixels * 3:
            raise EOFError
        pixels = np.empty(shape, np.uint8)  # (n, h, w, 3) uint8 RGB
        await self._receive(pixels.data.cast("B"))
        return answer, pixels

    async def _reserve(self, cost: Cost, used: int) -> None:
        """Reserve memory in the budget of the machine. Raises LimitExceeded, ServiceBusy.

        Args:
            cost: of the file.
            used: memory that the decoder uses now, in bytes. The rest of what was reserved for reading headers is
                given back first, so that decoders that wait for each other do not hold it.
        """
        if self._cost is None:
            await self._reservation.resize(min(used, self._reservation.size))
        try:
            await self._reservation.resize(cost.memory_bytes)
        except (LimitExceeded, ServiceBusy) as error:
            raise self._make_error(type(error), error.message) from None
        self._cost = cost
        self._pace.expect(cost.cpu_s)

    async def _receive_data(self, size: int) -> bytes:
        if not 0 <= size <= MAX_DATA_BYTES:
            raise EOFError
        data = bytearray(size)
        await self._receive(memoryview(data))
        return bytes(data)

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
        """Fill the buffer. Raises EOFError if the process has ended."""
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

    def _make_error(self, kind: type[ReelError], message: str) -> ReelError:
        return _blame_field(kind, message, self._param)

    async def _close(self) -> None:
        self._process.kill()
        self._process.link.close()
        await asyncio.shield(asyncio.to_thread(self._process.close))
        if (status := self._process.status) is not None:
            used = {"peak_bytes": status.peak_bytes, "cpu_s": round(status.cpu_s, 3)}
            log.info("decoder ended", extra={**used, "reserved_bytes": self._reservation.size})


def _blame_field(kind: type[ReelError], message: str, param: str | None) -> ReelError:
    """Return an error that names the request field, if it is known."""
    return kind(f"{param}: {message}" if param else message, param=param)


def _parse_times(times: dict[str, Any] | None) -> Times | None:
    """Return the times in an answer, in seconds."""
    if times is None:
        return None
    base = Fraction(times["base"])
    return tuple(ticks * base for ticks in times["ticks"])


def _check_fitness(answer: Mapping[str, Any]) -> None:
    """Raise UnfitForCopying if the answer says so."""
    if "unfit" in answer:
        raise UnfitForCopying(str(answer["unfit"]))


def _estimate_task_memory(path: Path, task: str, limits: MediaLimits, param: str | None) -> int:
    """Return the memory of a task in bytes. Raises UndecodableMedia: no file; LimitExceeded: too large."""
    try:
        cost = estimate_task(task, path.stat().st_size)
    except OSError as error:
        raise _blame_field(UndecodableMedia, f"the file cannot be read: {error.strerror}", param) from error
    if cost.memory_bytes <= limits.memory_bytes:
        return cost.memory_bytes
    needed, limit = cost.memory_bytes >> 20, limits.memory_bytes >> 20
    text = f"{cost.reason} needs {needed} MiB of memory; the limit is {limit} MiB (memory_bytes)"
    raise _blame_field(LimitExceeded, text, param)


async def probe_media(
    path: Path,
    limits: MediaLimits | None = None,
    *,
    param: str | None = None,
    owner: str = "",
    takes_sound: bool = False,
) -> MediaFacts:
    """Check that a file is complete, decodable and within the limits, and return its properties.

    The header is checked before anything is decoded. Then all packets are read, and the first frame, the last and some
    in between are decoded; damage elsewhere is not found.

    Args:
        path: a local file, or a folder of pictures.
        limits: limits on the file; by default those of `MediaLimits`.
        param: the request field to name in errors.
        owner: the owner of the file; empty if it is not known.
        takes_sound: whether the file may hold only sound.

    Raises:
        UndecodableMedia: the file is damaged, incomplete or of an unsupported format.
        LimitExceeded: the file exceeds a limit.
        ServiceLost: the decoder process could not be started or was lost.
        ServiceBusy: other files are being decoded.
    """
    async with Decoder.open(path, limits, param=param, owner=owner, takes_sound=takes_sound) as decoder:
        await decoder.verify()
        return decoder.facts
