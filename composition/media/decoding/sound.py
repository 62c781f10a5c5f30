"""The sound of a file: choosing the track, and reading it once from its beginning to its end.

Runs only in decoder processes (`composition.media.decoding.worker`): files are untrusted, and FFmpeg is native code.
"""

import struct
from collections.abc import Collection, Generator, Iterator
from fractions import Fraction
from typing import Any

from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Discard, Disposition

from composition.media.decoding.allowed_codecs import is_decodable, list_decoders
from composition.media.decoding.containers import read_fraction
from composition.media.decoding.headers import Limits
from services.errors import UndecodableMedia

MIN_RATE, MAX_RATE = 2_000, 768_000
"""Samples per second."""
MAX_CHANNELS = 64
TOLERANCE = Fraction(1, 50)
"""Seconds by which a packet's time may differ from the number of samples before it, because of rounded times."""
CHUNK_BYTES = 1 << 18
"""Size at which a chunk of sound is complete."""
LESS_WANTED = (
    Disposition.hearing_impaired | Disposition.visual_impaired | Disposition.descriptions | Disposition.comment
)

Chunk = tuple[dict[str, Any], bytes]
"""A description (JSON), and data."""
Chunks = Generator[Chunk]
"""The description of a track, then its chunks."""


def choose_sound(container: InputContainer, codecs: Collection[str]) -> AudioStream | None:
    """Return the track that a player would choose: the default one, else the one with most channels, else the first.

    Comments and tracks for the impaired are chosen last, and tracks without a decoder, or of other codecs than
    `codecs`, only if there is no other.
    """
    return max(container.streams.audio, key=lambda stream: _rank_track(stream, codecs), default=None)


def _rank_track(stream: AudioStream, codecs: Collection[str]) -> tuple[int, int, int]:
    if not is_decodable(stream) or stream.codec.canonical_name not in codecs:
        return 0, 0, 0
    disposition = stream.disposition
    score = int(not disposition & LESS_WANTED) + int(bool(disposition & Disposition.default))
    return 1, score, stream.codec_context.channels


def name_sound(container: InputContainer, codecs: Collection[str]) -> str | None:
    """Return FFmpeg's name of the codec of the sound; `unknown` if there is no decoder, None if there is no sound."""
    stream = choose_sound(container, codecs)
    if stream is None:
        return None
    return stream.codec.canonical_name if is_decodable(stream) else "unknown"


class SoundTrack:
    """The sound of an open file.

    Args:
        container: opened for this object alone.
        begin: time 0 of the sound, in seconds of the container's clock: when the first frame of the file's video is
            shown. None if there is no video: time 0 is then the first audible sample.
        limits: the codecs that are allowed, and the maximum duration.

    Raises:
        UndecodableMedia: there is no sound, or its codec is not supported or not allowed.
    """

    def __init__(self, container: InputContainer, begin: Fraction | None, limits: Limits) -> None:
        stream = choose_sound(container, limits.sound_codecs)
        if stream is None:
            raise UndecodableMedia("there is no sound")
        if not is_decodable(stream):
            raise UndecodableMedia("its codec is not supported")
        limits.check_sound_codec(stream.codec.canonical_name)
        stream.codec_context.options = {"codec_whitelist": list_decoders(limits)}
        for other in container.streams:
            if other.index != stream.index:
                other.discard = Discard.all
        self._container = container
        self._begin = begin
        self.stream = stream
        self.max_duration_s = limits.max_duration_s

    @property
    def codec(self) -> str:
        """FFmpeg's name of the codec."""
        return self.stream.codec.canonical_name

    @property
    def time_base(self) -> Fraction:
        """Seconds of one tick of the packets' times."""
        return read_fraction(self.stream.time_base) or Fraction(1)

    def read_packets(self) -> "Iterator[Packet[AudioStream]]":
        """Yield the packets. The track ends where the file cannot be read."""
        packets = self._container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
            except FFmpegError:
                return
            if packet is None:
                return
            if packet.size:
                yield packet

    def measure_time(self, ticks: int) -> Fraction:
        """Return the time in seconds of a number of ticks of the container's clock."""
        return ticks * self.time_base - (self._begin or 0)

    def measure_first(self, packet: "Packet[AudioStream]", ticks: int, duration: Fraction) -> Fraction:
        """Return the time of the first packet in seconds.

        A muxer without edit lists delays sound by prolonging its first packet; the packet is then moved to its end.

        Args:
            packet: the packet.
            ticks: its presentation time.
            duration: seconds of sound in it, audible or not.
        """
        surplus = (packet.duration or 0) * self.time_base - duration
        return self.measure_time(ticks) + (surplus if surplus > TOLERANCE else 0)

    def find_start(self, time: Fraction, rate: int) -> int:
        """Return when the first audible sample is played, in samples.

        Args:
            time: its time in seconds, which the container may have rounded.
            rate: samples per second.
        """
        if self._begin is None or (self.time_base * rate > 1 and abs(time) <= max(self.time_base, Fraction(1, rate))):
            return 0
        return round(time * rate)

    def close(self) -> None:
        """Close the file."""
        self._container.close()


def check_form(rate: int, channels: int) -> None:
    """Raise UndecodableMedia unless the sample rate and the number of channels are usable."""
    if not MIN_RATE <= rate <= MAX_RATE:
        raise UndecodableMedia(f"its sample rate must be {MIN_RATE} to {MAX_RATE} Hz, got {rate}")
    if not 1 <= channels <= MAX_CHANNELS:
        raise UndecodableMedia(f"it must have 1 to {MAX_CHANNELS} channels, got {channels}")


def read_skip(packet: "Packet[AudioStream]") -> tuple[int, int]:
    """Return the number of samples at the beginning and at the end of a packet that are not played."""
    if not packet.has_sidedata("skip_samples"):
        return 0, 0
    begin, end = struct.unpack_from("<II", bytes(packet.get_sidedata("skip_samples")).ljust(8, b"\0"))
    return begin, end
