"""The index of a video's frames, read from its packets without decoding them."""

import bisect
import sys
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from composition.media.decoding.h264_fields import FieldPairs
from composition.media.decoding.headers import Limits
from composition.media.decoding.timing import SHORT_S, USUAL_RATE, USUAL_S, Timing, time_frames
from services.errors import UndecodableMedia

MOV, MATROSKA = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"
ANIMATIONS = frozenset({"gif", "apng"})
TIMED = frozenset({MOV, MATROSKA, "mpegts", *ANIMATIONS})
"""Formats with a presentation time for each frame. AVI has none: its frames are counted."""


@dataclass
class Index:
    """The frames of a video stream, as read from its packets."""

    frames: int
    pts: list[int] | None = None
    """Sorted presentation times, in the stream's time base; None if they are missing or not unique."""
    keyframes: list[tuple[int, int]] | None = None
    """Presentation and decoding time of each keyframe, in order; None if the file cannot be sought."""
    timing: Timing = field(default_factory=lambda: Timing(USUAL_RATE))
    """When the frames are shown."""

    def find_keyframe(self, position: int) -> tuple[int, int] | None:
        """Return the times of the last keyframe at or before `position`; None to decode from the beginning."""
        if self.pts is None or self.keyframes is None:
            return None
        after = bisect.bisect_right(self.keyframes, (self.pts[position], sys.maxsize))
        return self.keyframes[after - 1] if after else None

    def find_position(self, pts: int | None) -> int | None:
        """Return the position of the frame with the presentation time `pts`, or None."""
        if self.pts is None or pts is None:
            return None
        found = bisect.bisect_left(self.pts, pts)
        return found if found < len(self.pts) and self.pts[found] == pts else None


class FramePacket(NamedTuple):
    """A packet of the video stream, with times in the stream's time base."""

    pts: int | None
    dts: int | None
    duration: int
    is_key: bool


def read_index(container: InputContainer, stream: VideoStream, limits: Limits) -> Index:
    """Read all packets, because the header may be wrong or incomplete. Raises UndecodableMedia, LimitExceeded."""
    return _IndexReader(container, stream, limits).read_index()


class _IndexReader:
    """Reads the packets of a file that was just opened."""

    def __init__(self, container: InputContainer, stream: VideoStream, limits: Limits) -> None:
        self._container, self._stream, self._limits = container, stream, limits
        self._format = container.format.name
        self._time_base = stream.time_base or Fraction(1)
        self._fields = FieldPairs(stream.codec_context.extradata if stream.codec_context.name == "h264" else None)

    def read_index(self) -> Index:
        packets: list[FramePacket] = []
        end = Fraction(0)
        read = broken = 0
        try:
            for packet in self._container.demux():
                if packet.size and packet.pts is not None:
                    end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
                if packet.stream_index != self._stream.index or not packet.size:
                    continue
                read += 1
                broken = (
                    broken + 1 if packet.is_corrupt else 0
                )  # corrupt packets at the end of the file: it is truncated
                is_second = self._fields.may_exist and self._fields.is_second(bytes(packet))
                if is_second and packets:
                    packets[-1] = packets[-1]._replace(duration=packets[-1].duration + (packet.duration or 0))
                elif not packet.is_discard:
                    packets.append(FramePacket(packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe))
                    self._limits.check_length(len(packets), 0, "or more")
        except FFmpegError:
            broken += 1
        self._check_complete(read - broken, end)
        packets = packets[: len(packets) - broken]
        if not packets:
            raise UndecodableMedia("the video has no frames")
        return self._build_index(packets)

    def _check_complete(self, read: int, end: Fraction) -> None:
        """Raise UndecodableMedia if there are fewer packets, or a shorter duration, than the header declares."""
        declared = sum(entry.size > 0 for entry in self._stream.index_entries) if self._format == MOV else 0
        if read < declared:
            raise UndecodableMedia(f"the file is truncated: it has {read} of {declared} frames")
        duration = Fraction(self._container.duration or 0, av.time_base)
        if self._format == "avi" and self._stream.average_rate:
            duration = max(duration, self._stream.frames / self._stream.average_rate)
        found = max(end, end - Fraction(self._container.start_time or 0, av.time_base))
        is_fragmented = self._format == MOV and not self._stream.frames
        must_match = self._format in (MATROSKA, "avi") or is_fragmented
        if must_match and found < duration * Fraction(99, 100) - Fraction(1, 4):
            raise UndecodableMedia(f"the file is truncated: it has {float(found):.1f} of {float(duration):.1f} s")

    def _build_index(self, packets: list[FramePacket]) -> Index:
        timing = self._time_frames(packets)
        self._limits.check_length(len(packets), float(timing.measure_duration(len(packets))), "according to its frames")
        index = Index(len(packets), timing=timing)
        pts = {packet.pts for packet in packets if packet.pts is not None}
        if self._format not in TIMED or len(pts) < len(packets):
            return index
        index.pts = sorted(pts)
        index.keyframes = sorted(
            (packet.pts, packet.dts)
            for packet in packets
            if packet.is_key and packet.pts is not None and packet.dts is not None
        )
        return index

    def _time_frames(self, packets: list[FramePacket]) -> Timing:
        """Return when the frames are shown. Times that are not unique give an average rate."""
        stream = self._stream
        if self._format in ANIMATIONS:
            packets = _prolong_delays(packets, self._time_base)
        for times in ([packet.pts for packet in packets], [packet.dts for packet in packets]):
            known = sorted({time for time in times if time is not None})
            if len(known) == len(packets):
                end = self._find_end(packets, known)
                rates = (stream.average_rate, stream.base_rate, stream.guessed_rate)
                is_exact = self._format in (MOV, *ANIMATIONS)
                return time_frames(known, end, self._time_base, rates, is_exact=is_exact)
        return Timing(self._average_rate([packet.pts for packet in packets if packet.pts is not None]))

    def _average_rate(self, pts: list[int]) -> Fraction:
        """Return the frame rate of the header if it is within 2 % of the measured average, else the average."""
        declared = self._stream.average_rate
        span = (max(pts) - min(pts)) * self._time_base if pts else 0
        if not span:
            return declared or USUAL_RATE
        measured = (len(pts) - 1) / span
        if declared and abs(declared / measured - 1) < Fraction(1, 50):
            return declared
        return max(measured.limit_denominator(1001), Fraction(1, 1001))

    def _find_end(self, packets: list[FramePacket], times: list[int]) -> int:
        """Return when the last frame ends, in ticks; not after its beginning if the file does not say.

        Args:
            packets: all packets, in the order of the file.
            times: when the frames are shown, sorted.
        """
        last = packets[-1]
        if self._format == MOV and last.pts != times[-1]:  # durations are those of decoding: only their sum is right
            total = times[0] + sum(packet.duration for packet in packets)
            return total if total > times[-1] else times[-1] + last.duration
        end = times[-1] + last.duration  # in most formats the duration of the usual frame
        return max(end, self._read_matroska_end()) if self._format == MATROSKA else end

    def _read_matroska_end(self) -> int:
        """Return when the stream ends, in ticks; 0 if the file does not say."""
        hours, _, rest = self._stream.metadata.get("DURATION", "").partition(":")
        minutes, _, seconds = rest.partition(":")
        try:
            end = int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds.strip("\0"))
        except ValueError:
            is_alone = all(stream.type == "video" for stream in self._container.streams)
            end = Fraction(self._container.duration or 0, av.time_base) if is_alone else Fraction(0)
        return round(end / self._time_base)


def _prolong_delays(packets: list[FramePacket], time_base: Fraction) -> list[FramePacket]:
    """Return the packets of an animation with the times at which browsers show them."""
    shown: list[FramePacket] = []
    time = 0
    for packet in packets:
        duration = packet.duration if packet.duration * time_base > SHORT_S else round(USUAL_S / time_base)
        shown.append(FramePacket(time, time, duration, packet.is_key))
        time += duration
    return shown
