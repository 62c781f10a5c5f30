"""Files that hold only sound, and the reading of sound by the requests of a decoder's owner.

Runs only in decoder processes (`composition.media.decoding.worker`).
"""

from fractions import Fraction
from typing import Any, cast

from av.error import FFmpegError
from av.stream import Disposition

from composition.media.cost import SOUND_COST
from composition.media.decoding.allowed_codecs import SOUND_CONTAINERS, list_formats
from composition.media.decoding.containers import open_container
from composition.media.decoding.headers import Limits
from composition.media.decoding.sound import Chunk, Chunks, SoundTrack
from composition.media.decoding.sound_packets import PacketReader
from composition.media.decoding.sound_samples import SampleReader
from composition.media.sound_form import UnfitForCopying
from services.errors import UndecodableMedia


class SoundFile:
    """A file that holds only sound.

    Args:
        path: of the file.
        limits: limits on the file.

    Raises:
        UndecodableMedia: the sound cannot be decoded.
        LimitExceeded: it is too long.
    """

    def __init__(self, path: str, limits: Limits) -> None:
        self._path = path
        self._limits = limits
        self._codec = ""
        self._duration_s = 0.0
        limits.require(SOUND_COST)
        self._check()

    def _check(self) -> None:
        """Read all packets, and decode the first ones."""
        track = self.open_track()
        self._codec = track.codec
        begin = end = None
        for packet in track.read_packets():
            ticks = packet.dts if packet.pts is None else packet.pts
            if ticks is not None and not packet.is_discard:
                begin = ticks if begin is None else begin
                end = max(end or ticks, ticks + (packet.duration or 0))
        self._duration_s = float((end or 0) * track.time_base - (begin or 0) * track.time_base)
        track.close()
        self._limits.check_length(0, self._duration_s, "according to its packets")
        track = self.open_track()
        try:
            next(SampleReader(track, None, None).read())
        except UndecodableMedia as error:
            raise UndecodableMedia(f"the sound cannot be used: {error.message}") from error
        track.close()

    def open_track(self) -> SoundTrack:
        """Open the file again, to read its sound."""
        return open_track(self._path, list_formats(SOUND_CONTAINERS, self._limits), None, self._limits)

    def describe(self) -> dict[str, Any]:
        """Return the fields of `composition.media.decode.MediaFacts`."""
        return {
            "kind": "sound",
            "width": 0,
            "height": 0,
            "frames": 0,
            "rate": None,
            "duration_s": self._duration_s,
            "damaged": None,
            "codec": self._codec,
            "sound": self._codec,
        }


def open_sound_file(path: str, limits: Limits) -> SoundFile | None:
    """Open a file that holds only sound; None if it is no such file.

    Raises:
        UndecodableMedia: the sound cannot be decoded.
        LimitExceeded: it is too long.
    """
    try:
        with open_container(path, list_formats(SOUND_CONTAINERS, limits), limits) as container:
            is_cover = Disposition.attached_pic
            has_video = any(not stream.disposition & is_cover for stream in container.streams.video)
            if has_video or not container.streams.audio:
                return None
    except FFmpegError:
        return None
    return SoundFile(path, limits)


def open_track(path: str, formats: str, begin: Fraction | None, limits: Limits) -> SoundTrack:
    """Open a file to read its sound.

    Args:
        path: of the file.
        formats: FFmpeg's names of the formats that it may have, separated by commas.
        begin: see `SoundTrack`.
        limits: limits on the sound.
    """
    return SoundTrack(open_container(path, formats, limits), begin, limits)


class SoundSession:
    """Reads the sound of a file piece by piece."""

    def __init__(self) -> None:
        self._track: SoundTrack | None = None
        self._chunks: Chunks | None = None

    def begin(self, track: SoundTrack, request: dict[str, Any]) -> Chunk:
        """Begin to read a track, as packets or as samples; return its description."""
        self.close()
        self._track = track
        if request["form"] == "packets":
            self._chunks = PacketReader(track).read()
        else:
            self._chunks = SampleReader(track, request["rate"], request["channels"]).read()
        return self.read()

    def read(self) -> Chunk:
        """Return the next chunk. Its description is `{"end": true}` after the last one."""
        if self._chunks is None:
            raise UndecodableMedia("the sound was not opened")
        try:
            return next(self._chunks, ({"end": True}, b""))
        except UnfitForCopying as error:
            return {"unfit": error.reason}, b""

    def close(self) -> None:
        """Close the file."""
        if self._track is not None:
            cast("Chunks", self._chunks).close()
            self._track.close()
        self._track = self._chunks = None
