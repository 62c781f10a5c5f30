"""Encoded sound in a local file of packets: writing it, encoding AAC, and reading it for the muxer.

All functions block; async callers run them in a thread.
"""

# PyAV's stubs omit the type arguments of Packet.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import IO

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.packet import Packet
from av.stream import Stream

from composition.media.sound_form import LAYOUTS, Samples, SoundForm

PACKET_HEAD = struct.Struct("<II")
"""Number of samples and of bytes of a packet."""
BIT_RATES = {1: 96_000, 2: 160_000, 6: 384_000}
"""Number of channels → bits per second of AAC at FULL_RATE; proportionally less at lower rates."""
FULL_RATE = 48_000
FRAME = 1024
"""Samples of a packet of AAC."""
MAX_TRIM = Fraction(1, 20)
"""Seconds of sound before the first frame that are not played; with more, the video is shown later instead."""


@dataclass(frozen=True)
class EncodedSound:
    """Encoded sound. Its packets follow each other without gaps."""

    path: Path
    """File of the packets, each after its PACKET_HEAD."""
    form: SoundForm

    @property
    def lead(self) -> Fraction:
        """Seconds of sound before the first frame of the video."""
        return Fraction(max(0, -self.form.start), self.form.rate)

    @property
    def delay(self) -> Fraction:
        """Seconds by which the video is shown later, so that the sound before its first frame is heard."""
        return self.lead if self.lead > MAX_TRIM else Fraction(0)

    def read_packets(self) -> "Iterator[Packet[Stream]]":
        """Yield the packets, with their times."""
        time_base = Fraction(1, self.form.rate)
        pts = self.form.start - self.form.skip
        with self.path.open("rb") as file:
            while head := file.read(PACKET_HEAD.size):
                samples, size = PACKET_HEAD.unpack(head)
                packet = Packet(file.read(size))
                packet.pts = packet.dts = pts
                packet.duration, packet.time_base, packet.is_keyframe = samples, time_base, True
                pts += samples
                yield packet


class PacketWriter:
    """Writes packets to a file.

    Args:
        file: opened for writing.
        start: time of the first packet, in samples.
        stop: time at which the sound is cut off, in samples; None for never.
    """

    def __init__(self, file: IO[bytes], start: int, stop: int | None = None) -> None:
        self._file = file
        self._time = start
        self._stop = stop

    def write(self, samples: int, data: bytes) -> None:
        """Write the next packet, unless it is cut off."""
        if self._stop is not None:
            samples = min(samples, self._stop - self._time)
        if samples > 0:
            self._file.write(PACKET_HEAD.pack(samples, len(data)) + data)
            self._time += samples


class AacEncoder:
    """Encodes samples as AAC. The packets depend only on the samples, not on how they are divided into pieces.

    Args:
        file: opened for writing; receives the packets.
        rate: samples per second.
        channels: 1, 2 or 6.
    """

    def __init__(self, file: IO[bytes], rate: int, channels: int) -> None:
        context = av.CodecContext.create("aac", "w")
        context.sample_rate, context.layout, context.format = rate, LAYOUTS[channels], "fltp"
        context.time_base = Fraction(1, rate)
        context.bit_rate = BIT_RATES[channels] * rate // FULL_RATE
        context.options = {"flags": "+bitexact"}
        context.open()
        self._context = context
        self._writer = PacketWriter(file, 0)
        self._rest: Samples = np.empty((0, channels), np.int16)
        self._count = self._skip = 0

    def add(self, samples: Samples) -> None:
        """Encode the next samples, (n, channels) int16."""
        waiting = np.concatenate([self._rest, samples])
        whole = len(waiting) // FRAME * FRAME
        for first in range(0, whole, FRAME):
            self._encode(waiting[first : first + FRAME])
        self._rest = waiting[whole:]

    def finish(self) -> SoundForm:
        """Encode the last samples, and return the form of the sound, whose first sample is at 0."""
        if len(self._rest):
            self._encode(self._rest)
        self._write(self._context.encode())
        context = self._context
        channels = self._rest.shape[1]
        return SoundForm("aac", context.sample_rate, channels, 0, self._skip, bytes(context.extradata or b""))

    def _encode(self, samples: Samples) -> None:
        planes = np.ascontiguousarray(samples.T.astype(np.float32) / 32768)
        frame = AudioFrame.from_ndarray(planes, "fltp", self._context.layout.name)
        frame.sample_rate, frame.pts, frame.time_base = self._context.sample_rate, self._count, self._context.time_base
        self._count += len(samples)
        self._write(self._context.encode(frame))

    def _write(self, packets: "Sequence[Packet[Stream]]") -> None:
        for packet in packets:
            if packet.pts is not None and packet.pts < 0:
                self._skip = max(self._skip, -packet.pts)
            self._writer.write(packet.duration or FRAME, bytes(packet))


def shift_sound(sound: EncodedSound, start: int) -> EncodedSound:
    """Return the sound with another time of its first audible sample, in samples."""
    return replace(sound, form=replace(sound.form, start=start))
