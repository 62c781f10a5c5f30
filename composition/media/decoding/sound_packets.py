"""The packets of a track of sound, as MP4 holds them. Each is decoded once, to know that it can be.

Runs only in decoder processes (`composition.media.decoding.worker`).
"""

import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.codec.context import Flags2
from av.error import FFmpegError
from av.packet import Packet

from composition.media.decoding.sound import CHUNK_BYTES, TOLERANCE, Chunk, Chunks, SoundTrack, check_form, read_skip
from composition.media.decoding.trial import MuxTrial
from composition.media.sound_form import COPIED, MAX_CONFIGURATION, UnfitForCopying, parse_form
from services.errors import LimitExceeded, UndecodableMedia

CONFIGURED = frozenset({"aac", "alac", "opus", "flac"})
"""Codecs that need their configuration."""
PREROLL = Fraction(1, 10)
"""Seconds of inaudible packets that are kept before the first audible sample, because a decoder needs them."""
CHUNK_PACKETS = 256
DAMAGED = "packets of it are damaged"
ADTS_BYTES = 7


@dataclass(frozen=True)
class Unit:
    """A packet to be copied."""

    data: bytes
    samples: int
    """Number of samples that the decoder makes of it."""
    played: int
    """Number of samples that are played if it is the last one."""
    is_hidden: bool
    """Whether none of it is audible."""


class _Batch:
    """The packets of a chunk. Each is muxed on trial."""

    def __init__(self, trial: MuxTrial) -> None:
        self.trial = trial
        self._sizes: list[tuple[int, int]] = []
        self._data = bytearray()

    @property
    def is_full(self) -> bool:
        return len(self._data) >= CHUNK_BYTES or len(self._sizes) >= CHUNK_PACKETS

    def add(self, data: bytes, samples: int) -> None:
        """Add a packet. Raises UnfitForCopying."""
        self.trial.add(data, samples)
        self._sizes.append((samples, len(data)))
        self._data += data

    def take(self) -> Chunk:
        """Return the chunk, and begin the next one."""
        chunk: Chunk = {"packets": self._sizes}, bytes(self._data)
        self._sizes, self._data = [], bytearray()
        return chunk


class PacketReader:
    """Reads the packets of a track."""

    def __init__(self, track: SoundTrack) -> None:
        self._track = track
        self._rate = self._channels = 0
        self._first = Fraction(0)
        """Time of the first sample in seconds."""
        self._skip = self._start = 0
        """Number of samples at the beginning that are not played, and when the first audible one is."""
        self._count = 0
        """Number of samples so far."""
        self._configuration = b""

    def read(self) -> Chunks:
        """Yield the description of the track, then chunks of its packets, which follow each other without gaps.

        The description has `codec`, `rate`, `channels`, `extradata` (hexadecimal), `start`, when the first audible
        sample is played, and `skip`, the number of samples before it; both in samples. A chunk has `packets`: the
        number of samples and of bytes of each packet in its data.

        Raises:
            UnfitForCopying: MP4 cannot hold the codec, or packets are damaged or not consecutive.
            UndecodableMedia: there are no samples.
            LimitExceeded: it is too long.
        """
        if self._track.codec not in COPIED:
            raise UnfitForCopying
        self._track.stream.codec_context.flags2 |= int(Flags2.skip_manual)
        units = self._read_units()
        leading = self._read_leading(units)
        batch = _Batch(MuxTrial(parse_form(self._describe())))
        yield self._describe(), b""
        unit = leading.pop()
        for each in leading:
            batch.add(each.data, each.samples)
        for following in units:
            if following.is_hidden:
                raise UnfitForCopying("parts of it are cut out")
            batch.add(unit.data, unit.samples)
            unit = following
            if batch.is_full:
                yield batch.take()
        batch.add(unit.data, unit.played)
        batch.trial.finish()
        yield batch.take()

    def _read_leading(self, units: Iterator[Unit]) -> deque[Unit]:
        """Return the first audible packet, and the packets before it that its decoder needs."""
        leading: deque[Unit] = deque()
        hidden = dropped = kept = 0
        for unit in units:
            leading.append(unit)
            if not unit.is_hidden:
                break
            hidden += unit.samples
            kept += unit.samples
            while kept - leading[0].samples > PREROLL * self._rate:
                kept -= leading[0].samples
                dropped += leading.popleft().samples
        else:
            raise UndecodableMedia("it has no samples")
        skipped = max(self._skip, hidden)
        self._start = self._track.find_start(self._first + Fraction(skipped, self._rate), self._rate)
        self._skip = skipped - dropped
        return leading

    def _describe(self) -> dict[str, Any]:
        return {
            "codec": self._track.codec,
            "rate": self._rate,
            "channels": self._channels,
            "extradata": self._configuration.hex(),
            "start": self._start,
            "skip": self._skip,
        }

    def _read_units(self) -> Iterator[Unit]:
        for packet in self._track.read_packets():
            data = self._unwrap(bytes(packet))
            frames = _decode(packet)
            skipped, trimmed = read_skip(packet)
            if not self._rate:
                if not frames:
                    raise UnfitForCopying("its first packet has no samples")
                self._begin(packet, frames[0], skipped)
            samples = sum(frame.samples for frame in frames)
            self._check_packet(packet, frames, samples)
            self._count += samples
            declared = round((packet.duration or 0) * self._track.time_base * self._rate) or samples
            yield Unit(data, samples, max(1, min(samples - trimmed, declared)), packet.is_discard)

    def _begin(self, packet: "Packet[AudioStream]", frame: AudioFrame, skipped: int) -> None:
        self._rate, self._channels = frame.sample_rate, frame.layout.nb_channels
        check_form(self._rate, self._channels)
        duration = Fraction(frame.samples, self._rate)
        self._first = self._track.measure_first(packet, _find_ticks(packet), duration)
        self._skip = skipped

    def _check_packet(self, packet: "Packet[AudioStream]", frames: list[AudioFrame], samples: int) -> None:
        """Raise an error unless the packet follows the one before it and has the same format."""
        if any((frame.sample_rate, frame.layout.nb_channels) != (self._rate, self._channels) for frame in frames):
            raise UnfitForCopying("its sample rate or channels change")
        expected = self._first + Fraction(self._count, self._rate)
        deviation = abs(self._track.measure_time(_find_ticks(packet)) - expected) if self._count else 0
        if deviation > TOLERANCE or samples < 1:
            raise UnfitForCopying("its packets are not consecutive")
        if self._count > self._track.max_duration_s * self._rate:
            raise LimitExceeded(f"it is longer than {self._track.max_duration_s:g} s (max_duration_s)")

    def _unwrap(self, data: bytes) -> bytes:
        """Return a packet as MP4 holds it, and note the codec's configuration."""
        if self._track.codec == "aac" and data[:1] == b"\xff" and data[1:2] and data[1] & 0xF6 == 0xF0:
            configuration, data = _unwrap_adts(data)
        else:
            configuration = self._configuration or bytes(self._track.stream.codec_context.extradata or b"")
        if self._configuration not in (b"", configuration):
            raise UnfitForCopying("its configuration changes")
        if len(configuration) > MAX_CONFIGURATION or (self._track.codec in CONFIGURED and not configuration):
            raise UnfitForCopying("its configuration is missing")
        self._configuration = configuration
        return data


def _find_ticks(packet: "Packet[AudioStream]") -> int:
    ticks = packet.dts if packet.pts is None else packet.pts
    if ticks is None:
        raise UnfitForCopying("its packets have no times")
    return ticks


def _decode(packet: "Packet[AudioStream]") -> list[AudioFrame]:
    try:
        frames = packet.decode()
    except FFmpegError as error:
        raise UnfitForCopying(DAMAGED) from error
    if packet.is_corrupt or any(frame.is_corrupt for frame in frames):
        raise UnfitForCopying(DAMAGED)
    return frames


def _unwrap_adts(data: bytes) -> tuple[bytes, bytes]:
    """Return the AudioSpecificConfig and the data of an AAC packet in ADTS (ISO/IEC 14496-3).

    Raises UnfitForCopying.
    """
    if len(data) < ADTS_BYTES:
        raise UnfitForCopying(DAMAGED)
    has_checksum, profile, rate = not data[1] & 1, data[2] >> 6, data[2] >> 2 & 15
    channels = (data[2] & 1) << 2 | data[3] >> 6
    if channels == 0 or data[6] & 3:
        raise UnfitForCopying("its packets have no form that MP4 holds")
    configuration = struct.pack(">H", profile + 1 << 11 | rate << 7 | channels << 3)
    return configuration, data[ADTS_BYTES + 2 * has_checksum :]
