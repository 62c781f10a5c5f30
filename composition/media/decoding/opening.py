"""Opening a media file with the library that decodes it."""

from typing import Any, Protocol

from av.video.frame import VideoFrame

from composition.media.decoding.fitting import FrameConverter
from composition.media.decoding.headers import Limits, read_head, read_header
from composition.media.decoding.media_file import MediaFile
from composition.media.decoding.mp4_tracks import read_auxiliary_tracks
from composition.media.decoding.picture_file import PictureFile
from composition.media.decoding.picture_readers import open_reader
from composition.media.decoding.sound import SoundTrack
from composition.media.decoding.timing import Timing


class FrameFile(Protocol):
    """An open video or picture file."""

    converter: FrameConverter
    """Converts the frames to what a viewer would see."""

    @property
    def frames(self) -> int:
        """Number of frames; an estimate until frames without times were counted."""
        ...

    @property
    def timing(self) -> Timing:
        """When the frames are shown."""
        ...

    @property
    def is_indexed(self) -> bool:
        """Whether the file has an index of frames, a presentation time for every frame, and one video track."""
        ...

    @property
    def is_still(self) -> bool:
        """Whether the file is a picture, not a video."""
        ...

    @property
    def damaged(self) -> str | None:
        """Description of the damage found so far; None if there is none."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return the fields of `composition.media.decode.MediaFacts`."""
        ...

    def read_frame(self, position: int) -> VideoFrame | None:
        """Return the frame at `position`; None past the end."""
        ...

    def read_last(self) -> VideoFrame:
        """Return the last frame that can be decoded. Counts the frames if they have no times."""
        ...

    def verify(self, positions: list[int]) -> None:
        """Decode the frames at `positions` and the last one. Raises UndecodableMedia if the last does not decode."""
        ...

    def open_track(self) -> SoundTrack:
        """Open the file again, to read its sound. Raises UndecodableMedia if there is none or it is not supported."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def open_frames(source: str | bytes, limits: Limits) -> FrameFile:
    """Open a video or a picture.

    Args:
        source: path or content of the file.
        limits: limits on the file.

    Raises:
        UndecodableMedia: the file is no video or picture, is truncated, or has no frame that can be decoded.
        LimitExceeded: the header or the packets exceed a limit.
    """
    header = read_header(read_head(source))
    library = header.library
    if header.is_sequence and isinstance(source, str) and read_auxiliary_tracks(source):
        library = "avif"  # FFmpeg does not join the tracks of colours and alpha
    if library is None:
        return MediaFile(source, limits)
    return PictureFile(open_reader(source, library, limits), limits)
