"""The film in a telecined video."""

import numpy as np
from av.video.frame import VideoFrame

from composition.media.decoding.combs import compare_fields, read_luma
from composition.media.decoding.deinterlace import Deinterlacer
from composition.media.decoding.fields import Neighbours, weave_fields
from composition.media.decoding.scan import CYCLE

LIKELIER = 3
"""Another frame than the regular one is dropped if its difference to the one before is this much smaller."""


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
            self._source.read_frames(start - 1, start + CYCLE - 1)
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
        self._source.read_frames(position - 1, position)
        frame, luma = self._source.read_frame(position), self._source.read_luma(position)
        before, luma_before = self._source.read_beside(position, -1), self._source.read_luma(position, -1)
        if frame is None or luma is None or before is None or luma_before is None:
            return self._deinterlacer.read_frame(position)
        found = compare_fields(luma, luma_before)
        if not found.is_combed:
            return frame
        woven = weave_fields(frame, before) if self._top_first else weave_fields(before, frame)
        if compare_fields(read_luma(woven), luma_before).is_combed:  # a part of the video that is interlaced
            return self._deinterlacer.filter_frame(position)
        return woven
