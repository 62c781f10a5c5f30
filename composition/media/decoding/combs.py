"""Measuring combs: which fields of two consecutive frames fit together.

The lines of an interlaced frame are two fields, taken at different times: the top field is lines 0, 2, 4 … A field fits
another if their lines interleave without combs where the picture moves. In a progressive video the fields of each frame
fit. In an interlaced one no fields fit, but those that were taken one after another fit better than others. In a
telecined one each field fits the other field of its own frame or of a neighbouring one.
"""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

Luma = NDArray[np.int16]
"""(height, columns) brightness, 0 to 255. Wide pictures have every second column, or fewer."""
Blocks = NDArray[np.int64]
"""(rows, columns) of sums, one for each block."""

COLUMNS = 320
"""Minimum number of columns that are measured of a wider picture."""
BLOCK = 16
"""Height and width of a block, in lines and measured columns."""
MOTION = 8
"""Minimum change of brightness that counts as motion."""
DEAD_ZONE = 12
"""Combs below this strength are noise. The strength is twice the difference between lines."""
MIN_STRENGTH = 2
"""Minimum mean strength of a comb in the moving part of a block that counts."""
MIN_SUM = 200
"""Minimum sum of the strengths in a block that counts."""
ALONE_STRENGTH = 8
"""Minimum mean strength of combs in a block of a frame that cannot be compared with others."""
CONSIDERABLE = 25
"""What is combed is considerable if it is more than this fraction of what moves."""
PLAIN = 0.8
"""Maximum of the detail within fields, as a fraction of that between them, of combs that are certainly such."""
VISIBLE = 8
"""A block is combed if the strongest combs, of any combination of fields, are not this much stronger."""
CLEAR = 2.5
"""A combination of fields is clearly worse than another if its combs are this much stronger."""


@dataclass(frozen=True)
class Evidence:
    """What a frame shows about its fields, compared with the frame before it."""

    moving: int = 0
    """Number of blocks with motion, in which fields that do not fit would be combed."""
    combed: int = 0
    """Number of blocks that are combed in the frame as it is stored."""
    own: int = 0
    """Strength of the combs in the frame as it is stored, in and around these blocks."""
    top: int = 0
    """The same, of its top field together with the bottom field of the frame before."""
    bottom: int = 0
    """The same, of its bottom field together with the top field of the frame before."""
    is_plain: bool = False
    """Whether the fields themselves have much less detail than the frame in the combed blocks. Noise and dense patterns
    of lines look like combs, but are as dense in each field."""

    @property
    def is_combed(self) -> bool:
        """Whether a considerable part of what moves is combed."""
        return self.combed * CONSIDERABLE > self.moving

    @property
    def is_clean(self) -> bool:
        """Whether the frame is progressive: something moves, and is not combed."""
        return self.moving > 0 and not self.is_combed

    @property
    def fits_top(self) -> bool:
        """Whether the top field fits the bottom field of the frame before, and only that."""
        return self.top * CLEAR < min(self.own, self.bottom)

    @property
    def fits_bottom(self) -> bool:
        """Whether the bottom field fits the top field of the frame before, and only that."""
        return self.bottom * CLEAR < min(self.own, self.top)


def read_luma(frame: VideoFrame) -> Luma:
    """Return the brightness of a frame, whatever its pixel format."""
    name = frame.format.name
    is_planar = name.startswith(("yuv", "gray", "nv", "p010", "p210")) and not name.endswith(("be", "f32le"))
    if not is_planar:
        frame = frame.reformat(format="gray", threads=1)
    bits = frame.format.components[0].bits
    plane = frame.planes[0]
    stored = np.frombuffer(cast("Any", plane), np.uint8 if bits <= 8 else np.uint16).reshape(plane.height, -1)
    picked = stored[:, : frame.width : max(1, frame.width // COLUMNS)]
    shift = (8 if name.startswith("p") else bits - 8) if bits > 8 else 0
    return (picked >> shift).astype(np.int16)


def measure_combs(top: Luma, bottom: Luma, moving: NDArray[np.bool_]) -> Blocks:
    """Return the strength of the combs, by block, of the even lines of `top` with the odd lines of `bottom`."""
    woven = top
    if bottom is not top:
        woven = top.copy()
        woven[1::2] = bottom[1::2]
    strength, within = _measure_detail(woven)
    strength -= within
    strength -= DEAD_ZONE
    np.maximum(strength, 0, out=strength)
    strength *= moving
    return sum_blocks(strength)


def _measure_detail(luma: Luma) -> tuple[Luma, Luma]:
    """Return the difference of each line to those beside it, and to those beside it in its field."""
    middle = 2 * luma[2:-2]
    between, within = luma[1:-3] + luma[3:-1], luma[:-4] + luma[4:]
    for detail in (between, within):  # in place: new arrays cost a young process more than the arithmetic
        np.abs(np.subtract(detail, middle, out=detail), out=detail)
    return between, within


def find_motion(before: Luma, after: Luma) -> NDArray[np.bool_]:
    """Return where two frames differ, in one of three neighbouring lines. Without the two lines at either edge."""
    differs = np.abs(after - before) > MOTION
    return differs[2:-2] | differs[1:-3] | differs[3:-1]


def sum_blocks(values: NDArray[np.int16] | NDArray[np.bool_]) -> Blocks:
    """Return the sum of the values in each block; those at the bottom and on the right may be smaller."""
    height, width = values.shape
    whole = height // BLOCK * BLOCK
    rows = values[:whole].reshape(-1, BLOCK, width).sum(1, dtype=np.int32)
    if whole < height:
        rows = np.concatenate([rows, values[whole:].sum(0, dtype=np.int32)[None]])
    return np.add.reduceat(rows, range(0, width, BLOCK), axis=1, dtype=np.int64)


def compare_fields(frame: Luma, before: Luma) -> Evidence:
    """Return what a frame shows about its fields, compared with the frame before it."""
    motion = find_motion(frame, before)
    if not motion.any():
        return Evidence()
    own = measure_combs(frame, frame, motion)
    top = measure_combs(frame, before, motion)
    # Ordinary videos end here: without combs, what the other combination shows makes no difference.
    bottom = measure_combs(before, frame, motion) if (own >= MIN_SUM).any() else top
    strongest = np.maximum(np.maximum(own, top), bottom)
    least = np.maximum(MIN_STRENGTH * sum_blocks(motion), MIN_SUM)
    combed = (own >= least) & (own * VISIBLE > strongest)
    if not combed.any():
        return Evidence(int((strongest >= least).sum()))
    around = widen_blocks(combed)
    between, within = (sum_blocks(difference * motion)[combed].sum() for difference in _measure_detail(frame))
    return Evidence(
        moving=int((strongest >= least).sum()),
        combed=int(combed.sum()),
        own=int(own[around].sum()),
        top=int(top[around].sum()),
        bottom=int(bottom[around].sum()),
        is_plain=bool(within < PLAIN * between),
    )


def widen_blocks(chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the chosen blocks and those around them: what moves fast is in one block now and was in another before."""
    padded = np.pad(chosen, 1)
    rows = padded[:-2] | padded[1:-1] | padded[2:]
    return rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]


def has_combs(frame: Luma, *neighbours: Luma | None) -> bool:
    """Return whether any part of a frame that moved since, or will move until, a neighbouring frame is combed."""
    return any(compare_fields(frame, other).combed for other in neighbours if other is not None)


def has_combs_alone(frame: Luma) -> bool:
    """Return whether a frame without neighbours has strong combs."""
    everywhere = np.ones((max(0, frame.shape[0] - 4), frame.shape[1]), np.bool_)
    return everywhere.size > 0 and bool(
        (measure_combs(frame, frame, everywhere) > ALONE_STRENGTH * sum_blocks(everywhere)).any()
    )
