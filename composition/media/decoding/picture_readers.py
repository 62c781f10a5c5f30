"""Decoding HEIF with libheif, AVIF with libavif and animated WebP with libwebp.

Runs only in decoder processes (`composition.media.decoding.worker`): files are untrusted, and the libraries are native
code. They are imported when a file needs them.
"""

import io
import struct
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from composition.media.cost import FrameForm, estimate_animation
from composition.media.decoding.headers import Library, Limits, read_header
from composition.media.decoding.media_file import THREADS
from composition.media.decoding.picture_file import PictureReader
from composition.media.decoding.picture_tags import PictureTags
from composition.media.decoding.presentation import read_believable_aspect
from composition.media.decoding.timing import SHORT_S, USUAL_S
from services.errors import LimitExceeded, UndecodableMedia

FORMS = {("u", 3): "rgb24", ("u", 4): "rgba", ("d", 3): "rgb48le", ("d", 4): "rgba64le"}
"""Depth (`u` is 8 bits, `d` is 16) and channels → FFmpeg's name of the pixel format."""
HEADER_BYTES = 1 << 20
"""Size of the beginning of an AVIF file that is searched for its colours."""
LIBRARY_BITS, DEEP_LIBRARY_BITS = 72, 144
"""Bits that a pixel takes inside of a library, for samples of 8 bits and for deeper ones: planes, tiles and copies."""
WEBP_HEAD_BYTES = 30
"""Size of the beginning of a WebP file that tells the size of the picture."""
FAILURES = (OSError, ValueError, SyntaxError, EOFError, RuntimeError, IndexError, KeyError, TypeError, struct.error)
"""Exceptions that pi_heif and Pillow raise for damaged files."""


def open_picture_reader(source: str | bytes, library: Library, limits: Limits) -> PictureReader:
    """Open a file with a library. Raises UndecodableMedia, LimitExceeded."""
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    if library == "webp":
        return WebpReader(data, limits)
    return HeifReader(data) if library == "heif" else AvifReader(data, limits)


class HeifReader:
    """The primary picture of a HEIF file. libheif joins its tiles, and turns and mirrors it."""

    codec = "hevc"
    damaged: str | None = None

    def __init__(self, data: bytes) -> None:
        import pi_heif  # pyright: ignore[reportMissingTypeStubs]

        self.durations = [0]
        library = cast("Any", pi_heif)
        options = library.options
        options.DECODE_THREADS = THREADS
        options.THUMBNAILS = options.DEPTH_IMAGES = options.AUX_IMAGES = False
        with name_failures("the HEIC picture"):
            file = library.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False)
            self._picture = file[file.primary_index]
            self.size: tuple[int, int] = self._picture.size
        self.file_bytes = len(data)
        mode: str = self._picture.mode
        is_deep = ";" in mode
        bits = DEEP_LIBRARY_BITS if is_deep else LIBRARY_BITS
        self.form = FrameForm(*self.size, bits, self.codec, has_alpha="A" in mode.upper(), is_deep=is_deep)
        info: Mapping[str, Any] = self._picture.info
        self.pixel_aspect = read_believable_aspect(*info.get("pixel_aspect_ratio", (1, 1)))
        self.tags = PictureTags(info.get("icc_profile"))
        colours: Mapping[str, Any] = info.get("nclx_profile", {})
        self._primaries = int(colours.get("color_primaries", 2))
        self._transfer = int(colours.get("transfer_characteristics", 2))

    def read_frame(self, position: int) -> VideoFrame:
        """Return the picture."""
        with name_failures("the HEIC picture"):
            pixels = np.asarray(self._picture)
        if self._picture.premultiplied_alpha:
            pixels = _divide_alpha(pixels)
        return make_frame(pixels, self._primaries, self._transfer)


class AvifReader:
    """An AVIF picture, or the frames of an AVIF sequence."""

    codec = "av1"
    damaged: str | None = None

    def __init__(self, data: bytes, limits: Limits) -> None:
        self.pixel_aspect = Fraction(1)
        with name_failures("the AVIF picture"):
            self._picture = open_picture(data, "AVIF")
            self.size: tuple[int, int] = self._picture.size
        self.tags = PictureTags(self._picture.info.get("icc_profile"))
        self._primaries, self._transfer = _find_colours(data)
        self.file_bytes = len(data)
        self.form = FrameForm(*self.size, LIBRARY_BITS, self.codec, has_alpha="A" in self._picture.mode)
        frames: int = self._picture.n_frames
        limits.check_size(*self.size)
        limits.check_length(frames, 0, "according to its header")
        if frames > 1:
            limits.require(estimate_animation(self.form, len(data), frames))
        self.durations = [self._measure_frame(position) for position in range(frames)] if frames > 1 else [0]

    def _measure_frame(self, position: int) -> int:
        """Return the duration of a frame in milliseconds, which libavif tells when it has decoded it."""
        with name_failures("the AVIF sequence"):
            self._picture.seek(position)
            self._picture.load()
        return prolong_duration(self._picture.info["duration"])

    def read_frame(self, position: int) -> VideoFrame:
        """Return a frame, turned and mirrored."""
        from PIL import ImageOps

        with name_failures("the AVIF picture"):
            self._picture.seek(position)
            pixels = np.asarray(ImageOps.exif_transpose(self._picture))
        return make_frame(pixels, self._primaries, self._transfer)


class WebpReader:
    """The frames of an animated WebP. A truncated one is read as far as its frames are complete."""

    codec = "webp"

    def __init__(self, data: bytes, limits: Limits) -> None:
        self.pixel_aspect = Fraction(1)
        whole, self.durations = _list_webp_frames(data, limits)
        self.file_bytes = len(data)
        self.size: tuple[int, int] = read_header(data[:WEBP_HEAD_BYTES]).size or (0, 0)
        limits.check_size(*self.size)
        self.form = FrameForm(*self.size, LIBRARY_BITS, self.codec, has_alpha=True)
        limits.require(estimate_animation(self.form, len(data), len(self.durations)))
        self.damaged = None if whole is data else f"truncated: the first {len(self.durations)} frames are complete"
        with name_failures("the WebP animation"):
            self._picture = open_picture(whole, "WEBP")
        self.tags = PictureTags(self._picture.info.get("icc_profile"))

    def read_frame(self, position: int) -> VideoFrame:
        """Return a frame, composed from those before it. Reading in order is fast."""
        from PIL import ImageOps

        with name_failures("the WebP animation"):
            self._picture.seek(position)
            pixels = np.asarray(ImageOps.exif_transpose(self._picture))
        return make_frame(pixels)


@contextmanager
def name_failures(what: str) -> Generator[None]:
    """Raise UndecodableMedia instead of what a library raises for a damaged file."""
    try:
        yield
    except FAILURES as error:
        raise UndecodableMedia(
            f"{what} cannot be decoded: the file is truncated, damaged or of an unsupported kind"
        ) from error


def open_picture(data: bytes, form: str) -> Any:
    """Open a picture with Pillow, which reads its header. The limits of the caller count, not Pillow's."""
    from PIL import Image

    try:
        return Image.open(io.BytesIO(data), formats=(form,))
    except Image.DecompressionBombError as error:
        raise LimitExceeded(f"the picture has too many pixels: {error}") from error


def make_frame(pixels: NDArray[Any], primaries: int = 2, transfer: int = 2) -> VideoFrame:
    """Return pixels as a frame.

    Args:
        pixels: (height, width) grey, or (height, width, 1 to 4) grey or RGB with or without alpha; uint8 or uint16.
        primaries, transfer: code numbers of ISO/IEC 23091-2; 2 if unknown.
    """
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.shape[2] < 3:
        pixels = np.concatenate([np.repeat(pixels[..., :1], 3, 2), pixels[..., 1:]], 2)
    form = FORMS["u" if pixels.dtype == np.uint8 else "d", pixels.shape[2]]
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), form)
    frame.color_primaries, frame.color_trc = cast("Any", primaries), cast("Any", transfer)
    return frame


def prolong_duration(duration: int) -> int:
    """Return the milliseconds for which browsers show a frame of an animation."""
    return duration if duration * Fraction(1, 1000) > SHORT_S else int(USUAL_S * 1000)


def _divide_alpha(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return (height, width, 4) pixels whose colours are not multiplied by alpha."""
    most = np.iinfo(pixels.dtype).max
    alpha = np.maximum(pixels[..., 3:], 1).astype(np.uint32)
    colours = np.minimum((pixels[..., :3].astype(np.uint32) * most + alpha // 2) // alpha, most)
    return np.concatenate([colours.astype(pixels.dtype), pixels[..., 3:]], 2)


def _find_colours(data: bytes) -> tuple[int, int]:
    """Return the code numbers of primaries and transfer function in the first `colr` box of type `nclx`."""
    at = data.find(b"colrnclx", 0, HEADER_BYTES)
    return struct.unpack_from(">HH", data, at + 8) if 0 <= at <= len(data) - 12 else (2, 2)


def _list_webp_frames(data: bytes, limits: Limits) -> tuple[bytes, list[int]]:
    """Return an animated WebP without what is behind its last complete frame, and the durations of its frames.

    Raises UndecodableMedia, LimitExceeded.
    """
    durations: list[int] = []
    at = end = 12
    stop = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, at)
        padded = size + size % 2
        if at + 8 + size > len(data):
            break
        if kind == b"ANMF":
            durations.append(prolong_duration(int.from_bytes(data[at + 20 : at + 23], "little")))
            limits.check_length(len(durations), 0, "or more")
        at = end = at + 8 + padded
        if end >= stop:
            break
    if not durations:
        raise UndecodableMedia("the WebP animation is truncated before its first frame is complete")
    if len(data) >= 8 + int.from_bytes(data[4:8], "little"):
        return data, durations
    return b"RIFF" + struct.pack("<I", end - 8) + data[8:end], durations
