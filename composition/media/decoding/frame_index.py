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

from composition.media.decoding.containers import read_fraction
from composition.media.decoding.h264_fields import FieldPairs
from composition.media.decoding.headers import Limits
from composition.media.decoding.timing import SHORT_S, USUAL_RATE, USUAL_S, Timing, time_frames
from services.errors import UndecodableMedia

MOV, MATROSKA, TS = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "mpegts"
ANIMATIONS = frozenset({"gif", "apng"})
TIMED = frozenset({MOV, MATROSKA, TS, *ANIMATIONS})
"""Formats with a presentation time for each frame. AVI has none: its frames are counted."""
MAX_REORDERED = 4
"""Maximum number of frames behind a gap at the end of a truncated file that are dropped."""


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
    truncated: str | None = None
    """What is there of a file that was cut short, e.g. `12 of 15 frames`; None if it is whole as far as is known."""
    incomplete: frozenset[int] = frozenset()
    """Presentation times of packets that are left out, because the file ends in the middle of them."""

    def find_keyframe(self, position: int) -> tuple[int, int] | None:
        """Return the times of the last keyframe at or before `position`; None to decode from the beginning."""
        if self.pts is None or self.keyframes is None:
            return None
        after = bisect.bisect_right(self.keyframes, (self.pts[position], sys.maxsize))
        return self.keyframes[after - 1] if after else None

    def list_key_positions(self) -> list[int]:
        """Return the positions of the keyframes that can be sought; none if only the first frame can be."""
        if self.pts is None or self.keyframes is None:
            return []
        return [bisect.bisect_left(self.pts, pts) for pts, _ in self.keyframes]

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


def read_index(container: InputContainer, stream: VideoStream, limits: Limits, *, is_cut: bool) -> Index:
    """Read all packets, because the header may be wrong or incomplete.

    Args:
        container: a file that was just opened.
        stream: its video.
        limits: limits on the file.
        is_cut: whether the file ends in the middle of something.

    Raises:
        UndecodableMedia: there is no whole frame.
        LimitExceeded: there are too many frames, or they last too long.
    """
    return _IndexReader(container, stream, limits, is_cut=is_cut).read_index()


class _IndexReader:
    """Reads the packets of a file that was just opened."""

    def __init__(self, container: InputContainer, stream: VideoStream, limits: Limits, *, is_cut: bool) -> None:
        self._container, self._stream, self._limits = container, stream, limits
        self._is_cut = is_cut
        self._format = container.format.name
        self._time_base = read_fraction(stream.time_base) or Fraction(1)
        self._truncated: str | None = None
        self._incomplete: frozenset[int] = frozenset()
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
                broken = broken + 1 if packet.is_corrupt else 0  # those at the end of the file: it is truncated
                is_second = self._fields.may_exist and self._fields.is_second(bytes(packet))
                if is_second and packets:
                    packets[-1] = packets[-1]._replace(duration=packets[-1].duration + (packet.duration or 0))
                elif not packet.is_discard:
                    packets.append(FramePacket(packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe))
                    self._limits.check_length(len(packets), 0, "or more")
        except FFmpegError:
            self._is_cut = True
        if self._is_cut and self._format in (TS, "gif"):  # whose packets do not tell that they are not whole
            broken = max(broken, 1)
        self._incomplete = frozenset(
            packet.pts for packet in packets[len(packets) - broken :] if packet.pts is not None
        )
        packets = packets[: len(packets) - broken]
        self._truncated = self._measure_loss(read - broken, end, packets)
        if self._truncated and packets:
            dropped = self._count_behind_gap(packets)
            packets = _drop_last(packets, dropped)
            self._truncated = self._measure_loss(read - broken - dropped, end, packets)
        if not packets:
            raise UndecodableMedia(
                "the file is truncated before the end of its first frame"
                if self._truncated
                else "the video has no frames"
            )
        return self._build_index(packets)

    def _measure_loss(self, read: int, end: Fraction, packets: list[FramePacket]) -> str | None:
        """Return what is there, if there are fewer packets, or a shorter duration, than the header declares."""
        declared = sum(entry.size > 0 for entry in self._stream.index_entries) if self._format == MOV else 0
        if read < declared:
            return f"{read} of {declared} frames"
        duration = Fraction(self._container.duration or 0, av.time_base)
        found = max(end, end - Fraction(self._container.start_time or 0, av.time_base))
        if self._format == "avi" and self._stream.average_rate:
            duration = max(duration, self._stream.frames / self._stream.average_rate)
            last = max((packet.dts for packet in packets if packet.dts is not None), default=-1)
            found = max(found, (last + 1) * self._time_base)
        is_fragmented = self._format == MOV and not self._stream.frames
        must_match = self._format in (MATROSKA, "avi") or is_fragmented
        if must_match and found < duration * Fraction(99, 100) - Fraction(1, 4):
            return f"{float(found):.1f} of {float(duration):.1f} s"
        return f"the end of the file is missing, {read} frames are there" if self._is_cut else None

    def _count_behind_gap(self, packets: list[FramePacket]) -> int:
        """Return how many frames of a truncated file are behind a gap of frames that were stored after them.

        Without them the frame rate is constant.
        """
        pts = [packet.pts or 0 for packet in packets]
        if pts != sorted(pts) and self._time_frames(packets).is_variable:
            for dropped in range(1, min(MAX_REORDERED, len(packets) - 2) + 1):
                if not self._time_frames(_drop_last(packets, dropped)).is_variable:
                    return dropped
        return 0

    def _build_index(self, packets: list[FramePacket]) -> Index:
        timing = self._time_frames(packets)
        self._limits.check_length(len(packets), float(timing.measure_duration(len(packets))), "according to its frames")
        index = Index(len(packets), timing=timing, truncated=self._truncated, incomplete=self._incomplete)
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
                rates = [read_fraction(rate) for rate in (stream.average_rate, stream.base_rate, stream.guessed_rate)]
                is_exact = self._format in (MOV, *ANIMATIONS)
                return time_frames(known, end, self._time_base, rates, is_exact=is_exact)
        return Timing(self._average_rate([packet.pts for packet in packets if packet.pts is not None]))

    def _average_rate(self, pts: list[int]) -> Fraction:
        """Return the frame rate of the header if it is within 2 % of the measured average, else the average."""
        declared = read_fraction(self._stream.average_rate)
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
        is_told = self._format == MATROSKA and not self._truncated
        return max(end, self._read_matroska_end()) if is_told else end

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


def _drop_last(packets: list[FramePacket], count: int) -> list[FramePacket]:
    """Return the packets, in their order, without the `count` that are shown last."""
    last = sorted(packets, key=lambda packet: packet.pts or 0)[len(packets) - count :]
    return [packet for packet in packets if packet not in last]


def _prolong_delays(packets: list[FramePacket], time_base: Fraction) -> list[FramePacket]:
    """Return the packets of an animation with the times at which browsers show them."""
    shown: list[FramePacket] = []
    time = 0
    for packet in packets:
        duration = packet.duration if packet.duration * time_base > SHORT_S else round(USUAL_S / time_base)
        shown.append(FramePacket(time, time, duration, packet.is_key))
        time += duration
    return shown
