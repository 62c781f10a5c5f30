"""Where the frames of a graph are shown behind a clip."""

from fractions import Fraction

import numpy as np
import pytest

from composition.jobs.attempt import ClipEnd
from services.frames import Frames

RUN = Frames(np.zeros((2, 4, 4, 3), np.uint8), 3, Fraction(16))


@pytest.mark.parametrize(
    ("last", "end", "begin"),
    [
        # A fast clip: its last frame, which is the continuation's first, is shown as long as one of the continuation.
        (Fraction(239, 240), Fraction(1), Fraction(239, 240) + Fraction(1, 16)),
        (Fraction(15, 16), Fraction(1), Fraction(1)),
        # A last frame that stays is shown to its end.
        (Fraction(1), Fraction(5, 2), Fraction(5, 2)),
    ],
)
def test_a_continuation_begins_behind_the_last_frame(last: Fraction, end: Fraction, begin: Fraction) -> None:
    run = ClipEnd(40, last, end).append(RUN)
    assert (run.first, run.rate, run.count) == (43, Fraction(16), 2)
    assert run.times == tuple(begin + Fraction(n, 16) for n in (3, 4, 5))
    assert run.pixels is RUN.pixels
