"""The interface of an open file of frames, whichever library decodes it."""

from typing import Any, Protocol

from av.video.frame import VideoFrame

from composition.media.cost import Cost
from composition.media.decoding.fitting import FrameConverter
from composition.media.decoding.sound import SoundTrack
from composition.media.decoding.timing import Timing


class FrameFile(Protocol):
    """An open video or picture file."""

    cost: Cost
    """What decoding the file costs."""
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

    def reserve_frames(self, count: int) -> None:
        """Reserve memory for `count` decoded frames that will be held. Raises LimitExceeded."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...
