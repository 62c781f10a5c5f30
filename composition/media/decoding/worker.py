"""What a decoder does: a process that decodes one file, and may be killed at any time.

It is forked from a prepared process (`composition.media.decoding.fork_server`), which ends it when it ends itself. It says
that it is there by an empty answer; then it is asked over the socket and answers in turn. A request is a length (4
bytes, big endian) and JSON: first `{"path", "limits"}`, then `{"op": "run", "start", "most"}`, `{"op": "sample",
"count"}`, `{"op": "last"}` or `{"op": "verify"}`. An answer is a length and JSON, `{"facts", "shape"}` or `{"error",
"message"}`, and then the pixels that `shape` announces, if any.
"""

import json
import resource
import socket
import struct
import sys
from collections.abc import Iterable
from typing import Any, Protocol, cast

import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame

from composition.media.decoding.album import Album, is_album
from composition.media.decoding.headers import Limits
from composition.media.decoding.media_file import THREADS, MediaFile
from composition.media.decoding.pixels import RUN_BYTES
from services.errors import LimitExceeded, ReelError, UndecodableMedia
from services.frames import Pixels

VERIFIED_FRAMES = 8
"""How many frames spread over a file are decoded when it is verified."""
MAX_DECORD_FRAMES = 256
"""The longest video that decord reads."""
MAX_OPEN_FILES = 64
MAX_WRITTEN_BYTES = 1 << 16
"""How much the process may write to files: what libraries say on standard error."""


class DecordReader(Protocol):
    """What is used of `decord.VideoReader`."""

    def __len__(self) -> int: ...
    def next(self) -> Any: ...


def spread_positions(count: int, frames: int) -> list[int]:
    """Return `count` positions, each in the middle of a part of the video; all there are, if they are fewer.

    InternVL's own sampling: https://huggingface.co/OpenGVLab/InternVL3-1B, `get_index`.
    """
    if count >= frames:
        return list(range(frames))
    part = (frames - 1) / count
    return [min(frames - 1, int(part / 2 + round(part * i))) for i in range(count)]


class Video:
    """The frames of a video or a picture, (n, height, width, 3) uint8 RGB."""

    def __init__(self, path: str, limits: Limits) -> None:
        self._path = path
        self.file = MediaFile(path, limits)

    @property
    def can_use_decord(self) -> bool:
        """Whether decord can be trusted to give the same frames and the same pixels."""
        footage = self.file
        return (
            footage.is_indexed
            and footage.converter.matches_decord
            and footage.frames <= MAX_DECORD_FRAMES
            and not footage.damaged
        )

    @property
    def count(self) -> int:
        """How many there are, as far as is known."""
        return self.file.frames

    def describe(self) -> dict[str, Any]:
        """`composition.media.decode.MediaFacts` as JSON."""
        return self.file.describe()

    def read_run(self, start: int, most: int) -> Pixels | None:
        """Frames from `start` on, up to `most` of them; None behind the last one."""
        width, height = self.file.converter.size
        most = min(most, self.file.frames - start, max(1, RUN_BYTES // (width * height * 3)))
        if most < 1:
            return None
        shown = (self.file.read_frame(start + i) for i in range(most))
        return self._convert_frames((frame for frame in shown if frame is not None), most)

    def sample(self, positions: list[int]) -> Pixels | None:
        """The frames at `positions`."""
        pixels = self._sample_with_decord(positions) if self.can_use_decord else None
        if pixels is None:
            shown = (self.file.read_frame(position) for position in positions)
            pixels = self._convert_frames((frame for frame in shown if frame is not None), len(positions))
        return pixels

    def read_last(self) -> Pixels | None:
        """The last frame that can be decoded, a run of one."""
        return self._convert_frames([self.file.read_last()], 1)

    def verify(self, positions: list[int]) -> None:
        """Decode the frames at `positions` and the last one."""
        self.file.verify(positions)

    def _convert_frames(self, frames: Iterable[VideoFrame], most: int) -> Pixels | None:
        width, height = self.file.converter.size
        pixels = np.empty((most, height, width, 3), np.uint8)
        count = 0
        for frame in frames:
            pixels[count] = self.file.converter.convert(frame)
            count += 1
        return pixels[:count] if count else None

    def _sample_with_decord(self, positions: list[int]) -> Pixels | None:
        """The frames by decord; None where it cannot decode them, or counts frames otherwise than FFmpeg.

        It reads forward from the first frame, and so it is for short videos. After a seek it silently returns other
        frames where groups of pictures are open or refreshed bit by bit, and `get_batch` does so wherever the machine
        is busy: it gives up skipping after a number of tries (https://github.com/dmlc/decord/pull/342).
        """
        # Where this package is, decord loads all the CUDA libraries in it: 3 GB of address space for nothing.
        sys.modules.setdefault("nvidia", cast("Any", None))
        import decord  # pyright: ignore[reportMissingTypeStubs]

        width, height = self.file.converter.size
        pixels = np.empty((len(positions), height, width, 3), np.uint8)
        try:
            reader = cast("DecordReader", decord.VideoReader(self._path, num_threads=THREADS))
            if len(reader) != self.file.frames:
                return None
            at, frame = -1, None
            for i, position in enumerate(positions):
                while at < position:
                    frame, at = reader.next(), at + 1
                pixels[i] = cast("Any", frame).asnumpy()
        except (decord.DECORDError, StopIteration):  # a damaged file: FFmpeg gets further
            return None
        return pixels


def run_operation(film: Video | Album, request: dict[str, Any]) -> Pixels | None:
    """Return (n, height, width, 3) uint8 RGB, or None where no pixels are asked for or none are left."""
    match request["op"]:
        case "run":
            return film.read_run(request["start"], request["most"])
        case "sample":
            return film.sample(spread_positions(request["count"], film.count))
        case "last":
            return film.read_last()
        case _:
            film.verify(spread_positions(VERIFIED_FRAMES, film.count))
            return None


def limit_resources(limits: Limits) -> None:
    """Bind this process to what decoding one file needs.

    The address space counts in full what is shared with the process it was forked from: about 200 MiB of libraries.
    """
    for what, limit in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_NOFILE, MAX_OPEN_FILES),
        (resource.RLIMIT_FSIZE, MAX_WRITTEN_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (limit, limit))


def extend_cpu_limit(limits: Limits) -> None:
    """Let the next operation use its deadline on every thread: an end even where nobody is left to kill us."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used_s = usage.ru_utime + usage.ru_stime
    soft = int(used_s + (limits.deadline_s + 1) * (THREADS + 2)) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def serve_requests(link: socket.socket, limits: Limits, path: str) -> None:
    """Open the file, answer that, and answer requests until there are no more."""
    film: Video | Album | None = None
    request: dict[str, Any] | None = {}
    while request is not None:
        extend_cpu_limit(limits)
        pixels = None
        try:
            if film is None:
                film = Album(path, limits) if is_album(path) else Video(path, limits)
            else:
                pixels = run_operation(film, request)
            send_answer(link, {"facts": film.describe(), "shape": None if pixels is None else pixels.shape}, pixels)
        except MemoryError:
            send_error(link, LimitExceeded(f"decoding it takes more than {limits.memory_bytes} bytes (memory_bytes)"))
        except FFmpegError as error:
            send_error(link, UndecodableMedia(f"it cannot be decoded: {error.strerror}"))
        except ReelError as error:
            send_error(link, error)
        request = receive_request(link)


def send_answer(link: socket.socket, said: dict[str, Any], pixels: Pixels | None = None) -> None:
    data = json.dumps(said).encode()
    link.sendall(struct.pack(">I", len(data)) + data)
    if pixels is not None:
        link.sendall(pixels.data.cast("B"))


def send_error(link: socket.socket, error: ReelError) -> None:
    send_answer(link, {"error": error.code, "message": error.message})


def receive_request(link: socket.socket) -> dict[str, Any] | None:
    """The next request; None when the other side has closed."""
    head = link.recv(4, socket.MSG_WAITALL)
    if len(head) < 4:
        return None
    return json.loads(link.recv(struct.unpack(">I", head)[0], socket.MSG_WAITALL))


def run_decoder(link: socket.socket) -> None:
    """Say that the process is there, then serve the file that is asked for, within its limits."""
    send_answer(link, {})
    opening = receive_request(link)
    if opening is not None:
        limits = Limits(**opening["limits"])
        limit_resources(limits)
        serve_requests(link, limits, opening["path"])
