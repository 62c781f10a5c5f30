"""Muxing packets of sound on trial, so that what MP4 does not take is found here and not when a video is finished.

Runs only in decoder processes (`composition.media.decoding.worker`): FFmpeg's muxer reads the heads of some packets.
"""

# PyAV's stubs omit the type arguments of Packet.
# pyright: reportUnknownMemberType=false

import io
from contextlib import ExitStack
from fractions import Fraction

import av
from av.error import FFmpegError
from av.packet import Packet

from composition.media.sound_form import SoundForm, UnfitForCopying
from composition.media.sound_header import open_template

REFUSED = "MP4 does not hold this form of it"


class DiscardedFile(io.RawIOBase):
    """A file that keeps nothing of what is written to it but its size."""

    def __init__(self) -> None:
        super().__init__()
        self._position = self._size = 0

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, data: object, /) -> int:
        count = len(memoryview(data))  # pyright: ignore[reportArgumentType] - any bytes-like object
        self._position += count
        self._size = max(self._size, self._position)
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position


class MuxTrial:
    """Muxes packets into an MP4 file that is discarded.

    Args:
        form: of the sound.

    Raises:
        UnfitForCopying: MP4 does not hold the sound.
    """

    def __init__(self, form: SoundForm) -> None:
        self._time = form.start - form.skip
        self._time_base = Fraction(1, form.rate)
        self._stack = ExitStack()
        try:
            self._container = self._stack.enter_context(av.open(DiscardedFile(), "w", format="mp4"))
            self._stream = self._container.add_stream_from_template(self._stack.enter_context(open_template(form)))
        except (FFmpegError, ValueError, IndexError) as error:
            raise UnfitForCopying(REFUSED) from error

    def add(self, data: bytes, samples: int) -> None:
        """Mux the next packet. Raises UnfitForCopying."""
        packet = Packet(data)
        packet.pts = packet.dts = self._time
        packet.duration, packet.time_base, packet.stream = samples, self._time_base, self._stream
        packet.is_keyframe = True
        self._time += samples
        try:
            self._container.mux(packet)
        except (FFmpegError, ValueError) as error:
            raise UnfitForCopying(REFUSED) from error

    def finish(self) -> None:
        """Write the index. Raises UnfitForCopying."""
        try:
            self._stack.close()
        except (FFmpegError, ValueError) as error:
            raise UnfitForCopying(REFUSED) from error
