"""What a file says about the display of its frames, and the decoder that returns all of it."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol, cast

from av.codec.context import CodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from composition.media.decoding.picture_tags import PictureTags

SHAPED = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "mpegts"})
"""Formats whose sample aspect ratio counts. In pictures, browsers ignore it, and a print density looks like one."""
MAX_ASPECT = 10
"""Largest sample aspect ratio, and its inverse, that is believed. Beyond, it is taken as a mistake."""
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Codec → the decoder that returns its alpha, which FFmpeg's own decoders drop."""


@dataclass(frozen=True)
class Presentation:
    """What a file says about the display of its frames, and how transparency is to be shown."""

    codec: str
    """FFmpeg's name of the codec."""
    background: str = "white"
    """What transparent frames are composited on, as in `composition.media.backgrounds`."""
    pixel_aspect: Fraction = Fraction(1)
    """Width of a stored pixel divided by its height."""
    source: str | bytes = b""
    """Path or content of the file."""
    tags: PictureTags | None = None
    """The tags of a picture; None for a video, which has them in the side data of its frames."""


def read_pixel_aspect(stream: VideoStream, container_format: str) -> Fraction:
    """Return the sample aspect ratio: that of the container or, if it has none, that of the codec.

    A ratio above 10:1 or below 1:10 is taken as 1.
    """
    ratio = stream.sample_aspect_ratio if container_format in SHAPED else None
    return read_believable_aspect(ratio.numerator, ratio.denominator) if ratio else Fraction(1)


def read_believable_aspect(width: int, height: int) -> Fraction:
    """Return a sample aspect ratio, or 1 if it is above 10:1 or below 1:10 or meaningless."""
    is_believable = min(width, height) > 0 and max(width, height) <= MAX_ASPECT * min(width, height)
    return Fraction(width, height) if is_believable else Fraction(1)


def find_square_size(width: int, height: int, pixel_aspect: Fraction) -> tuple[int, int]:
    """Return the size in square pixels: one side is enlarged, so that no detail is lost.

    Args:
        width, height: stored size in pixels.
        pixel_aspect: width of a stored pixel divided by its height.
    """
    half = Fraction(1, 2)
    if pixel_aspect > 1:
        return int(width * pixel_aspect + half), height
    return width, int(height / pixel_aspect + half)


class FrameDecoder(Protocol):
    """The part of `av.video.codeccontext.VideoCodecContext` that is used here."""

    def decode(self, packet: Any) -> list[VideoFrame]: ...


def choose_decoder(stream: VideoStream, threads: int) -> FrameDecoder:
    """Return the decoder of a stream: its own, or for VP8 and VP9 with alpha a new one that returns the alpha.

    Args:
        stream: the stream, whose decoder's options are used.
        threads: number of threads.
    """
    name = ALPHA_DECODERS.get(stream.codec_context.name)
    tags = {tag.lower(): value for tag, value in stream.metadata.items()}
    if name is None or tags.get("alpha_mode") != "1":
        return stream.codec_context
    context = CodecContext.create(name, "r")
    context.extradata = stream.codec_context.extradata
    context.options = stream.codec_context.options
    context.thread_count = threads
    return cast("FrameDecoder", context)
