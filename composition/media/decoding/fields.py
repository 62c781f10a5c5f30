"""Frames of a file with their neighbours, and what is made of their fields."""

from fractions import Fraction
from typing import Any, cast

import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from composition.media.decoding.combs import Luma, read_luma
from composition.media.decoding.scan import FrameSource

THREADS = 2


class Neighbours:
    """The frames of a file, of which the last ones that were read are held.

    Args:
        source: the frames of the file.
        held: number of frames that are held.
    """

    def __init__(self, source: FrameSource, held: int) -> None:
        self._source = source
        self._held = held
        self._frames: dict[int, VideoFrame] = {}
        self._lumas: dict[int, Luma] = {}

    def read_frame(self, position: int) -> VideoFrame | None:
        """Return the frame at a position; None if there is none."""
        if position not in self._frames:
            frame = self._source.read_frame(position) if position >= 0 else None
            if frame is None:
                return None
            self._frames[position] = frame
            for oldest in list(self._frames)[: -self._held]:
                del self._frames[oldest]
                self._lumas.pop(oldest, None)
        return self._frames[position]

    def read_frames(self, first: int, last: int) -> None:
        """Read the frames from one position to another in order, which is the fastest way."""
        for position in range(first, last + 1):
            self.read_frame(position)

    def read_beside(self, position: int, offset: int) -> VideoFrame | None:
        """Return the frame at an offset from a position; None unless there is one of the same size and format.

        A frame that stands for a missing one is no neighbour of itself: it would hide what moves.
        """
        frame, beside = self.read_frame(position), self.read_frame(position + offset)
        if frame is None or beside is None or _kind(frame) != _kind(beside):
            return None
        return None if offset and frame.pts is not None and frame.pts == beside.pts else beside

    def read_luma(self, position: int, offset: int = 0) -> Luma | None:
        """Return the brightness of the frame at an offset from a position; None where `read_beside` returns it."""
        frame = self.read_beside(position, offset)
        if frame is None:
            return None
        if position + offset not in self._lumas:
            self._lumas[position + offset] = read_luma(frame)
        return self._lumas[position + offset]


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
        except (BlockingIOError, EOFError):
            return None


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
    return [np.frombuffer(cast("Any", plane), np.uint8).reshape(plane.height, -1) for plane in frame.planes]


def _kind(frame: VideoFrame) -> tuple[int, int, str]:
    """Return what must be equal for fields of two frames to be combined."""
    return frame.width, frame.height, frame.format.name
