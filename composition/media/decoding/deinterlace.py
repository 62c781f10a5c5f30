"""Deinterlacing: progressive frames from the two fields of each frame.

A frame depends on itself and its neighbours only, so it is the same whether frames are read in order or at random.
"""

from av.video.frame import VideoFrame

from composition.media.decoding.combs import has_combs, has_combs_alone
from composition.media.decoding.fields import Filter, Neighbours, interpolate_lines


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
        self._source.read_frames(position - 1, position + 1)
        frame, luma = self._source.read_frame(position), self._source.read_luma(position)
        if frame is None or luma is None:
            return None
        neighbours = self._source.read_luma(position, -1), self._source.read_luma(position, 1)
        is_combed = has_combs(luma, *neighbours) if any(x is not None for x in neighbours) else has_combs_alone(luma)
        return self.filter_frame(position) if is_combed else frame

    def filter_frame(self, position: int) -> VideoFrame | None:
        """Return the frame at a position with the lines of its later field interpolated; None past the end."""
        self._source.read_frames(position - 1, position + 1)
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
