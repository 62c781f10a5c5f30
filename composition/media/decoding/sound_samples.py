"""The samples of a track of sound, decoded and converted, without gaps.

Runs only in decoder processes (`composition.media.decoding.worker`).
"""

# PyAV's stubs omit the type arguments of Packet.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.error import FFmpegError
from av.packet import Packet
from numpy.typing import NDArray

from composition.media.decoding.sound import CHUNK_BYTES, TOLERANCE, Chunks, SoundTrack, check_form, read_skip
from composition.media.sound_form import LAYOUTS
from services.errors import LimitExceeded, UndecodableMedia

RATES = frozenset({22_050, 24_000, 32_000, 44_100, 48_000})
"""Sample rates that are kept; all others are converted to the last. At low rates AAC would smear short sounds."""
FULL_RATE = 48_000

Samples = NDArray[np.int16]


class SampleReader:
    """Reads the samples of a track.

    Args:
        track: the track.
        rate: samples per second; None keeps the track's, if it is one of RATES.
        channels: 1, 2 or 6; None keeps the track's number, or the next smaller one.
    """

    def __init__(self, track: SoundTrack, rate: int | None, channels: int | None) -> None:
        self._track = track
        self._rate = rate or 0
        self._channels = channels or 0
        self._damaged = 0
        self._resampler: AudioResampler | None = None
        self._source = ("", "", FULL_RATE)
        """Sample format, layout and rate of the frames that the resampler takes."""
        self._base: Fraction | None = None
        """Time of the first sample in seconds."""
        self._anchor, self._count = Fraction(0), 0
        """Time of the last frame that did not follow the one before it, and the number of samples received since."""
        self._sent = 0
        """Number of samples at the output so far."""

    def read(self) -> Chunks:
        """Yield the description of the track, then chunks of its samples, (n, channels) int16, from its start on.

        The description has `codec`, `rate`, `channels` and `start`, when the first sample is played, in samples. Gaps
        and damaged packets are silent. The last chunk has `damaged`, the number of damaged packets.

        Raises:
            UndecodableMedia: there are no samples.
            LimitExceeded: it is too long.
        """
        waiting: list[Samples] = []
        for samples in self._read_samples():
            if self._sent == 0:
                yield self._describe(), b""
            self._sent += len(samples)
            if self._sent > self._track.max_duration_s * self._rate:
                raise LimitExceeded(f"it is longer than {self._track.max_duration_s:g} s (max_duration_s)")
            waiting.append(samples)
            if sum(each.nbytes for each in waiting) >= CHUNK_BYTES:
                yield {}, b"".join(each.tobytes() for each in waiting)
                waiting = []
        if self._sent == 0:
            raise UndecodableMedia("none of it can be decoded" if self._damaged else "it has no samples")
        yield {"damaged": self._damaged}, b"".join(each.tobytes() for each in waiting)

    def _describe(self) -> dict[str, Any]:
        start = self._track.find_start(self._base or Fraction(0), self._rate)
        return {"codec": self._track.codec, "rate": self._rate, "channels": self._channels, "start": start}

    def _read_samples(self) -> Iterator[Samples]:
        """Yield all samples, in arrays of at most CHUNK_BYTES."""
        for packet, frame in self._decode():
            if self._base is None:
                self._begin(packet, frame)
            for samples in self._place(frame):
                most = max(1, CHUNK_BYTES // (2 * self._channels))
                yield from (samples[i : i + most] for i in range(0, len(samples), most))
        yield from self._flush()

    def _decode(self) -> "Iterator[tuple[Packet[AudioStream] | None, AudioFrame]]":
        for packet in self._track.read_packets():
            try:
                frames = packet.decode()
            except FFmpegError:
                self._damaged += 1
                continue
            yield from ((packet, frame) for frame in frames)
        try:
            yield from ((None, frame) for frame in self._track.stream.codec_context.decode(None))
        except FFmpegError:
            self._damaged += 1

    def _place(self, frame: AudioFrame) -> Iterator[Samples]:
        """Yield the samples of a frame, after the silence before it. A frame that overlaps is left out."""
        expected = self._anchor + Fraction(self._count, self._source[2])
        is_first = self._count == 0 and self._sent == 0
        time = expected if frame.pts is None or is_first else self._track.measure_time(frame.pts)
        if time < expected - TOLERANCE:
            return
        form = frame.format.name, frame.layout.name, frame.sample_rate
        if time > expected + TOLERANCE or form != self._source:
            yield from self._flush()
            yield from self._make_silence(time)
            self._anchor, self._count, self._source = time, 0, form
        self._count += frame.samples
        yield from self._convert(frame)

    def _begin(self, packet: "Packet[AudioStream] | None", frame: AudioFrame) -> None:
        rate, channels = frame.sample_rate, frame.layout.nb_channels
        check_form(rate, channels)
        self._rate = self._rate or (rate if rate in RATES else FULL_RATE)
        self._channels = self._channels or max(each for each in LAYOUTS if each <= channels)
        self._source = frame.format.name, frame.layout.name, rate
        ticks = frame.pts or 0
        if packet is None:
            self._base = self._track.measure_time(ticks)
        else:
            duration = Fraction(frame.samples + sum(read_skip(packet)), rate)
            self._base = self._track.measure_first(packet, ticks, duration)
        self._anchor = self._base

    def _make_silence(self, time: Fraction) -> Iterator[Samples]:
        """Yield silence until `time` in seconds."""
        duration = time - (self._base or 0)
        if duration > self._track.max_duration_s:
            raise LimitExceeded(f"it is longer than {self._track.max_duration_s:g} s (max_duration_s)")
        missing = round(duration * self._rate) - self._sent
        most = CHUNK_BYTES // (2 * self._channels)
        while missing > 0:
            yield np.zeros((min(missing, most), self._channels), np.int16)
            missing -= most

    def _convert(self, frame: AudioFrame) -> Iterator[Samples]:
        if self._resampler is None:
            check_form(frame.sample_rate, frame.layout.nb_channels)
            self._resampler = AudioResampler("s16", LAYOUTS[self._channels], self._rate)
        frame.pts = None
        try:
            frames = self._resampler.resample(frame)
        except (FFmpegError, ValueError) as error:
            raise UndecodableMedia(f"its channels ({frame.layout.name}) are not supported") from error
        yield from self._read_frames(frames)

    def _flush(self) -> Iterator[Samples]:
        """Yield the samples that the resampler holds back."""
        resampler, self._resampler = self._resampler, None
        if resampler is not None:
            yield from self._read_frames(resampler.resample(None))

    def _read_frames(self, frames: Sequence[AudioFrame | None]) -> Iterator[Samples]:
        """Yield the samples of converted frames; a resampler with nothing to do ends with None."""
        for frame in frames:
            if frame is not None:
                yield frame.to_ndarray().reshape(-1, self._channels).astype(np.int16, copy=False)
