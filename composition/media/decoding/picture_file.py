"""A picture or an animation that another library than FFmpeg decodes.

Runs only in decoder processes (`composition.media.decoding.worker`). Memory holds one frame at a time.
"""

from dataclasses import replace
from fractions import Fraction
from itertools import accumulate
from typing import Any, Protocol

from av.video.frame import VideoFrame

from composition.media.cost import Cost, FrameForm, estimate_animation, estimate_picture
from composition.media.decoding.fitting import FrameConverter
from composition.media.decoding.headers import Limits
from composition.media.decoding.picture_tags import PictureTags
from composition.media.decoding.presentation import Presentation
from composition.media.decoding.sound import SoundTrack
from composition.media.decoding.timing import USUAL_RATE, Timing, time_frames
from services.errors import UndecodableMedia

MILLISECOND = Fraction(1, 1000)


class PictureReader(Protocol):
    """The frames of a file, decoded by a library. Nothing is decoded before the first one is read."""

    codec: str
    """FFmpeg's name of the codec."""
    file_bytes: int
    """Size of the file."""
    form: FrameForm
    """The form of the frames, with the bits that a pixel takes in all steps inside of the library."""
    size: tuple[int, int]
    """Width and height in pixels, according to the header."""
    tags: PictureTags
    """What the file says about its display, apart from what `read_frame` applies."""
    pixel_aspect: Fraction
    """Width of a pixel divided by its height."""
    durations: list[int]
    """Duration of each frame in milliseconds; of a picture one that means nothing."""
    damaged: str | None
    """Description of damage in a file that is still usable."""

    def read_frame(self, position: int) -> VideoFrame:
        """Return a frame. Raises UndecodableMedia."""
        ...


class PictureFile:
    """An open picture or animation.

    Args:
        reader: decodes the frames.
        limits: limits on the file.

    Raises:
        UndecodableMedia: the first frame cannot be decoded.
        LimitExceeded: the header exceeds a limit.
    """

    def __init__(self, reader: PictureReader, limits: Limits) -> None:
        limits.check_size(*reader.size)
        self._reader = reader
        self._limits = limits
        self.timing = self._time_frames()
        """When the frames are shown."""
        if not self.is_still:
            duration = self.timing.measure_duration(self.frames)
            limits.check_length(self.frames, float(duration), "according to its header")
        self.cost = self._estimate_cost()
        limits.require(self.cost)
        self._current = 0, reader.read_frame(0)
        self.converter = FrameConverter(self._current[1], self._read_presentation(limits))
        limits.check_size(*self.converter.size)

    def _estimate_cost(self) -> Cost:
        if self.is_still:
            return estimate_picture(self._reader.form, self._reader.file_bytes)
        return estimate_animation(self._reader.form, self._reader.file_bytes, self.frames)

    def reserve_frames(self, count: int) -> None:
        """Reserve memory for `count` decoded frames that will be held. Raises LimitExceeded."""
        self.cost = replace(self.cost, memory_bytes=self.cost.memory_bytes + count * self._reader.form.frame_bytes)
        self._limits.require(self.cost)

    def _time_frames(self) -> Timing:
        if self.is_still:
            return Timing(USUAL_RATE)
        times = [0, *accumulate(self._reader.durations)]
        return time_frames(times[:-1], times[-1], MILLISECOND, [], is_exact=True)

    def _read_presentation(self, limits: Limits) -> Presentation:
        reader = self._reader
        return Presentation(reader.codec, limits.background, reader.pixel_aspect, tags=reader.tags)

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self._reader.durations)

    @property
    def is_indexed(self) -> bool:
        """Whether decord may read it."""
        return False

    @property
    def is_still(self) -> bool:
        """Whether the file is a picture, not an animation."""
        return self.frames == 1

    @property
    def damaged(self) -> str | None:
        """Description of the damage; None if there is none."""
        return self._reader.damaged

    def describe(self) -> dict[str, Any]:
        """Return the fields of `composition.media.decode.MediaFacts`."""
        width, height = self.converter.size
        return {
            "kind": "image" if self.is_still else "video",
            "width": width,
            "height": height,
            "frames": self.frames,
            "rate": None if self.is_still else str(self.timing.rate),
            "duration_s": 0.0 if self.is_still else float(self.timing.measure_duration(self.frames)),
            "damaged": self.damaged,
            "codec": self._reader.codec,
            "is_variable": self.timing.is_variable,
            "changes": dict(self.converter.changes),
        }

    def read_frame(self, position: int) -> VideoFrame | None:
        """Return the frame at `position`; None past the end."""
        if position >= self.frames:
            return None
        if self._current[0] != position:
            self._current = position, self._reader.read_frame(position)
        return self._current[1]

    def read_last(self) -> VideoFrame:
        """Return the last frame."""
        return self._reader.read_frame(self.frames - 1)

    def verify(self, positions: list[int]) -> None:
        """Decode the frames at `positions` and the last one."""
        for position in (*positions, self.frames - 1):
            self.read_frame(position)

    def open_track(self) -> SoundTrack:
        """Raise UndecodableMedia: a picture has no sound."""
        raise UndecodableMedia("there is no sound")

    def close(self) -> None:
        """Nothing is open."""
