"""The code of a decoder process: it decodes one file, and may be killed at any time.

The process is forked from a prepared process (`composition.media.decoding.fork_server`), which kills it when it ends
itself. It sends its process id when it is running, then answers one request after another over a socket. A request is
a length (4 bytes, big endian) and JSON: first `{"path", "limits", "takes_sound"}`, then `{"op": "run", "start",
"most"}`, `{"op": "sample", "count"}`, `{"op": "last"}`, `{"op": "straight"}` (the last frame with alpha, if it is not
opaque) or `{"op": "verify"}`. An answer is a length and JSON, `{"facts", "shape", "times"}` or `{"error", "message"}`,
followed by the pixels that `shape` announces. `times` is null or `{"base", "ticks"}`: the times of the frames of a run,
and the seconds of one tick as a fraction. `rest` has the positions of the frames of a sample that did not fit into the
answer; the owner requests them by `{"op": "sample", "positions"}`.

`{"op": "sound", "form", "rate", "channels"}` begins to read the sound, as `packets` or `samples`, and `{"op":
"sound_next"}` continues. The answer is `{"facts", "sound", "bytes"}`, followed by that number of bytes; see
`SoundSession`.

Before a file is decoded, when its headers were read, the process sends `{"cost", "used"}`: what decoding costs, as in
`composition.media.cost.Cost`, and the bytes of memory that it uses so far. It goes on when it receives `{}`.

A decoder may have one task instead, for which nothing is decoded: its first request is `{"path", "limits", "task",
"options"}`, a key of `TASKS`, and its only answer `{"task", "bytes"}`, followed by that number of bytes.
"""

import importlib
import json
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast

import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame

from composition.media.confinement.decoder import confine, take_input
from composition.media.cost import Cost, estimate_task
from composition.media.decoding.album import Album, is_album
from composition.media.decoding.allowance import Allowance, limit_resources
from composition.media.decoding.headers import Limits
from composition.media.decoding.media_file import THREADS
from composition.media.decoding.opening import open_frames
from composition.media.decoding.pixels import RUN_BYTES, drop_opaque
from composition.media.decoding.preloading import list_packages, load_decord
from composition.media.decoding.progressive import PlainReader, open_progressive_reader
from composition.media.decoding.sampling import VERIFIED_FRAMES, spread_positions
from composition.media.decoding.sound import SoundTrack
from composition.media.decoding.sound_file import SoundFile, SoundSession, open_sound_file
from services.errors import LimitExceeded, ReelError, UndecodableMedia
from services.frames import Pixels

MAX_DECORD_FRAMES = 256
"""Maximum number of frames of a video that is sampled with decord."""
MAX_DECORD_BYTES = 256 << 20
"""Largest memory that the decoder of a video takes that is sampled with decord, which has another one, in bytes."""
SAMPLE_BYTES = 128 << 20
"""Maximum size of the frames that are sampled in one answer, if there is more than one, in bytes of pixels."""
SOUND_OPERATIONS = frozenset({"sound", "sound_next"})
TASKS = {
    "ingredient": "composition.media.marks.packing:pack_ingredient",
    "marks": "composition.media.marks.inspection:read_marks",
    "labels": "composition.media.marks.inspection:read_labels_alone",
}
"""Task → its function, which takes the path and the options, and returns JSON and bytes."""
Task: TypeAlias = Callable[[str, dict[str, Any]], tuple[dict[str, Any], bytes]]


class DecordReader(Protocol):
    """The part of `decord.VideoReader` that is used here."""

    def __len__(self) -> int: ...
    def next(self) -> Any: ...


class Video:
    """The frames of a video or a picture, (n, height, width, 3) uint8 RGB."""

    def __init__(self, path: str, limits: Limits) -> None:
        self._path = path
        self._limits = limits
        self.file = open_frames(path, limits)
        self._reader = open_progressive_reader(self.file)

    @property
    def can_use_decord(self) -> bool:
        """Whether decord returns the same frames and pixels for this file."""
        file = self.file
        return (
            file.is_indexed
            and file.converter.matches_decord
            and file.frames <= MAX_DECORD_FRAMES
            and file.cost.memory_bytes <= MAX_DECORD_BYTES
            and not file.damaged
            and isinstance(self._reader, PlainReader)
        )

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.file.converter.size

    @property
    def count(self) -> int:
        """Number of frames; an estimate until frames without times were counted."""
        return self._reader.frames

    def describe(self) -> dict[str, Any]:
        """Return the fields of `composition.media.decode.MediaFacts`."""
        return self._reader.describe()

    def read_run(self, start: int, most: int) -> Pixels | None:
        """Return up to `most` frames from `start` on; None past the last one."""
        width, height = self.file.converter.size
        most = min(most, self._reader.frames - start, max(1, RUN_BYTES // (width * height * 3)))
        if most < 1:
            return None
        frames = (self._reader.read_frame(start + i) for i in range(most))
        return self._convert_frames((frame for frame in frames if frame is not None), most)

    def list_times(self, start: int, count: int) -> dict[str, Any] | None:
        """Return when the frames from `start` on are shown, and when the last ends; None if the rate is constant."""
        timing = self.file.timing
        ticks = timing.list_ticks(start, count) if self.describe()["is_variable"] else None
        return None if ticks is None else {"base": str(timing.time_base), "ticks": ticks}

    def sample(self, positions: list[int]) -> Pixels | None:
        """Return the frames at `positions`; None if there are none."""
        width, height = self.file.converter.size
        memory = self.file.cost.memory_bytes * (2 if self.can_use_decord else 1)
        self._limits.require(replace(self.file.cost, memory_bytes=memory + len(positions) * width * height * 3))
        pixels = self._sample_with_decord(positions) if self.can_use_decord else None
        if pixels is None:
            frames = (self._reader.read_frame(position) for position in positions)
            pixels = self._convert_frames((frame for frame in frames if frame is not None), len(positions))
        return pixels

    def open_track(self) -> SoundTrack:
        """Open the file again, to read its sound. Raises UndecodableMedia if there is none or it is not supported."""
        return self.file.open_track()

    def read_last(self) -> Pixels | None:
        """Return the last frame that can be decoded, as a run of one."""
        return self._convert_frames([self._reader.read_last()], 1)

    def read_straight(self) -> Pixels:
        """Return the last frame, not composited, (1, height, width, 4), or (1, height, width, 3) if it is opaque."""
        return drop_opaque(self.file.converter.convert_straight(self.file.read_last()))

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
        """Return the frames at `positions` from decord; None if it cannot decode them or counts other frames.

        decord reads forward from the first frame, so it is used for short videos only. Its seeking silently returns
        wrong frames for open GOPs and gradual refresh, and so does `get_batch` on a busy machine, which stops skipping
        frames after some attempts (https://github.com/dmlc/decord/pull/342).
        """
        decord = cast("Any", load_decord())
        width, height = self.file.converter.size
        pixels = np.empty((len(positions), height, width, 3), np.uint8)
        try:
            reader = cast("DecordReader", decord.VideoReader(self._path, num_threads=THREADS))
            if len(reader) != self.file.frames:
                return None
            current, frame = -1, None
            for i, position in enumerate(positions):
                while current < position:
                    frame, current = reader.next(), current + 1
                pixels[i] = cast("Any", frame).asnumpy()
        except (decord.DECORDError, StopIteration):  # a damaged file, of which FFmpeg decodes more
            return None
        return pixels


def open_media(path: str, limits: Limits, *, takes_sound: bool) -> Video | Album | SoundFile:
    """Open a file. Raises UndecodableMedia, and LimitExceeded.

    Args:
        path: a file, or a folder of pictures.
        limits: limits on the file.
        takes_sound: whether a file that holds only sound is opened; otherwise it raises UndecodableMedia.
    """
    if is_album(path):
        return Album(path, limits)
    try:
        return Video(path, limits)
    except UndecodableMedia:
        sound = open_sound_file(path, limits) if takes_sound else None
        if sound is None:
            raise
        return sound


def split_sample(media: Video | Album, request: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Return the positions of the frames that are sampled in one answer, and those that are left for later requests.

    Args:
        media: the file.
        request: has `positions`, or the `count` of frames to spread.
    """
    positions = request["positions"] if "positions" in request else spread_positions(request["count"], media.count)
    width, height = media.size
    most = max(1, SAMPLE_BYTES // (width * height * 3))
    return positions[:most], positions[most:]


def run_operation(media: Video | Album | SoundFile, request: dict[str, Any]) -> Pixels | None:
    """Run the operation of a request. Return (n, height, width, 3 or 4) uint8; None if it has no pixels."""
    if isinstance(media, SoundFile):
        if request["op"] != "verify":
            raise UndecodableMedia("the file has no video stream, only audio")
        return None
    match request["op"]:
        case "run":
            return media.read_run(request["start"], request["most"])
        case "sample":
            return media.sample(split_sample(media, request)[0])
        case "last":
            return media.read_last()
        case "straight":
            return media.read_straight()
        case _:
            media.verify(spread_positions(VERIFIED_FRAMES, media.count))
            return None


def read_sound(
    session: SoundSession, media: Video | Album | SoundFile, request: dict[str, Any]
) -> tuple[dict[str, Any], bytes]:
    """Begin or continue to read the sound of a file. Return a description, and data."""
    if request["op"] == "sound_next":
        return session.read()
    if isinstance(media, Album):
        raise UndecodableMedia("there is no sound")
    return session.begin(media.open_track(), request)


def ask_owner(link: socket.socket, cost: Cost, used: int) -> None:
    """Tell the owner what the file costs, and wait until it is reserved. Ends the process if the owner closes the link.

    Args:
        link: to the owner.
        cost: of the file.
        used: memory that is used now, in bytes.
    """
    send_answer(link, {"cost": asdict(cost), "used": used})
    if receive_request(link) is None:
        sys.exit()


def serve_requests(link: socket.socket, limits: Limits, path: str, *, takes_sound: bool) -> None:
    """Open the file, answer with its properties, then answer requests until the link is closed."""
    media: Video | Album | SoundFile | None = None
    session = SoundSession()
    request: dict[str, Any] | None = {}
    allowance = Allowance(limits, lambda cost, used: ask_owner(link, cost, used))
    limits = replace(limits, reserve=allowance.require)
    while request is not None:
        allowance.begin_operation()
        pixels = times = None
        rest: list[int] = []
        try:
            if media is None:
                media = open_media(path, limits, takes_sound=takes_sound)
            elif request["op"] in SOUND_OPERATIONS:
                sound, data = read_sound(session, media, request)
                send_answer(link, {"facts": media.describe(), "sound": sound, "bytes": len(data)})
                link.sendall(data)
                request = receive_request(link)
                continue
            else:
                pixels = run_operation(media, request)
                if pixels is not None and request["op"] == "run" and isinstance(media, Video):
                    times = media.list_times(request["start"], len(pixels))
                if request["op"] == "sample" and not isinstance(media, SoundFile):
                    rest = split_sample(media, request)[1]
            shape = None if pixels is None else pixels.shape
            send_answer(link, {"facts": media.describe(), "shape": shape, "times": times, "rest": rest}, pixels)
        except MemoryError:
            send_error(link, LimitExceeded(allowance.describe_memory()))
        except FFmpegError as error:
            send_error(link, UndecodableMedia(f"the file cannot be decoded: {error.strerror}"))
        except ReelError as error:
            send_error(link, error)
        request = receive_request(link)


def load_task(name: str) -> Task:
    """Import the function of a task."""
    module, _, function = TASKS[name].partition(":")
    return getattr(importlib.import_module(module), function)


def serve_task(link: socket.socket, limits: Limits, path: str, task: Task, request: dict[str, Any]) -> None:
    """Run the task of a request and answer with its result."""
    allowance = Allowance(limits, lambda _cost, _used: None)  # the owner has reserved it
    cost = estimate_task(request["task"], Path(path).stat().st_size)
    allowance.require(cost)
    try:
        result, data = task(path, request["options"])
    except MemoryError:
        send_error(link, LimitExceeded(f"reading needs more than {cost.memory_bytes >> 20} MiB of memory"))
    except OSError as error:
        send_error(link, UndecodableMedia(f"the file cannot be read: {error.strerror}"))
    except ReelError as error:
        send_error(link, error)
    else:
        send_answer(link, {"task": result, "bytes": len(data)})
        link.sendall(data)


def send_answer(link: socket.socket, answer: dict[str, Any], pixels: Pixels | None = None) -> None:
    """Send an answer and its pixels."""
    data = json.dumps(answer).encode()
    link.sendall(struct.pack(">I", len(data)) + data)
    if pixels is not None:
        link.sendall(pixels.data.cast("B"))


def send_error(link: socket.socket, error: ReelError) -> None:
    """Send an answer that is an error."""
    send_answer(link, {"error": error.code, "message": error.message})


def receive_request(link: socket.socket) -> dict[str, Any] | None:
    """Receive the next request; None if the link was closed."""
    head = link.recv(4, socket.MSG_WAITALL)
    if len(head) < 4:
        return None
    return json.loads(link.recv(struct.unpack(">I", head)[0], socket.MSG_WAITALL))


def confine_process(request: dict[str, Any]) -> tuple[Limits, str, Task | None]:
    """Limit this process to what a file may cost, and confine it to that file.

    Returns:
        The limits, the path under which the process opens the file, and the task that the request names.

    Raises:
        ConfigError: the process cannot be confined as the limits require.
    """
    limits = Limits(**request["limits"])
    path = take_input(request["path"], limits.confinement)
    task = load_task(request["task"]) if "task" in request else None
    if task is None and path != request["path"]:
        load_decord()  # the user that decodes may not be able to read its files
    limit_resources(limits)
    confine(path, list_packages(), limits.confinement)
    return limits, path, task


def run_decoder(link: socket.socket) -> None:
    """Report that the process is running, receive the path and limits of a file, and serve requests for it."""
    send_answer(link, {"pid": os.getpid()})
    request = receive_request(link)
    if request is not None:
        try:
            limits, path, task = confine_process(request)
        except ReelError as error:
            send_error(link, error)
            return
        if task is None:
            serve_requests(link, limits, path, takes_sound=request["takes_sound"])
        else:
            serve_task(link, limits, path, task, request)
