"""The search for the quality at which a segment has a given size."""

import math
from collections.abc import Mapping

from composition.media.encoders import Encoder, clamp_crf
from composition.media.encoding import Codec

MAX_TRIES = 5
"""Encodings of one segment."""
CLOSE = 0.06
"""Relative difference from the wanted size at which the search ends."""
SLOPES: Mapping[Codec, float] = {"h264": math.log(2) / 6, "hevc": math.log(2) / 6, "av1": math.log(2) / 10}
"""Codec → typical decrease of the logarithm of the size for each step of quality."""
MAX_SLOPE, MIN_SLOPE = 0.5, 0.02


class BitrateSearch:
    """Chooses the qualities at which a segment is encoded, until its size is close to the wanted one.

    Encoders' own rate control needs a longer video than a segment to come near a bitrate. The search depends only on
    the sizes that it gets, so that it is the same whenever a segment is encoded again.

    Args:
        encoder: the encoder; the search begins with its default quality.
        wanted: size of the segment in bytes.
    """

    def __init__(self, encoder: Encoder, wanted: float) -> None:
        self._codec: Codec = encoder.codec
        self._wanted = math.log(wanted)
        self._next: float | None = float(encoder.default_crf)
        self._tried: dict[float, float] = {}
        self.best = b""
        """The segment nearest to the wanted size so far."""

    @property
    def next(self) -> float | None:
        """The quality to encode with next; None if the search has ended."""
        return self._next

    def add(self, crf: float, segment: bytes) -> None:
        """Add the segment that was encoded with a quality."""
        error = math.log(len(segment)) - self._wanted
        if not self._tried or abs(error) < min(map(abs, self._tried.values())):
            self.best = segment
        self._tried[crf] = error
        proposed = clamp_crf(self._codec, self._propose())
        ended = abs(error) < CLOSE or len(self._tried) == MAX_TRIES or proposed in self._tried
        self._next = None if ended else proposed

    def _propose(self) -> float:
        """Return the quality at which the size would be right if its logarithm were linear in the quality."""
        crf, error = min(self._tried.items(), key=lambda item: abs(item[1]))
        opposite = [(other, wrong) for other, wrong in self._tried.items() if wrong * error < 0]
        others = opposite or [(other, wrong) for other, wrong in self._tried.items() if other != crf]
        slope = SLOPES[self._codec]
        if others:
            other, wrong = min(others, key=lambda item: abs(item[1]))
            slope = min(MAX_SLOPE, max(MIN_SLOPE, (wrong - error) / (crf - other)))
        return crf + error / slope
