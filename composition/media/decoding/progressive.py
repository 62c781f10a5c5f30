"""Progressive frames of interlaced and telecined files."""

from fractions import Fraction
from typing import Any

from av.video.frame import VideoFrame

from composition.media.decoding.deinterlace import Deinterlacer
from composition.media.decoding.fields import Neighbours
from composition.media.decoding.frame_file import FrameFile
from composition.media.decoding.scan import CYCLE, Scan, find_scan
from composition.media.decoding.telecine import FilmReader

HELD = CYCLE + 2
"""Number of frames of the file that a reader holds: a cycle of telecine and its neighbours."""
KEPT_BYTES = 32 << 20
"""Size from which on no more frames are kept of those that were examined, in bytes."""
DRAWN_CODECS = frozenset({"gif", "apng", "webp", "png"})
"""Codecs that are not examined: what they hold is drawn, not scanned."""


class ProgressiveReader:
    """The frames of an interlaced or telecined file as progressive ones.

    Args:
        file: the file.
        scan: how its pictures were scanned.
    """

    def __init__(self, file: FrameFile, scan: Scan) -> None:
        self._file = file
        file.reserve_frames(HELD)
        source = Neighbours(file, HELD)
        dropped = None if file.describe()["is_variable"] else scan.dropped
        self._film = None if dropped is None else FilmReader(source, scan.top_first is not False, dropped)
        self._reader = self._film or Deinterlacer(source, scan.top_first)

    @property
    def frames(self) -> int:
        """Number of frames; an estimate until frames without times were counted."""
        return self._film.count_frames(self._file.frames) if self._film else self._file.frames

    def read_frame(self, position: int) -> VideoFrame | None:
        """Return the frame at `position`; None past the end."""
        return self._reader.read_frame(position) if position < self.frames else None

    def read_last(self) -> VideoFrame:
        """Return the last frame that can be decoded. Counts the frames if they have no times."""
        last = self._file.read_last()
        return self.read_frame(self.frames - 1) or last

    def describe(self) -> dict[str, Any]:
        """Return the fields of `composition.media.decode.MediaFacts`."""
        facts = self._file.describe()
        changes = dict(facts.get("changes", {}))
        if self._film is None:
            return facts | {"changes": changes | {"deinterlaced": True}}
        rate = Fraction(facts["rate"]) * Fraction(CYCLE - 1, CYCLE)
        film = {"frames": self.frames, "rate": str(rate), "duration_s": float(self.frames / rate), "is_variable": False}
        return facts | film | {"changes": changes | {"inverse_telecined": True}}


class PlainReader:
    """The frames of a progressive file or a picture, as they are.

    Args:
        file: the file.
        examined: frames that were already decoded, by position. Each is returned once, then decoded anew.
    """

    def __init__(self, file: FrameFile, examined: dict[int, VideoFrame]) -> None:
        self._file = file
        self._examined = examined
        self.describe = file.describe
        self.read_last = file.read_last

    @property
    def frames(self) -> int:
        """Number of frames; an estimate until frames without times were counted."""
        return self._file.frames

    def read_frame(self, position: int) -> VideoFrame | None:
        """Return the frame at `position`; None past the end."""
        return self._examined.pop(position, None) or self._file.read_frame(position)


class ExaminedFrames:
    """The frames of a file, of which the first ones are kept, so that examining a file costs no second decoding."""

    def __init__(self, file: FrameFile) -> None:
        self._file = file
        self._bytes = 0
        self.kept: dict[int, VideoFrame] = {}

    @property
    def frames(self) -> int:
        """Number of frames."""
        return self._file.frames

    def read_frame(self, position: int) -> VideoFrame | None:
        """Return the frame at `position`; None past the end."""
        frame = self._file.read_frame(position)
        if frame is not None and position == len(self.kept) and self._bytes < KEPT_BYTES:
            self._bytes += sum(plane.buffer_size for plane in frame.planes)
            self.kept[position] = frame
        return frame


def open_progressive_reader(file: FrameFile) -> PlainReader | ProgressiveReader:
    """Return a reader of the frames of a file as a viewer would see them: deinterlaced, or as film, where need be."""
    if file.is_still or file.describe()["codec"] in DRAWN_CODECS:
        return PlainReader(file, {})
    examined = ExaminedFrames(file)
    scan = find_scan(examined)
    return PlainReader(file, examined.kept) if scan is None else ProgressiveReader(file, scan)
