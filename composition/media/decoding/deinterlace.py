"""Progressive frames of interlaced and telecined videos.

Each frame depends on a few neighbouring frames of the file only, so it is the same whether frames are read in order or
at random. A reader holds at most CACHED frames.
"""

from fractions import Fraction
from typing import Any, Protocol

import av
import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from composition.media.decoding.combs import Luma, compare_fields, has_combs, has_combs_alone, read_luma
from composition.media.decoding.scan import CYCLE, FrameSource, Scan, find_scan

CACHED = 10
"""Number of frames of the file that a reader holds: a cycle, its neighbours, and what overlaps with the next one."""
THREADS = 2
CONSIDERABLE = 25
"""Combs that remain are considerable if they are more than this fraction of what moves."""
LIKELIER = 3
"""Another frame than the regular one is dropped if its difference to the one before is this much smaller."""


PROGRESSIVE_CODECS = frozenset({"gif", "apng", "webp", "png"})
"""Codecs that are not examined: what they hold is drawn, not scanned."""


class FrameFile(FrameSource, Protocol):
    """A video file, as the readers need it."""

    @property
    def is_still(self) -> bool:
        """Whether the file is a picture, not a video."""
        ...

    def read_last(self) -> VideoFrame:
        """Return the last frame that can be decoded. Counts the frames if they have no times."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return the fields of `composition.media.decode.MediaFacts`."""
        ...


class Neighbours:
    """The frames of a file, of which the last ones that were read are held."""

    def __init__(self, source: FrameSource) -> None:
        self._source = source
        self._frames: dict[int, VideoFrame] = {}
        self._lumas: dict[int, Luma] = {}

    def read_frame(self, position: int) -> VideoFrame | None:
        """Return the frame at a position; None if there is none."""
        if position not in self._frames:
            frame = self._source.read_frame(position) if position >= 0 else None
            if frame is None:
                return None
            self._frames[position] = frame
            for oldest in list(self._frames)[:-CACHED]:
                del self._frames[oldest]
                self._lumas.pop(oldest, None)
        return self._frames[position]

    def read_beside(self, position: int, offset: int) -> VideoFrame | None:
        """Return the frame at an offset from a position; None unless there is one of the same size and format."""
        frame, beside = self.read_frame(position), self.read_frame(position + offset)
        return beside if frame and beside and _kind(frame) == _kind(beside) else None

    def read_luma(self, position: int, offset: int = 0) -> Luma | None:
        """Return the brightness of the frame at an offset from a position; None where `read_beside` returns it."""
        frame = self.read_beside(position, offset)
        if frame is not None and position + offset not in self._lumas:
            self._lumas[position + offset] = read_luma(frame)
        return self._lumas.get(position + offset) if frame is not None else None


class Filter:
    """A chain of filters for frames of one size and format, whose output has that format again."""

    def __init__(self, first: VideoFrame, name: str, options: str | None = None) -> None:
        self._graph = Graph()
        self._graph.threads = THREADS
        nodes = [
            self._graph.add_buffer(
                width=first.width, height=first.height, format=first.format, time_base=Fraction(1, 1000)
            ),
            self._graph.add(name, options),
            self._graph.add("format", first.format.name),
            self._graph.add("buffersink"),
        ]
        self._graph.link_nodes(*nodes)
        self._graph.configure()

    def push(self, frame: VideoFrame | None) -> VideoFrame | None:
        """Push a frame, or the end, and return the next frame that comes out; None if more is needed."""
        self._graph.vpush(frame)
        try:
            return self._graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return None


class Deinterlacer:
    """Deinterlaced frames, one for each frame of the file, at the time of its earlier field.

    A frame without combs is returned as it is: parts of an interlaced video are often progressive.

    Args:
        source: the frames of the file.
        top_first: whether the top field of a frame is the earlier one; None to take it from the frame's flags.
    """

    def __init__(self, source: Neighbours, top_first: bool | None) -> None:
        self._source = source
        parity = {True: "tff", False: "bff", None: "auto"}[top_first]
        self._options = f"mode=send_frame:parity={parity}:deint=all"
        self._top_first = top_first is not False
        self._filter: Filter | None = None
        self._pushed = -1
        """Position of the frame that was last pushed into the filter."""

    def read_frame(self, position: int) -> VideoFrame | None:
        """Return the frame at a position without combs; None past the end."""
        frame, luma = self._source.read_frame(position), self._source.read_luma(position)
        if frame is None or luma is None:
            return None
        neighbours = self._source.read_luma(position, -1), self._source.read_luma(position, 1)
        is_combed = has_combs(luma, *neighbours) if any(x is not None for x in neighbours) else has_combs_alone(luma)
        return self.filter_frame(position) if is_combed else frame

    def filter_frame(self, position: int) -> VideoFrame | None:
        """Return the frame at a position with the lines of its later field interpolated; None past the end."""
        frame = self._source.read_frame(position)
        before, after = self._source.read_beside(position, -1), self._source.read_beside(position, 1)
        if frame is None or (before is None and after is None):
            return frame and interpolate_lines(frame, keep_top=self._top_first)
        if self._filter is None or self._pushed != position:
            self._filter = Filter(frame, "bwdif", self._options)
            if before is not None:
                self._filter.push(before)
            self._filter.push(frame)
        filtered = self._filter.push(after)
        self._pushed = position + 1
        if after is None:
            self._filter = None
        return filtered


class FilmReader:
    """The film frames of a telecined video: four of five frames, each woven from two fields that fit.

    Args:
        source: the frames of the file.
        top_first: whether the top field of a frame is the earlier one.
        dropped: position, modulo 5, of the frames that telecine added.
    """

    def __init__(self, source: Neighbours, top_first: bool, dropped: int) -> None:
        self._source = source
        self._top_first = top_first
        self._dropped = dropped
        self._deinterlacer = Deinterlacer(source, top_first)
        self._first_cycle = (dropped - CYCLE // 2) % CYCLE
        """Position at which the first complete cycle begins: the frame to drop is in the middle of each."""
        self._last_dropped: tuple[int, int] | None = None

    def count_frames(self, frames: int) -> int:
        """Return the number of film frames in a number of frames."""
        return frames - len(range(self._dropped, frames, CYCLE))

    def read_frame(self, position: int) -> VideoFrame | None:
        """Return a film frame by its position; None past the end."""
        return self.match_fields(self.locate_frame(position))

    def locate_frame(self, position: int) -> int:
        """Return the position in the file of a film frame."""
        head = self.count_frames(self._first_cycle)
        if position < head:
            return position + (self._dropped <= position)
        cycle, place = divmod(position - head, CYCLE - 1)
        start = self._first_cycle + CYCLE * cycle
        return start + place + (self._find_dropped(start) <= start + place)

    def _find_dropped(self, start: int) -> int:
        """Return the position of the frame to drop from a cycle: the one whose earlier field shows nothing new.

        It is the regular one, except behind a cut that was made after the telecine.
        """
        if self._last_dropped is None or self._last_dropped[0] != start:
            regular = start + CYCLE // 2
            changes = [self._measure_change(place) for place in range(start, start + CYCLE)]
            if None not in changes:
                known = [change for change in changes if change is not None]
                least = min(range(CYCLE), key=known.__getitem__)
                if known[least] * LIKELIER < known[CYCLE // 2] - 1:
                    regular = start + least
            self._last_dropped = start, regular
        return self._last_dropped[1]

    def _measure_change(self, position: int) -> float | None:
        """Return the mean change of the earlier field since the frame before; None if there is none."""
        after, before = self._source.read_luma(position), self._source.read_luma(position, -1)
        if after is None or before is None:
            return None
        field = slice(0 if self._top_first else 1, None, 2)
        return float(np.abs(after[field] - before[field]).mean())

    def match_fields(self, position: int) -> VideoFrame | None:
        """Return the frame at a position in the file, its later field taken from where it fits."""
        frame, luma = self._source.read_frame(position), self._source.read_luma(position)
        before, luma_before = self._source.read_beside(position, -1), self._source.read_luma(position, -1)
        if frame is None or luma is None or before is None or luma_before is None:
            return self._deinterlacer.read_frame(position)
        found = compare_fields(luma, luma_before)
        crossed = found.combed_top if self._top_first else found.combed_bottom
        if min(found.combed, crossed) * CONSIDERABLE > found.moving:
            return self._deinterlacer.filter_frame(position)
        if crossed >= found.combed:
            return frame
        return weave_fields(frame, before) if self._top_first else weave_fields(before, frame)


class ProgressiveReader:
    """The frames of an interlaced or telecined file as progressive ones.

    Args:
        file: the file.
        scan: how its pictures were scanned.
    """

    def __init__(self, file: FrameFile, scan: Scan) -> None:
        self._file = file
        source = Neighbours(file)
        self._film = None if scan.dropped is None else FilmReader(source, scan.top_first is not False, scan.dropped)
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
        film = {"frames": self.frames, "rate": str(rate), "duration_s": float(self.frames / rate)}
        return facts | film | {"changes": changes | {"inverse_telecined": True}}


def open_progressive(file: FrameFile) -> ProgressiveReader | None:
    """Return a reader for an interlaced or telecined file; None if its frames are progressive, or it is a picture."""
    if file.is_still or file.describe()["codec"] in PROGRESSIVE_CODECS:
        return None
    scan = find_scan(file)
    return None if scan is None else ProgressiveReader(file, scan)


def weave_fields(top: VideoFrame, bottom: VideoFrame) -> VideoFrame:
    """Return a frame with the top field of one frame and the bottom field of another."""
    woven = _copy_frame(top)
    for lines, other in zip(_list_lines(woven), _list_lines(bottom), strict=True):
        width = min(lines.shape[1], other.shape[1])  # lines are padded differently
        lines[1::2, :width] = other[1::2, :width]
    return woven


def interpolate_lines(frame: VideoFrame, *, keep_top: bool) -> VideoFrame:
    """Return a frame of which one field is kept, and each line of the other one is the mean of its neighbours."""
    filtered = _copy_frame(frame)
    is_deep = frame.format.components[0].bits > 8
    for lines in _list_lines(filtered):
        values = lines.view(np.uint16) if is_deep else lines
        missing = range(1 if keep_top else 0, len(values), 2)
        for line in missing:
            above = values[line - 1 if line else line + 1].astype(np.uint32)
            below = values[line + 1 if line + 1 < len(values) else line - 1]
            values[line] = (above + below + 1) // 2
    return filtered


def _copy_frame(frame: VideoFrame) -> VideoFrame:
    """Return a copy of a frame with its colour properties."""
    copied = Filter(frame, "copy").push(frame)
    if copied is None:
        raise AssertionError("the filter `copy` returns a frame for each frame")
    return copied


def _list_lines(frame: VideoFrame) -> list[NDArray[np.uint8]]:
    """Return the bytes of each plane, (lines, bytes), which can be written if the frame is a copy."""
    return [np.frombuffer(plane, np.uint8).reshape(plane.height, -1) for plane in frame.planes]


def _kind(frame: VideoFrame) -> tuple[int, int, str]:
    """Return what must be equal for fields of two frames to be combined."""
    return frame.width, frame.height, frame.format.name
