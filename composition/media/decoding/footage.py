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

from composition.media.decoding.headers import HEAD, Limits, read_header, unreadable
from composition.media.decoding.pixels import Paint
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
    keys: list[tuple[int, int]] | None = None
    """Presentation and decoding time of each keyframe, in order; None where it cannot be sought."""
    rate: Fraction | None = None
    """Frames per second, by the presentation times."""

    def key(self, position: int) -> tuple[int, int] | None:
        """The keyframe that leads to the frame at `position`; None when decoding must begin at the beginning."""
        if self.pts is None or self.keys is None:
            return None
        place = bisect.bisect_right(self.keys, (self.pts[position], sys.maxsize))
        return self.keys[place - 1] if place else None

    def position(self, pts: int | None) -> int | None:
        """The position of the frame that is shown at `pts`."""
        if self.pts is None or pts is None:
            return None
        place = bisect.bisect_left(self.pts, pts)
        return place if place < len(self.pts) and self.pts[place] == pts else None


class Walk:
    """Goes forward through decoded frames. Where one is missing, the one before it stays shown."""

    def __init__(self, frames: Generator[tuple[int, VideoFrame]], begin: int) -> None:
        self._frames = frames
        self._ahead: tuple[int, VideoFrame] | None = None
        self._shown: VideoFrame | None = None
        self.begin = begin
        self.place = begin - 1
        """The position of the frame that is shown."""

    def show(self, position: int) -> VideoFrame | None:
        """The newest frame at or before `position`; None when there is none since the beginning of the walk."""
        while self.place < position and self.peek() is not None and self._ahead and self._ahead[0] <= position:
            (self.place, self._shown), self._ahead = self._ahead, None
        return self._shown

    def peek(self) -> VideoFrame | None:
        """The frame after the one that is shown; None at the end."""
        self._ahead = self._ahead or next(self._frames, None)
        return self._ahead[1] if self._ahead else None

    def close(self) -> None:
        """Decode no more."""
        self._frames.close()


class Footage:
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
        head = _head(source)
        self._header = read_header(head)
        if self._header.size is not None:
            limits.check_size(*self._header.size)
        try:
            self._container, self._stream = self._open()
        except FFmpegError as error:
            raise UndecodableMedia(unreadable(head)) from error
        self._form = self._container.format.name
        self._check_header()
        self._index = Index(1) if self._header.picture else self._survey()
        self._tried = bytearray(self._index.frames)
        self._walk = self._walk_from(0)
        self._asked = -1
        first = self._walk.peek()
        if first is None:
            raise UndecodableMedia("none of its frames can be decoded: it is damaged or cut short")
        self.paint = Paint(first, self._stream.codec_context.name, mirrored=self._header.mirrored)
        limits.check_size(*self.paint.size)

    def _open(self) -> tuple[InputContainer, VideoStream]:
        # A backstop within FFmpeg. Coded sizes are a little larger than those that are shown.
        options = {"max_pixels": str(self._limits.max_pixels * 9 // 8 + (1 << 16))}
        form = self._header.picture
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
        if self._header.picture is None:
            duration = (stream.duration or 0) * (stream.time_base or Fraction(0))
            whole = Fraction(self._container.duration or 0, av.time_base)
            self._limits.check_length(stream.frames, float(max(duration, whole)), "by its header")

    def _survey(self) -> Index:
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
        self._check_whole(read - broken, end)
        packets = packets[: len(packets) - broken]
        if not packets:
            raise UndecodableMedia("it is a video without a single frame")
        return self._indexed(packets)

    def _check_whole(self, read: int, end: Fraction) -> None:
        """Raise UndecodableMedia when the packets end before the header says."""
        promised = sum(entry.size > 0 for entry in self._stream.index_entries) if self._form == MOV else 0
        if read < promised:
            raise UndecodableMedia(f"it is cut short: {read} of {promised} frames are there")
        duration = Fraction(self._container.duration or 0, av.time_base)
        if self._form == "avi" and self._stream.average_rate:
            duration = max(duration, self._stream.frames / self._stream.average_rate)
        there = max(end, end - Fraction(self._container.start_time or 0, av.time_base))
        fragmented = self._form == MOV and not self._stream.frames
        if (self._form in (MATROSKA, "avi") or fragmented) and there < duration * Fraction(99, 100) - Fraction(1, 4):
            raise UndecodableMedia(f"it is cut short: {float(there):.1f} of {float(duration):.1f} s are there")

    def _indexed(self, packets: list[tuple[int | None, int | None, bool]]) -> Index:
        pts = sorted(shown for shown, _, _ in packets if shown is not None)
        span = (pts[-1] - pts[0]) * (self._stream.time_base or Fraction(0)) if pts else Fraction(0)
        self._limits.check_length(len(packets), float(span), "by its frames")
        index = Index(len(packets), rate=(len(pts) - 1) / span if span else None)
        if self._form not in TIMED or len(set(pts)) < len(packets):
            return index
        index.pts, index.keys = pts, []
        for shown, decoded, is_key in packets:
            if is_key and shown is not None and decoded is not None:
                index.keys.append((shown, decoded))
        index.keys.sort()
        return index

    @property
    def frames(self) -> int:
        """How many there are, as far as is known."""
        return self._index.frames

    @property
    def indexed(self) -> bool:
        """Whether the file has an index of its frames and says when each is shown."""
        return self._form in (MOV, MATROSKA) and self._index.pts is not None

    @property
    def still(self) -> bool:
        """Whether it is a picture."""
        return self._header.picture is not None or (self._form == "gif" and self._index.frames == 1)

    def facts(self) -> dict[str, Any]:
        """`composition.media.decode.MediaFacts` as JSON."""
        rate = None if self.still else self._rate()
        return {
            "kind": "image" if self.still else "video",
            "width": self.paint.size[0],
            "height": self.paint.size[1],
            "frames": self._index.frames,
            "rate": None if rate is None else str(rate),
            "duration_s": 0.0 if rate is None else float(self._index.frames / rate),
            "damaged": self.damaged,
            "codec": self._stream.codec_context.name,
        }

    def _rate(self) -> Fraction:
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
        missing, flawed = self._tried.count(MISSING), self._tried.count(FLAWED)
        if not missing and not flawed:
            return None
        frames = self._index.frames
        tried = frames - self._tried.count(UNTRIED)
        of = f"{frames} frames" if tried == frames else f"the {tried} frames that were tried, of {frames} in all,"
        return f"{missing} of {of} could not be decoded" + (f", and {flawed} show errors" if flawed else "")

    def _walk_from(self, position: int) -> Walk:
        """Begin at the keyframe that leads to `position`, or at the beginning where that cannot be sought."""
        key = self._index.key(position)
        packets = self._packets_from(*key) if key else None
        if key is not None and packets is not None:
            begin = self._index.position(key[0]) or 0
            return Walk(self._decoded(packets, begin), begin)
        self._container.close()
        self._container, self._stream = self._open()
        return Walk(self._decoded(self._container.demux(self._stream), 0), 0)

    def _packets_from(self, pts: int, dts: int) -> "Iterator[Packet[VideoStream]] | None":
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

    def _decoded(self, packets: "Iterator[Packet[VideoStream]]", begin: int) -> Generator[tuple[int, VideoFrame]]:
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
                place = self._index.position(frame.pts) if timed else counted
                counted += 1
                if place is not None and place >= expected:
                    self._note(expected, place, FLAWED if frame.is_corrupt else DECODED)
                    expected = place + 1
                    yield place, frame
            if packet is None:
                break
        if not timed:
            self._index.frames = counted
            self._tried = self._tried[:counted].ljust(counted, bytes([UNTRIED]))
        self._note(expected, self._index.frames, MISSING)

    def _note(self, expected: int, place: int, how: int) -> None:
        """Record how the frame at `place` came, and that those from `expected` on before it did not."""
        for position in range(expected, min(place, len(self._tried))):
            self._tried[position] = self._tried[position] or MISSING
        if how != MISSING:
            self._tried.extend(bytes(max(0, place + 1 - len(self._tried))))  # more frames than packets
            self._tried[place] = how

    def show(self, position: int) -> VideoFrame | None:
        """The frame at `position`, or the one before it where it is missing; None behind the end."""
        if position >= self._index.frames:
            return None
        key = self._index.key(position)
        begin = self._index.position(key[0]) if key else None
        if position < self._walk.place or (begin is not None and begin > self._asked + 1):
            self._walk = self._walk_from(position)
        self._asked = position
        frame = self._walk.show(position)
        if frame is None and self._walk.begin > 0:
            self._walk = self._walk_from(0)
            frame = self._walk.show(position)
        if self._index.frames <= position:  # they were counted, and turned out to be fewer
            return None
        return frame or self._walk.peek()

    def last(self) -> VideoFrame:
        """The last frame that can be decoded. Frames that had to be counted are counted now."""
        frame, frames = None, 0
        while frame is None and frames != self._index.frames:
            frames = self._index.frames
            frame = self.show(frames - 1)
        if frame is None:
            raise UndecodableMedia("none of its frames can be decoded")
        return frame

    def verify(self, positions: list[int]) -> None:
        """Decode the frames at `positions` and the last one. Raises UndecodableMedia when that does not decode."""
        for position in positions:
            self.show(position)
        self.last()
        there = self._walk.place + 1
        if there < self._index.frames:
            raise UndecodableMedia(f"its end cannot be decoded: only {there} of {self._index.frames} frames can")

    def close(self) -> None:
        """Let go of the file at once: what decodes it holds on to it."""
        self._walk.close()
        self._container.close()


def _head(source: str | bytes) -> bytes:
    if isinstance(source, bytes):
        return source[:HEAD]
    with Path(source).open("rb") as file:
        return file.read(HEAD)
