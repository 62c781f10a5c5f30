"""Converting decoded frames to what a viewer would see: colours, square pixels, transparency, orientation."""

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from composition.media.backgrounds import parse_background
from composition.media.decoding.colour import BT2020, ColourTable, identify_colour
from composition.media.decoding.presentation import Presentation, find_square_size
from composition.media.decoding.profiles import Profile, open_profile, read_cmyk
from services.frames import Pixels

RUN_BYTES = 64 << 20
"""Maximum size of a run of more than one frame, in bytes of pixels."""
SWSCALE_MATRICES = frozenset({1, 4, 5, 6, 7, 9})
"""Colour matrices (ISO/IEC 23091-2) that swscale supports: BT.709, FCC, BT.601 twice, SMPTE 240M, BT.2020."""
DECORD_MATRICES = frozenset({1, 5, 6})
"""Colour matrices for which decord was measured to give the same pixels."""
SD_CODECS = frozenset({"mjpeg", "webp", "vp8"})
"""Codecs whose specification prescribes BT.601 for every size."""
RESIZING = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT
"""How frames are resized. Without full chroma, swscale's colours are up to 3 levels too dark."""
UNTOLD = frozenset({"gif", "apng", "png", "webp"})
"""Codecs whose frames have an alpha channel whether or not a pixel is transparent, so that the pixels must be seen."""


class RgbConverter:
    """Converts the frames of a stream to RGB, all in the size and orientation of the first.

    HDR is tone-mapped, wide primaries and ICC profiles are converted to sRGB, pixels are made square by enlarging one
    side, and transparent frames are composited. A frame without a colour matrix is taken as BT.2020 if its primaries
    are, else as BT.709 if it is wider than 1279 or higher than 576 pixels, else as BT.601, as in browsers and mpv;
    FFmpeg and decord always take BT.601. A frame without a range is taken as limited range.

    Args:
        first: the first frame of the stream.
        shown: what the file says about the display.
    """

    def __init__(self, first: VideoFrame, shown: Presentation) -> None:
        self._shown = shown
        self._stored = first.width, first.height
        self._square = find_square_size(first.width, first.height, shown.pixel_aspect)
        self._background = np.array(parse_background(shown.background), np.uint16)
        self._sd = shown.codec in SD_CODECS or (first.width < 1280 and first.height <= 576)
        self._mirrored = _is_display_mirrored(first) if shown.tags is None else shown.tags.is_mirrored
        self._quarters = round(first.rotation / 90) % 4  # counterclockwise
        self._reformatter, self._resizer, self._narrower = (VideoReformatter() for _ in range(3))
        self._source = identify_colour(first)
        self._tables: dict[tuple[str, tuple[int, int]], ColourTable] = {}
        self._profile = None if self._source.changes else _open_profile(first, shown)
        self._cmyk: Pixels | None = None
        if self._profile is not None and self._profile.mode == "CMYK":
            self._cmyk = read_cmyk(shown.source)
            self._profile = None if self._cmyk is None else self._profile
        self._changes: dict[str, str | bool] = {**self._source.changes}
        if self._profile is not None:
            self._changes["colours"] = f"icc: {self._profile.name}"
        if self._square != self._stored:
            ratio = shown.pixel_aspect
            self._changes["pixel_aspect"] = f"{ratio.numerator}:{ratio.denominator}"
        if self._has_alpha(first) and (shown.codec not in UNTOLD or self._is_seen_through(first)):
            self._tell_alpha()
        known = first.colorspace in DECORD_MATRICES or (first.colorspace not in SWSCALE_MATRICES and self._sd)
        upright = not self._mirrored and self._quarters == 0
        is_plain = not self._changes and not has_alpha(first) and first.format.name.startswith("yuv")
        self.matches_decord = upright and is_plain and known and not first.interlaced_frame
        """Whether decord converts to the same pixels."""

    @property
    def size(self) -> tuple[int, int]:
        """Displayed width and height in pixels."""
        width, height = self._square
        return (height, width) if self._quarters % 2 else (width, height)

    @property
    def changes(self) -> Mapping[str, str | bool]:
        """What is changed for display, as in `composition.media.decode.MediaFacts.changes`.

        `alpha` is added when the first transparent pixel is seen.
        """
        return self._changes

    def convert(self, frame: VideoFrame) -> Pixels:
        """Return a frame as (height, width, 3) uint8 RGB, possibly not contiguous. Raises FFmpegError."""
        if not self._has_alpha(frame):
            return self._orient(self._convert_colours(frame, "rgb24", self._square))
        pixels = self._convert_colours(frame, "rgba", self._stored)
        return self._orient(self._resize(self._composite(pixels)))

    def convert_straight(self, frame: VideoFrame) -> Pixels:
        """Return a frame as (height, width, 4) uint8, RGB that is not multiplied by alpha, and alpha.

        Raises FFmpegError.
        """
        pixels = self._convert_colours(frame, "rgba", self._stored)
        if self._square != self._stored:
            colours, alpha = self._resize(pixels[..., :3]), self._resize(np.repeat(pixels[..., 3:], 3, 2))
            pixels = np.concatenate([colours, alpha[..., :1]], 2)
        return self._orient(pixels)

    def _convert_colours(self, frame: VideoFrame, form: str, size: tuple[int, int]) -> Pixels:
        """Return a frame as (height, width, channels) sRGB in stored orientation."""
        if self._shown.codec == "mjpeg" and has_alpha(frame):
            return self._convert_cmyk(frame, form)
        if not self._source.changes:
            pixels = np.asarray(self._reformat(frame, form, size).to_ndarray(), np.uint8)
            return pixels if self._profile is None else _apply_profile(pixels, self._profile)
        if (form, size) not in self._tables:
            self._tables[form, size] = ColourTable(self._source, *size, has_alpha=form == "rgba")
        table = self._tables[form, size]
        converted = table.convert(self._reformat(frame, table.format, size))
        return np.asarray(self._narrower.reformat(converted, format=form, threads=1).to_ndarray(), np.uint8)

    def _reformat(self, frame: VideoFrame, form: str, size: tuple[int, int]) -> VideoFrame:
        """Return a frame as RGB of a format, with its own primaries and transfer function."""
        return self._reformatter.reformat(
            frame,
            *size,
            form,
            src_colorspace=self._guess_matrix(frame),
            interpolation=None if size == (frame.width, frame.height) else RESIZING,
            dst_color_range=ColorRange.JPEG,
            threads=1,
        )

    def _guess_matrix(self, frame: VideoFrame) -> Colorspace | None:
        """Return the colour matrix of a frame that does not name a supported one, else None."""
        if frame.format.is_rgb or frame.colorspace in SWSCALE_MATRICES:
            return None
        if self._source.primaries == BT2020:
            return Colorspace.BT2020
        return Colorspace.ITU601 if self._sd else Colorspace.ITU709

    def _convert_cmyk(self, frame: VideoFrame, form: str) -> Pixels:
        """Return a CMYK JPEG. FFmpeg decodes cyan, magenta and yellow to RGB, and black to alpha."""
        if self._profile is not None and self._cmyk is not None:
            colours = self._profile.convert(self._cmyk)
        else:
            pixels = np.asarray(self._reformat(frame, "rgba", self._square).to_ndarray(), np.uint16)
            colours = ((pixels[..., :3] * pixels[..., 3:] + 127) // 255).astype(np.uint8)
        opaque = np.full((*colours.shape[:2], 1), 255, np.uint8)
        return colours if form == "rgb24" else np.concatenate([colours, opaque], 2)

    def _composite(self, pixels: Pixels) -> Pixels:
        """Return (height, width, 4) pixels composited on the background, (height, width, 3)."""
        alpha = pixels[..., 3:].astype(np.uint16)
        if alpha.min() == 255:
            return pixels[..., :3]
        self._tell_alpha()
        mixed = pixels[..., :3] * alpha + self._background * (255 - alpha) + 127
        return (mixed // 255).astype(np.uint8)

    def _tell_alpha(self) -> None:
        self._changes["alpha"] = f"on {self._shown.background}"

    def _has_alpha(self, frame: VideoFrame) -> bool:
        """Whether a frame has an alpha channel. JPEG has none, though FFmpeg returns one for CMYK."""
        return self._shown.codec != "mjpeg" and has_alpha(frame)

    def _is_seen_through(self, frame: VideoFrame) -> bool:
        """Whether a pixel of a frame is not opaque."""
        return bool(np.asarray(self._reformat(frame, "rgba", self._stored).to_ndarray())[..., 3].min() < 255)

    def _resize(self, pixels: Pixels) -> Pixels:
        """Return (height, width, 3) pixels of the stored size with square pixels."""
        if self._square == self._stored:
            return pixels
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
        resized = self._resizer.reformat(frame, *self._square, interpolation=Interpolation.BICUBIC, threads=1)
        return np.asarray(resized.to_ndarray(), np.uint8)

    def _orient(self, pixels: Pixels) -> Pixels:
        return np.rot90(pixels[::-1] if self._mirrored else pixels, self._quarters)


def drop_opaque(pixels: Pixels) -> Pixels:
    """Return (height, width, 4) pixels as a run of one, contiguous, without alpha if all of them are opaque."""
    is_opaque = pixels[..., 3].min() == 255
    return np.ascontiguousarray(pixels[None, ..., :3] if is_opaque else pixels[None])


def has_alpha(frame: VideoFrame) -> bool:
    """Whether the format of a frame has an alpha channel."""
    return frame.format.has_palette or any(part.is_alpha for part in frame.format.components)


def _apply_profile(pixels: Pixels, profile: Profile) -> Pixels:
    """Return (height, width, 3 or 4) pixels with the colours converted and alpha kept."""
    colours = profile.convert(pixels[..., 0] if profile.mode == "L" else pixels[..., :3])
    return np.concatenate([colours, pixels[..., 3:]], 2)


def _open_profile(frame: VideoFrame, shown: Presentation) -> Profile | None:
    """Return the ICC profile of a stream, if it is for frames of this kind; None if there is none to apply."""
    data = _read_side_data(frame, SideDataType.ICC_PROFILE) if shown.tags is None else shown.tags.profile
    profile = open_profile(data)
    if profile is None:
        return None
    is_grey = frame.format.name.startswith(("gray", "ya", "mono"))
    is_cmyk = shown.tags is not None and shown.codec == "mjpeg" and has_alpha(frame)
    suits = {"L": is_grey, "CMYK": is_cmyk, "RGB": not is_cmyk}[profile.mode]
    return profile if suits else None


def _is_display_mirrored(frame: VideoFrame) -> bool:
    """Whether the display matrix mirrors. FFmpeg splits it into a vertical flip and a rotation by `rotation`."""
    matrix = _read_side_data(frame, SideDataType.DISPLAYMATRIX)
    if matrix is None:
        return False
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].astype(np.int64)  # 16.16 fixed point
    return bool(a * d < b * c)


def _read_side_data(frame: VideoFrame, kind: SideDataType) -> bytes | None:
    """Return one kind of side data of a frame; None if there is none."""
    try:
        data = cast("Any", frame.side_data).get(kind)
    except ValueError:  # PyAV cannot read any side data if it does not know the type of one
        return None
    return None if data is None else bytes(data)
