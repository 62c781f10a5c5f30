"""Converting decoded frames to RGB: colour matrix and range, transparency, orientation."""

from typing import Any, cast

import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from services.frames import Pixels

RUN_BYTES = 64 << 20
"""Maximum size of a run of more than one frame, in bytes of pixels."""
SWSCALE_MATRICES = frozenset({1, 4, 5, 6, 7, 9})
"""Colour matrices (ISO/IEC 23091-2) that swscale supports: BT.709, FCC, BT.601 twice, SMPTE 240M, BT.2020."""
DECORD_MATRICES = frozenset({1, 5, 6})
"""Colour matrices for which decord was measured to give the same pixels."""
SD_CODECS = frozenset({"mjpeg", "webp", "vp8"})
"""Codecs whose specification prescribes BT.601 for every size."""


class RgbConverter:
    """Converts the frames of a stream to RGB, all in the size and orientation of the first.

    A frame without a colour matrix is taken as BT.709 if it is wider than 1279 or higher than 576 pixels, else as
    BT.601, as in browsers and mpv; FFmpeg and decord always take BT.601. A frame without a range is taken as limited
    range. Transparent frames are composited on black. Non-square pixels are not corrected.

    Args:
        first: the first frame of the stream.
        codec: FFmpeg's name of the codec.
        mirrored: whether the file header has a mirrored orientation.
    """

    def __init__(self, first: VideoFrame, codec: str, *, mirrored: bool) -> None:
        self._width, self._height = first.width, first.height
        self._sd = codec in SD_CODECS or (first.width < 1280 and first.height <= 576)
        self._mirrored = mirrored or _is_display_mirrored(first)
        self._quarters = round(first.rotation / 90) % 4  # counterclockwise
        self._transparent = first.format.has_palette or any(part.is_alpha for part in first.format.components)
        self._reformatter = VideoReformatter()
        upright = not self._mirrored and self._quarters == 0
        known = first.colorspace in DECORD_MATRICES or (first.colorspace not in SWSCALE_MATRICES and self._sd)
        opaque = not self._transparent and first.format.name.startswith("yuv")
        self.matches_decord = upright and opaque and known and not first.interlaced_frame
        """Whether decord converts to the same pixels."""

    @property
    def size(self) -> tuple[int, int]:
        """Displayed width and height in pixels."""
        return (self._height, self._width) if self._quarters % 2 else (self._width, self._height)

    def convert(self, frame: VideoFrame) -> Pixels:
        """Return a frame as (height, width, 3) uint8 RGB, possibly not contiguous. Raises FFmpegError."""
        guess = None
        if not frame.format.is_rgb and frame.colorspace not in SWSCALE_MATRICES:
            guess = Colorspace.ITU601 if self._sd else Colorspace.ITU709
        form = "rgba" if self._transparent else "rgb24"
        converted = self._reformatter.reformat(
            frame, self._width, self._height, form, src_colorspace=guess, dst_color_range=ColorRange.JPEG, threads=1
        )
        pixels = np.asarray(converted.to_ndarray(), np.uint8)  # (h, w, 3 or 4)
        if self._transparent:
            alpha = pixels[..., 3:].astype(np.uint16)
            pixels = ((pixels[..., :3] * alpha + 127) // 255).astype(np.uint8)
        return np.rot90(pixels[::-1] if self._mirrored else pixels, self._quarters)


def _is_display_mirrored(frame: VideoFrame) -> bool:
    """Whether the display matrix mirrors. FFmpeg splits it into a vertical flip and a rotation by `rotation`."""
    try:
        matrix = cast("Any", frame.side_data).get(SideDataType.DISPLAYMATRIX)
    except ValueError:  # PyAV cannot read any side data if it does not know the type of one
        return False
    if matrix is None:
        return False
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].astype(np.int64)  # 16.16 fixed point
    return bool(a * d < b * c)
