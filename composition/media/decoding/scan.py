"""Finding out how the pictures of a video were scanned: progressive, interlaced, or telecined from film.

The flags in a file are wrong in both directions: progressive video is often flagged as interlaced, and combed video is
stored without flags. So the fields of the first frames are compared with each other. Flags decide only if nothing
moves. The result depends on the file alone: every opening of it gives the same one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from av.video.frame import VideoFrame

from composition.media.decoding.combs import Evidence, Luma, compare_fields, has_combs_alone, read_luma

CYCLE = 5
"""Telecine makes this many frames of four film frames."""
CLEAN = 5
"""Number of clean frames, among none that is combed, after which a video is progressive. Telecined ones have fewer."""
UNSUSPECTED = 24
"""Maximum number of frames that are examined of a video that is not flagged and has no combs in them."""
QUIET = 48
"""Maximum number of frames that are examined of such a video if nothing moves in them, e.g. of a title."""
SUSPECTED = 60
"""Maximum number of frames that are examined at the beginning of any other video."""
TELLING = 25
"""Number of frames with motion after which a video need not be examined further."""
PLACES = 3
"""Number of later places in which a flagged video without combs at its beginning is examined."""
PLACE_FRAMES = 5
"""Number of frames that are examined in each."""
DIFFERENT = 1.1
"""Ratio of two strengths of combs from which on they tell the order of the fields."""
ORDERED, FEW = 1.3, 4
"""The same, if there are fewer than this many frames that tell it."""


@dataclass(frozen=True)
class Scan:
    """How the pictures of a video that is not progressive were scanned."""

    top_first: bool | None = None
    """Whether the top field of each frame is earlier than the bottom field; None if only the flags say so."""
    dropped: int | None = None
    """Position, modulo 5, of the frames that telecine added; None if the video is interlaced."""


class FrameSource(Protocol):
    """A video whose frames can be read by position."""

    @property
    def frames(self) -> int:
        """Number of frames."""
        ...

    def read_frame(self, position: int) -> VideoFrame | None:
        """Return the frame at `position`; None past the end."""
        ...


class Examination:
    """The evidence that the frames of a video give."""

    def __init__(self, source: FrameSource) -> None:
        self._source = source
        self._before: tuple[int, Luma] | None = None
        self.is_flagged = False
        """Whether a frame that was examined is flagged as interlaced."""
        self.evidence: dict[int, Evidence] = {}
        """Position of a frame → its evidence, for frames with motion."""

    def examine_frame(self, position: int) -> bool:
        """Examine a frame together with the one before it, which was examined last. False past the end."""
        frame = self._source.read_frame(position)
        if frame is None:
            return False
        self.is_flagged = self.is_flagged or frame.interlaced_frame
        luma = read_luma(frame)
        before, self._before = self._before, (position, luma)
        if before is not None and before[0] == position - 1 and before[1].shape == luma.shape:
            evidence = compare_fields(luma, before[1])
            if evidence.moving:
                self.evidence[position] = evidence
        return True

    def drop_doubtful(self) -> None:
        """Drop the evidence of combs that may be detail of the pictures."""
        self.evidence = {
            position: found for position, found in self.evidence.items() if found.is_plain or not found.is_combed
        }

    @property
    def clean(self) -> int:
        """Number of frames that are progressive."""
        return sum(evidence.is_clean for evidence in self.evidence.values())

    @property
    def combed_frames(self) -> list[Evidence]:
        """Evidence of the frames that are combed."""
        return [evidence for evidence in self.evidence.values() if evidence.is_combed]

    def examine_beginning(self) -> None:
        """Examine frames from the first on, until they tell enough."""
        for position in range(SUSPECTED):
            is_suspected = self.is_flagged or bool(self.combed_frames)
            is_told = len(self.evidence) >= (TELLING if self.combed_frames else CLEAN)
            most = SUSPECTED if is_suspected else UNSUSPECTED if self.evidence else QUIET
            if is_told or position >= most or not self.examine_frame(position):
                return

    def examine_places(self) -> None:
        """Examine some frames of later parts of the video, until a combed one is found."""
        for place in range(1, PLACES + 1):
            start = self._source.frames * place // (PLACES + 1)
            for position in range(start, start + PLACE_FRAMES):
                if self.combed_frames or not self.examine_frame(position):
                    break


def find_scan(source: FrameSource) -> Scan | None:
    """Return how the pictures of a video were scanned; None if it is progressive."""
    examination = Examination(source)
    examination.examine_beginning()
    cadence = find_cadence(examination.evidence)
    if cadence is not None:
        return cadence
    if not examination.is_flagged:
        examination.drop_doubtful()
    if examination.is_flagged and not examination.combed_frames:
        examination.examine_places()
    combed, clean = examination.combed_frames, examination.clean
    top_first = find_order(combed)
    if examination.is_flagged:
        return Scan(top_first) if combed or (not clean and _is_doubtful(source)) else None
    is_certain = top_first is not None and len(combed) >= min(2, source.frames - 1) and len(combed) * 3 > clean
    return Scan(top_first) if is_certain else None


def find_order(combed: list[Evidence]) -> bool | None:
    """Return whether the top field of each frame is the earlier one; None if the frames do not tell.

    The earlier field of a frame is nearer in time to the frame before, so it fits the later field there better than
    the later field here fits the earlier one there. In progressive pictures full of detail both are alike.
    """
    top_votes = sum(found.bottom > DIFFERENT * found.top for found in combed)
    bottom_votes = sum(found.top > DIFFERENT * found.bottom for found in combed)
    votes = top_votes + bottom_votes
    top, bottom = sum(found.top for found in combed), sum(found.bottom for found in combed)
    is_agreed = max(top_votes, bottom_votes) * 5 >= votes * 4 and votes * 2 >= len(combed)
    is_top_first = top_votes > bottom_votes
    better, worse = (top, bottom) if is_top_first else (bottom, top)
    return is_top_first if votes and is_agreed and worse > better * (ORDERED if votes < FEW else DIFFERENT) else None


def _is_doubtful(source: FrameSource) -> bool:
    """Return whether a flagged video in which nothing moves may be combed. Of a single frame, its lines tell."""
    first = source.read_frame(0)
    return first is not None and (source.frames > 1 or has_combs_alone(read_luma(first)))


def find_cadence(evidence: dict[int, Evidence]) -> Scan | None:
    """Return the scan of a telecined video; None if the combed frames are not those that telecine makes.

    Of five frames, two that follow each other are combed (or one, by cameras' "advanced" pulldown), and their earlier
    field fits the later field of the frame before. The first of them begins with the same film frame as the one before
    it, so it is dropped. Compression hides some of that. Cuts that were made after the telecine may shift the cycle in
    some parts of the video, but not change that earlier fields fit.
    """
    combed = {position: found for position, found in evidence.items() if found.is_combed}
    fitting_top = {position for position, found in combed.items() if found.fits_top}
    fitting_bottom = {position for position, found in combed.items() if found.fits_bottom}
    is_top_first = len(fitting_top) > len(fitting_bottom)
    fitting = fitting_top if is_top_first else fitting_bottom
    dropped = max(range(CYCLE), key=lambda phase: (_count_at(fitting, phase, 2), _count_at(fitting, phase, 1)))
    inside = {position: found.combed for position, found in combed.items() if (position - dropped) % CYCLE < 2}
    if not inside or max(inside) - min(inside) < CYCLE - 1:
        return None
    outside = sum(found.combed for found in combed.values()) - sum(inside.values())
    is_regular = outside * 4 <= sum(inside.values()) and _count_at(fitting, dropped, 2) * 5 >= 2 * len(inside)
    certain = sum(combed[position].is_plain for position in fitting)
    is_cut = certain * 5 >= len(combed) * 4 and len(inside) * 2 >= len(combed)
    return Scan(is_top_first, dropped) if is_regular or is_cut else None


def _count_at(positions: Iterable[int], phase: int, length: int) -> int:
    """Return how many positions are among the `length` positions of each cycle that begin at `phase`."""
    return sum((position - phase) % CYCLE < length for position in positions)
