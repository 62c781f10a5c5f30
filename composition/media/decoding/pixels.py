"""From a decoded frame to RGB: colour matrix and range, transparency, orientation."""

from typing import Any, cast

import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from services.frames import Pixels

RUN_BYTES = 64 << 20
"""The most pixels in a run of more than one frame."""
SWSCALE_MATRICES = frozenset({1, 4, 5, 6, 7, 9})
"""Matrices (ISO/IEC 23091-2) that swscale converts: BT.709, FCC, BT.601 twice, SMPTE 240M, BT.2020."""
DECORD_MATRICES = frozenset({1, 5, 6})
"""Those of them that decord was found to convert alike."""
SD_CODECS = frozenset({"mjpeg", "webp", "vp8"})
"""BT.601 by their specifications, whatever the size."""


class RgbConverter:
    """Makes RGB of the frames of one stream, all in the size and orientation of its first.

    A frame that names no matrix is BT.709 when it is wider than 1279 or higher than 576, else BT.601. Browsers and mpv
    guess by size like this; FFmpeg, and decord with it, takes BT.601 for everything. One that names no range is
    limited. What is transparent is shown on black. Samples that are not square are left so.

    Args:
        first: a frame of the stream.
        codec: FFmpeg's name of the stream's codec.
        mirrored: whether the file's header says so.
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
        """Whether decord gives the same pixels."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as the frames are shown."""
        return (self._height, self._width) if self._quarters % 2 else (self._width, self._height)

    def convert(self, frame: VideoFrame) -> Pixels:
        """Return (height, width, 3) uint8 RGB, not always contiguous. Raises FFmpegError."""
        guess = None
        if not frame.format.is_rgb and frame.colorspace not in SWSCALE_MATRICES:
            guess = Colorspace.ITU601 if self._sd else Colorspace.ITU709
        form = "rgba" if self._transparent else "rgb24"
        made = self._reformatter.reformat(
            frame, self._width, self._height, form, src_colorspace=guess, dst_color_range=ColorRange.JPEG, threads=1
        )
        pixels = np.asarray(made.to_ndarray(), np.uint8)  # (h, w, 3 or 4)
        if self._transparent:
            alpha = pixels[..., 3:].astype(np.uint16)
            pixels = ((pixels[..., :3] * alpha + 127) // 255).astype(np.uint8)
        return np.rot90(pixels[::-1] if self._mirrored else pixels, self._quarters)


def _is_display_mirrored(frame: VideoFrame) -> bool:
    """Whether the display matrix mirrors. FFmpeg splits it into flipping upside down, then turning by `rotation`."""
    try:
        matrix = cast("Any", frame.side_data).get(SideDataType.DISPLAYMATRIX)
    except ValueError:  # there is side data that PyAV has no name for, and then it tells of none
        return False
    if matrix is None:
        return False
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].astype(np.int64)  # 16.16 fixed point
    return bool(a * d < b * c)
