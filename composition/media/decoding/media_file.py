"""One media file, open: what it is, where its frames lie in time, and which of them decode.

Only a worker process (`composition.media.decoding.worker`) opens files: they come from users, and FFmpeg is native
code.
"""

import bisect
import io
import itertools
import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from composition.media.decoding.headers import HEAD_BYTES, Limits, explain_unreadable, read_header
from composition.media.decoding.pixels import RgbConverter
from services.errors import LimitExceeded, UndecodableMedia

MOV, MATROSKA = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"
FORMATS = f"{MOV},{MATROSKA},avi,mpegts,gif"
"""The only formats beside pictures: none of them opens a second file or a connection."""
TIMED = frozenset({MOV, MATROSKA, "mpegts", "gif"})
"""Formats that tell when each frame is shown. AVI does not: its frames are counted."""
HEIF_BRANDS = frozenset({"heic", "heix", "hevc", "heim", "heis", "mif1", "msf1", "avif", "avis"})
THREADS = 2
UNTRIED, MISSING, DECODED, FLAWED = range(4)


@dataclass
class Index:
    """Where the frames of a stream lie, by its packets."""

    frames: int
    pts: list[int] | None = None
    """Presentation times in order, in the stream's time base; None where they cannot be relied on."""
    keyframes: list[tuple[int, int]] | None = None
    """Presentation and decoding time of each keyframe, in order; None where it cannot be sought."""
    rate: Fraction | None = None
    """Frames per second, by the presentation times."""

    def find_keyframe(self, position: int) -> tuple[int, int] | None:
        """The keyframe that leads to the frame at `position`; None when decoding must begin at the beginning."""
        if self.pts is None or self.keyframes is None:
            return None
        place = bisect.bisect_right(self.keyframes, (self.pts[position], sys.maxsize))
        return self.keyframes[place - 1] if place else None

    def find_position(self, pts: int | None) -> int | None:
        """The position of the frame that is shown at `pts`."""
        if self.pts is None or pts is None:
            return None
        place = bisect.bisect_left(self.pts, pts)
        return place if place < len(self.pts) and self.pts[place] == pts else None


class Cursor:
    """Goes forward through decoded frames. Where one is missing, the one before it stays shown."""

    def __init__(self, frames: Generator[tuple[int, VideoFrame]], begin: int) -> None:
        self._frames = frames
        self._next: tuple[int, VideoFrame] | None = None
        self._current: VideoFrame | None = None
        self.begin = begin
        self.position = begin - 1
        """The position of the frame that is shown."""

    def advance(self, position: int) -> VideoFrame | None:
        """The newest frame at or before `position`; None when there is none since the beginning of the walk."""
        while self.position < position and self.peek() is not None and self._next and self._next[0] <= position:
            (self.position, self._current), self._next = self._next, None
        return self._current

    def peek(self) -> VideoFrame | None:
        """The frame after the one that is shown; None at the end."""
        self._next = self._next or next(self._frames, None)
        return self._next[1] if self._next else None

    def close(self) -> None:
        """Decode no more."""
        self._frames.close()


class MediaFile:
    """One file, open: what it is, where its frames lie, and their pixels.

    Args:
        source: its path, or all of its bytes.
        limits: what it may be.

    Raises:
        UndecodableMedia: it is no video or picture, it is cut short, or none of its frames decodes.
        LimitExceeded: its header or its packets go beyond a limit.
    """

    def __init__(self, source: str | bytes, limits: Limits) -> None:
        self._source = source
        self._limits = limits
        head = _read_head(source)
        self._header = read_header(head)
        if self._header.size is not None:
            limits.check_size(*self._header.size)
        try:
            self._container, self._stream = self._open()
        except FFmpegError as error:
            raise UndecodableMedia(explain_unreadable(head)) from error
        self._format = self._container.format.name
        self._check_header()
        self._index = Index(1) if self._header.picture_format else self._read_index()
        self._states = bytearray(self._index.frames)
        self._cursor = self._seek(0)
        self._last_requested = -1
        first = self._cursor.peek()
        if first is None:
            raise UndecodableMedia("none of its frames can be decoded: it is damaged or cut short")
        self.converter = RgbConverter(first, self._stream.codec_context.name, mirrored=self._header.is_mirrored)
        limits.check_size(*self.converter.size)

    def _open(self) -> tuple[InputContainer, VideoStream]:
        # A backstop within FFmpeg. Coded sizes are a little larger than those that are shown.
        options = {"max_pixels": str(self._limits.max_pixels * 9 // 8 + (1 << 16))}
        form = self._header.picture_format
        container = av.open(
            io.BytesIO(self._source) if isinstance(self._source, bytes) else f"file:{self._source}",
            "r",
            format=form,
            options={} if form == "jpeg_pipe" else options,  # it tells the size of a JPEG only where there is no bound
            container_options={"protocol_whitelist": "file", "format_whitelist": form or FORMATS},
            metadata_errors="replace",
        )
        if container.metadata.get("major_brand", "").strip() in HEIF_BRANDS:
            raise UndecodableMedia("it is a HEIF or AVIF picture; send it as PNG, JPEG or WebP")
        stream = next((s for s in container.streams.video if not s.disposition & s.disposition.attached_pic), None)
        if stream is None:
            kinds = " and ".join(sorted({s.type for s in container.streams})) or "nothing"
            raise UndecodableMedia(f"there is no video in it, only {kinds}")
        if cast("object", stream.codec_context) is None:
            raise UndecodableMedia("its video codec is not known here")
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = THREADS
        # A video goes on behind an error. A picture that is cut short would be decoded to half a picture.
        stream.codec_context.options = options | ({"err_detect": "explode"} if form else {})
        return container, stream

    def _check_header(self) -> None:
        context, stream = self._stream.codec_context, self._stream
        width, height = self._header.size or (context.width, context.height)
        if not width or not height:  # FFmpeg forgets a size that is beyond the bound it was given
            raise LimitExceeded(
                f"its size is beyond the limit of {self._limits.max_pixels} pixels (max_pixels), or cannot be read"
            )
        self._limits.check_size(width, height)
        if self._header.picture_format is None:
            duration = (stream.duration or 0) * (stream.time_base or Fraction(0))
            whole = Fraction(self._container.duration or 0, av.time_base)
            self._limits.check_length(stream.frames, float(max(duration, whole)), "by its header")

    def _read_index(self) -> Index:
        """Read every packet and decode none: a header may lie, or say nothing."""
        packets: list[tuple[int | None, int | None, bool]] = []
        end = Fraction(0)
        read = broken = 0
        try:
            for packet in self._container.demux():
                if packet.size and packet.pts is not None:
                    end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
                if packet.stream_index != self._stream.index or not packet.size:
                    continue
                read += 1
                broken = broken + 1 if packet.is_corrupt else 0  # in a row at the end: the file ends within them
                if not packet.is_discard:
                    packets.append((packet.pts, packet.dts, packet.is_keyframe))
                    self._limits.check_length(len(packets), 0, "or more")
        except FFmpegError:
            broken += 1
        self._check_complete(read - broken, end)
        packets = packets[: len(packets) - broken]
        if not packets:
            raise UndecodableMedia("it is a video without a single frame")
        return self._build_index(packets)

    def _check_complete(self, read: int, end: Fraction) -> None:
        """Raise UndecodableMedia when the packets end before the header says."""
        promised = sum(entry.size > 0 for entry in self._stream.index_entries) if self._format == MOV else 0
        if read < promised:
            raise UndecodableMedia(f"it is cut short: {read} of {promised} frames are there")
        duration = Fraction(self._container.duration or 0, av.time_base)
        if self._format == "avi" and self._stream.average_rate:
            duration = max(duration, self._stream.frames / self._stream.average_rate)
        there = max(end, end - Fraction(self._container.start_time or 0, av.time_base))
        fragmented = self._format == MOV and not self._stream.frames
        if (self._format in (MATROSKA, "avi") or fragmented) and there < duration * Fraction(99, 100) - Fraction(1, 4):
            raise UndecodableMedia(f"it is cut short: {float(there):.1f} of {float(duration):.1f} s are there")

    def _build_index(self, packets: list[tuple[int | None, int | None, bool]]) -> Index:
        pts = sorted(shown for shown, _, _ in packets if shown is not None)
        span = (pts[-1] - pts[0]) * (self._stream.time_base or Fraction(0)) if pts else Fraction(0)
        self._limits.check_length(len(packets), float(span), "by its frames")
        index = Index(len(packets), rate=(len(pts) - 1) / span if span else None)
        if self._format not in TIMED or len(set(pts)) < len(packets):
            return index
        index.pts, index.keyframes = pts, []
        for shown, decoded, is_key in packets:
            if is_key and shown is not None and decoded is not None:
                index.keyframes.append((shown, decoded))
        index.keyframes.sort()
        return index

    @property
    def frames(self) -> int:
        """How many there are, as far as is known."""
        return self._index.frames

    @property
    def is_indexed(self) -> bool:
        """Whether the file has an index of its frames and says when each is shown."""
        return self._format in (MOV, MATROSKA) and self._index.pts is not None

    @property
    def is_still(self) -> bool:
        """Whether it is a picture."""
        return self._header.picture_format is not None or (self._format == "gif" and self._index.frames == 1)

    def describe(self) -> dict[str, Any]:
        """`composition.media.decode.MediaFacts` as JSON."""
        rate = None if self.is_still else self._choose_rate()
        return {
            "kind": "image" if self.is_still else "video",
            "width": self.converter.size[0],
            "height": self.converter.size[1],
            "frames": self._index.frames,
            "rate": None if rate is None else str(rate),
            "duration_s": 0.0 if rate is None else float(self._index.frames / rate),
            "damaged": self.damaged,
            "codec": self._stream.codec_context.name,
        }

    def _choose_rate(self) -> Fraction:
        """Frames per second: what the header says where the frames' times bear it out, else their average."""
        said, measured = self._stream.average_rate, self._index.rate
        if not measured:
            return said or Fraction(25)
        if said and abs(said / measured - 1) < Fraction(1, 50):
            return said
        return max(measured.limit_denominator(1001), Fraction(1, 1001))

    @property
    def damaged(self) -> str | None:
        """What is wrong with the frames that were tried so far."""
        missing, flawed = self._states.count(MISSING), self._states.count(FLAWED)
        if not missing and not flawed:
            return None
        frames = self._index.frames
        tried = frames - self._states.count(UNTRIED)
        of = f"{frames} frames" if tried == frames else f"the {tried} frames that were tried, of {frames} in all,"
        return f"{missing} of {of} could not be decoded" + (f", and {flawed} show errors" if flawed else "")

    def _seek(self, position: int) -> Cursor:
        """Begin at the keyframe that leads to `position`, or at the beginning where that cannot be sought."""
        key = self._index.find_keyframe(position)
        packets = self._seek_packets(*key) if key else None
        if key is not None and packets is not None:
            begin = self._index.find_position(key[0]) or 0
            return Cursor(self._decode_packets(packets, begin), begin)
        self._container.close()
        self._container, self._stream = self._open()
        return Cursor(self._decode_packets(self._container.demux(self._stream), 0), 0)

    def _seek_packets(self, pts: int, dts: int) -> "Iterator[Packet[VideoStream]] | None":
        try:
            self._container.seek(dts, stream=self._stream)
        except FFmpegError:
            return None
        packets = self._container.demux(self._stream)
        for packet in packets:
            if packet.pts == pts and packet.is_keyframe:
                return itertools.chain([packet], packets)
            if packet.dts is None or packet.dts > dts:
                break
        return None

    def _decode_packets(
        self, packets: "Iterator[Packet[VideoStream]]", begin: int
    ) -> Generator[tuple[int, VideoFrame]]:
        """Yield frames with their positions, passing over what cannot be decoded."""
        timed = self._index.pts is not None
        counted = expected = begin
        packet: Packet[VideoStream] | None
        while True:
            try:
                packet = next(packets, None)
                frames = packet.decode() if packet else []
            except MemoryError:
                raise
            except FFmpegError:
                counted += 1
                continue
            for frame in frames:
                place = self._index.find_position(frame.pts) if timed else counted
                counted += 1
                if place is not None and place >= expected:
                    self._mark_frames(expected, place, FLAWED if frame.is_corrupt else DECODED)
                    expected = place + 1
                    yield place, frame
            if packet is None:
                break
        if not timed:
            self._index.frames = counted
            self._states = self._states[:counted].ljust(counted, bytes([UNTRIED]))
        self._mark_frames(expected, self._index.frames, MISSING)

    def _mark_frames(self, expected: int, place: int, how: int) -> None:
        """Record how the frame at `place` came, and that those from `expected` on before it did not."""
        for position in range(expected, min(place, len(self._states))):
            self._states[position] = self._states[position] or MISSING
        if how != MISSING:
            self._states.extend(bytes(max(0, place + 1 - len(self._states))))  # more frames than packets
            self._states[place] = how

    def read_frame(self, position: int) -> VideoFrame | None:
        """The frame at `position`, or the one before it where it is missing; None behind the end."""
        if position >= self._index.frames:
            return None
        key = self._index.find_keyframe(position)
        begin = self._index.find_position(key[0]) if key else None
        if position < self._cursor.position or (begin is not None and begin > self._last_requested + 1):
            self._cursor = self._seek(position)
        self._last_requested = position
        frame = self._cursor.advance(position)
        if frame is None and self._cursor.begin > 0:
            self._cursor = self._seek(0)
            frame = self._cursor.advance(position)
        if self._index.frames <= position:  # they were counted, and turned out to be fewer
            return None
        return frame or self._cursor.peek()

    def read_last(self) -> VideoFrame:
        """The last frame that can be decoded. Frames that had to be counted are counted now."""
        frame, frames = None, 0
        while frame is None and frames != self._index.frames:
            frames = self._index.frames
            frame = self.read_frame(frames - 1)
        if frame is None:
            raise UndecodableMedia("none of its frames can be decoded")
        return frame

    def verify(self, positions: list[int]) -> None:
        """Decode the frames at `positions` and the last one. Raises UndecodableMedia when that does not decode."""
        for position in positions:
            self.read_frame(position)
        self.read_last()
        there = self._cursor.position + 1
        if there < self._index.frames:
            raise UndecodableMedia(f"its end cannot be decoded: only {there} of {self._index.frames} frames can")

    def close(self) -> None:
        """Let go of the file at once: what decodes it holds on to it."""
        self._cursor.close()
        self._container.close()


def _read_head(source: str | bytes) -> bytes:
    if isinstance(source, bytes):
        return source[:HEAD_BYTES]
    with Path(source).open("rb") as file:
        return file.read(HEAD_BYTES)
