"""Frames whose size or rotation changes within a video: all are shown in the size of the first, none is stretched."""

from collections import OrderedDict
from collections.abc import Mapping

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from composition.media.decoding.pixels import RgbConverter
from composition.media.decoding.presentation import Presentation
from services.frames import Pixels

Shape = tuple[int, int, int]
"""Stored width and height in pixels, and rotation in degrees."""
MAX_CONVERTERS = 4
"""Number of shapes whose converters are kept."""
MAX_TOLD = 3
"""Number of sizes that the facts name."""


class FrameConverter:
    """Converts the frames of a stream to RGB in the displayed size of the first.

    A frame of another size is scaled to fit, centred, with black bars. Its colours are converted as
    `composition.media.decoding.pixels.RgbConverter` does.

    Args:
        first: the first frame of the stream.
        shown: what the file says about the display.
    """

    def __init__(self, first: VideoFrame, shown: Presentation) -> None:
        self._shown = shown
        self._first = RgbConverter(first, shown)
        self._shape = _find_shape(first)
        self._others: OrderedDict[Shape, RgbConverter] = OrderedDict()
        self._sizes: dict[tuple[int, int], None] = {}
        self._resizer = VideoReformatter()
        self.size = self._first.size
        """Displayed width and height in pixels."""

    @property
    def changes(self) -> Mapping[str, str | bool]:
        """What is changed for display, as in `composition.media.decode.MediaFacts.changes`."""
        changes = dict(self._first.changes)
        for other in self._others.values():
            changes = {**other.changes, **changes}
        if self._sizes:
            told = [f"{width}x{height}" for width, height in self._sizes][: MAX_TOLD + 1]
            others = ", ".join(told[:MAX_TOLD]) + (" and others" if len(told) > MAX_TOLD else "")
            changes["resized"] = f"{self.size[0]}x{self.size[1]} to {others}"
        return changes

    @property
    def matches_decord(self) -> bool:
        """Whether decord converts to the same pixels."""
        return self._first.matches_decord and not self._others

    def notice(self, frame: VideoFrame) -> RgbConverter:
        """Return the converter for a frame, and add the frame's size to the facts."""
        shape = _find_shape(frame)
        if shape == self._shape:
            return self._first
        if shape not in self._others:
            self._others[shape] = RgbConverter(frame, self._shown)
            while len(self._others) > MAX_CONVERTERS:
                self._others.popitem(last=False)
        converter = self._others[shape]
        if converter.size != self.size and len(self._sizes) <= MAX_TOLD:
            self._sizes[converter.size] = None
        return converter

    def convert(self, frame: VideoFrame) -> Pixels:
        """Return a frame as (height, width, 3) uint8 RGB, possibly not contiguous. Raises FFmpegError."""
        return self._fit(self.notice(frame).convert(frame))

    def convert_straight(self, frame: VideoFrame) -> Pixels:
        """Return a frame as (height, width, 4) uint8, RGB that is not multiplied by alpha, and alpha.

        Raises FFmpegError.
        """
        return self._fit(self.notice(frame).convert_straight(frame))

    def _fit(self, pixels: Pixels) -> Pixels:
        """Return (height, width, channels) pixels in the size of the first frame."""
        width, height = self.size
        if pixels.shape[:2] == (height, width):
            return pixels
        scale = min(width / pixels.shape[1], height / pixels.shape[0])
        inner = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24" if pixels.shape[2] == 3 else "rgba")
        resized = self._resizer.reformat(frame, *inner, interpolation=Interpolation.BICUBIC, threads=1).to_ndarray()
        fitted = np.zeros((height, width, pixels.shape[2]), np.uint8)
        left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
        fitted[top : top + inner[1], left : left + inner[0]] = resized
        return fitted


def _find_shape(frame: VideoFrame) -> Shape:
    return frame.width, frame.height, round(frame.rotation)
