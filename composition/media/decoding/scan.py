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
SUSPECTED = 60
"""Maximum number of frames that are examined at the beginning of any other video."""
TELLING = 25
"""Number of frames with motion after which a video need not be examined further."""
PLACES = 3
"""Number of later places in which a flagged video without combs at its beginning is examined."""
PLACE_FRAMES = 5
"""Number of frames that are examined in each."""


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

    @property
    def clean(self) -> int:
        """Number of frames that are progressive."""
        return sum(evidence.is_clean for evidence in self.evidence.values())

    @property
    def combed(self) -> list[Evidence]:
        """Evidence of the frames that are combed."""
        return [evidence for evidence in self.evidence.values() if evidence.is_combed]

    def examine_beginning(self) -> None:
        """Examine frames from the first on, until they tell enough."""
        for position in range(SUSPECTED):
            is_suspected = self.is_flagged or bool(self.combed)
            is_told = len(self.evidence) >= (TELLING if self.combed else CLEAN)
            if is_told or (position >= UNSUSPECTED and not is_suspected) or not self.examine_frame(position):
                return

    def examine_places(self) -> None:
        """Examine some frames of later parts of the video, until a combed one is found."""
        for place in range(1, PLACES + 1):
            start = self._source.frames * place // (PLACES + 1)
            for position in range(start, start + PLACE_FRAMES):
                if self.combed or not self.examine_frame(position):
                    break


def find_scan(source: FrameSource) -> Scan | None:
    """Return how the pictures of a video were scanned; None if it is progressive."""
    examination = Examination(source)
    examination.examine_beginning()
    cadence = find_cadence(examination.evidence)
    if cadence is not None:
        return cadence
    if examination.is_flagged and not examination.combed:
        examination.examine_places()
    combed, clean = examination.combed, examination.clean
    top = sum(evidence.top_first for evidence in combed)
    bottom = sum(evidence.bottom_first for evidence in combed)
    is_ordered = max(top, bottom) > 2 * min(top, bottom)
    scan = Scan(top > bottom if is_ordered else None)
    if examination.is_flagged:
        return scan if combed or (not clean and _is_doubtful(source)) else None
    blocks = sum(evidence.combed for evidence in combed)
    is_certain = is_ordered and max(top, bottom) * 4 > blocks and len(combed) * 3 > clean
    return scan if is_certain and len(combed) >= min(2, source.frames - 1) else None


def _is_doubtful(source: FrameSource) -> bool:
    """Return whether a flagged video in which nothing moves may be combed. Of a single frame, its lines tell."""
    first = source.read_frame(0)
    return first is not None and (source.frames > 1 or has_combs_alone(read_luma(first)))


def find_cadence(evidence: dict[int, Evidence]) -> Scan | None:
    """Return the scan of a telecined video; None if the combed frames are not those that telecine makes.

    Of five frames, two that follow each other are combed (or one, by cameras' "advanced" pulldown), and their earlier
    field fits the later field of the frame before. The first of them begins with the same film frame as the one before
    it, so it is dropped.
    """
    combed = {position: found for position, found in evidence.items() if found.is_combed}
    top = sum(found.fits_top for found in combed.values())
    is_top_first = top > sum(found.fits_bottom for found in combed.values())
    fitting = {
        position
        for position, found in combed.items()
        if (found.fits_top if is_top_first else found.fits_bottom) * 2 > found.combed
    }
    dropped = max(range(CYCLE), key=lambda phase: (_count_at(fitting, phase, 2), _count_at(fitting, phase, 1)))
    regular = _count_at(fitting, dropped, 2)
    if regular < 2 or len(combed) - regular > regular // 4 or len(evidence) < CYCLE - 1:
        return None
    return Scan(is_top_first, dropped)


def _count_at(positions: Iterable[int], phase: int, length: int) -> int:
    """Return how many positions are among the `length` positions of each cycle that begin at `phase`."""
    return sum((position - phase) % CYCLE < length for position in positions)
