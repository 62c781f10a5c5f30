"""What makes the seam between a clip and its continuation invisible: the same shape, and the same colours."""

from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from composition.media.encode import resize_frames
from services.frames import Frames, Pixels
from services.framing import place_picture
from services.limits import PictureFit

FLAT = 1.0
"""Spread in levels below which a channel counts as flat: its spread is noise, and is not corrected."""
MAX_GAIN = 2.0
"""Largest factor by which a spread is corrected, and its inverse the smallest."""
SEAM_FRAMES = 8
"""Number of frames behind the seam that are compared with the clip's last frame on their own."""

Levels: TypeAlias = NDArray[np.float64]
"""(3, 256): the corrected level of each level of red, green and blue, not rounded."""


def restore_shape(frames: Frames, width: int, height: int, fit: PictureFit) -> Frames:
    """Return frames of a continuation at the size of the clip, so that what the clip shows keeps its place and shape.

    With `pad`, bars around the picture are cut off. With `crop`, the frames are put back where they were cut out, and
    their edge pixels fill the borders that were lost. With `stretch`, the frames are stretched back.

    Args:
        frames: a run of the continuation.
        width, height: size of the clip in pixels.
        fit: how the clip's last frame was fitted into the frames.
    """
    if fit == "crop":
        box = place_picture(frames.width, frames.height, width, height)
        sized = resize_frames(frames, box.width, box.height)
        return replace(sized, pixels=box.surround(sized.pixels, width, height))
    return resize_frames(_cut_bars(frames, width, height, fit), width, height)


def _cut_bars(frames: Frames, width: int, height: int, fit: PictureFit) -> Frames:
    if fit != "pad":
        return frames
    box = place_picture(width, height, frames.width, frames.height)
    return replace(frames, pixels=box.cut(frames.pixels))


class ColourMatch:
    """Gives a continuation the colours of the clip's last frame.

    The first frame of a continuation shows the clip's last frame as the model made it. Each channel of a frame is
    scaled and shifted, so that the mean and the spread (standard deviation) of this first frame become those of the
    clip's last frame. A spread is corrected by a factor of 2 at most, that of a flat channel not at all.

    The frames behind the seam still flicker on their own, so each is also compared with the clip's last frame, with a
    weight that falls from 1 at the seam to 0 after SEAM_FRAMES frames.

    Args:
        last: the clip's last frame.
        fit: how it was fitted into the frames of the continuation.
    """

    def __init__(self, last: Frames, fit: PictureFit) -> None:
        self._last = last
        self._fit: PictureFit = fit
        self._levels: Levels | None = None
        """The corrected levels by the first frame."""

    def apply(self, frames: Frames) -> Frames:
        """Return a run with corrected colours. The first run must be that of frame 0.

        Raises:
            ValueError: the first run does not begin with frame 0.
        """
        if self._levels is None:
            if frames.first != 0:
                raise ValueError(f"frames: the first run must begin with frame 0, got {frames.first}")
            self._levels = self._compare(next(frames.split()))
        pixels = np.empty_like(frames.pixels)
        for frame, corrected in zip(frames.split(), pixels, strict=True):
            levels = self._mix_levels(frame, self._levels)
            for channel in range(3):
                corrected[..., channel] = levels[channel][frame.pixels[0, ..., channel]]
        return replace(frames, pixels=pixels)

    def _mix_levels(self, frame: Frames, levels: Levels) -> NDArray[np.uint8]:
        """Return the corrected levels of a frame: those by the first frame, near the seam mixed with its own."""
        weight = 1 - max(0, frame.first - 1) / SEAM_FRAMES
        mixed = levels if weight <= 0 else weight * self._compare(frame) + (1 - weight) * levels
        return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)

    def _compare(self, frame: Frames) -> Levels:
        """Compare a frame with what it shows of the clip, at the same size, so that blur is no difference."""
        shown, made = self._last, _cut_bars(frame, self._last.width, self._last.height, self._fit)
        if self._fit == "crop":
            box = place_picture(frame.width, frame.height, shown.width, shown.height)
            shown = Frames(box.cut(shown.pixels))
        shown = resize_frames(shown, made.width, made.height)
        return np.stack([_match_levels(made.pixels[..., channel], shown.pixels[..., channel]) for channel in range(3)])


def _match_levels(made: Pixels, wanted: Pixels) -> NDArray[np.float64]:
    """Return the level, (256,), by which to replace each level of a channel."""
    spread = float(made.std())
    gain = float(np.clip(float(wanted.std()) / spread, 1 / MAX_GAIN, MAX_GAIN)) if spread > FLAT else 1.0
    return (np.arange(256) - made.mean(dtype=np.float64)) * gain + wanted.mean(dtype=np.float64)
