"""Frames to media: fragmented MP4 segment by segment, a progressive MP4 of them, JPEG, PNG, and other sizes.

Functions block; call them in a thread.
"""

# PyAV's stubs leave the type arguments of Packet out.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import io
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.container import OutputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter
from av.video.stream import VideoStream

from services.frames import Frames, Pixels

THREADS = 4
"""Of the encoder. Part of the output: x264 codes a little differently with another number."""
MAX_RATE_TERM = 1 << 31
"""A track counts time in units of which a second has at most this many."""
EXACT = Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INP
"""The same result on every processor."""
JPEG_QUANTISER = 3
"""1 is the best, 31 the smallest."""
PNG_COMPRESSION = "3"
"""1 is the fastest, 9 the smallest; a third of the time of the default for 6 % more bytes."""


@dataclass(frozen=True)
class Quality:
    """How H.264 is coded."""

    crf: int = 18
    """0 to 51; less is better. 18 is nearly always indistinguishable from the source."""
    preset: str = "veryfast"
    """x264's."""


class SegmentEncoder:
    """Makes a fragmented MP4 (ISO/IEC 14496-12) piece by piece: H.264, BT.709 limited range, no B-frames.

    `init()` and any number of segments, in order and without a gap, are a file that plays. A segment depends on its
    own frames, `first` and `sequence` alone and on no machine, so what is made again is the same. An odd width or
    height is made even by repeating the last column or row, since 4:2:0 has no odd sizes.

    Args:
        width, height: of the frames, in pixels.
        rate: frames per second; times are exact for every rate.
        total_frames: how many there will be, if that is known; players show the duration then.
        quality: how they are coded.

    Raises:
        ValueError: the rate is not positive or is too fine to be written.
    """

    def __init__(
        self,
        width: int,
        height: int,
        rate: Fraction,
        *,
        total_frames: int | None = None,
        quality: Quality | None = None,
    ) -> None:
        if rate <= 0 or max(rate.numerator, rate.denominator) >= MAX_RATE_TERM:
            raise ValueError(f"rate must be a positive fraction below {MAX_RATE_TERM}, got {rate}")
        self._shape = height, width, 3
        self._width, self._height = width + width % 2, height + height % 2
        self._rate = rate
        self._total_frames = total_frames
        self._quality = quality or Quality()
        # A multiple of the rate's numerator, so that one frame lasts a whole number of units.
        self._timescale = rate.numerator * max(1, 1000 // rate.numerator)
        self._reformatter = VideoReformatter()

    def encode_init(self) -> bytes:
        """The initialisation segment: ftyp and moov."""
        target = io.BytesIO()
        container, _ = self._open(target, 1)
        container.start_encoding()
        head = target.getvalue()
        container.close()
        if self._total_frames is None:
            return head
        return _add_duration(head, int(self._total_frames / self._rate * self._timescale))

    def encode_segment(self, frames: Pixels | Sequence[Frames], first: int, sequence: int) -> bytes:
        """One media segment: moof and mdat, a closed group of pictures.

        Args:
            frames: one frame or more, (n, height, width, 3) uint8 RGB or runs of them.
            first: the number of the first frame in the video.
            sequence: the segment's own number, from 1.

        Raises:
            ValueError: there is no frame, or one has another size.
        """
        target = io.BytesIO()
        container, stream = self._open(target, sequence)
        container.start_encoding()
        begin = target.tell()
        number = first
        for pixels in _iterate_frames(frames):
            container.mux(stream.encode(self._convert_frame(pixels, number)))
            number += 1
        if number == first:
            raise ValueError("a segment needs a frame")
        container.mux(stream.encode())
        container.close()
        return target.getvalue()[begin:]

    def _open(self, target: io.BytesIO, sequence: int) -> tuple[OutputContainer, VideoStream]:
        container = av.open(
            target,
            "w",
            format="mp4",
            container_options={
                "movflags": "empty_moov+default_base_moof+frag_custom+frag_discont+skip_trailer",
                "fragment_index": str(sequence),
                "avoid_negative_ts": "disabled",
                "video_track_timescale": str(self._timescale),
                "movie_timescale": str(self._timescale),
            },
        )
        stream = container.add_stream("libx264", rate=self._rate)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = self._width, self._height, "yuv420p"
        context.time_base = 1 / self._rate
        context.thread_count = THREADS
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        context.options = {
            "crf": str(self._quality.crf),
            "preset": self._quality.preset,
            "x264-params": "bframes=0:open-gop=0:cpu-independent=1",
        }
        return container, stream

    def _convert_frame(self, pixels: Pixels, number: int) -> VideoFrame:
        if pixels.shape != self._shape:
            raise ValueError(f"the frames are {self._shape}, and one is {pixels.shape}")
        pad = [(0, self._height - pixels.shape[0]), (0, self._width - pixels.shape[1]), (0, 0)]
        frame = self._reformatter.reformat(
            _wrap_pixels(np.pad(pixels, pad, "edge")),
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=Interpolation.AREA | EXACT,
            threads=1,
        )
        frame.pts, frame.time_base = number, 1 / self._rate
        return frame


def _iterate_frames(frames: Pixels | Sequence[Frames]) -> Iterator[Pixels]:
    for run in frames:
        if isinstance(run, Frames):
            yield from run.pixels
        else:
            yield run


def _wrap_pixels(pixels: Pixels) -> VideoFrame:
    """(h, w, 3) uint8 RGB, full range."""
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    frame.color_range = ColorRange.JPEG
    return frame


def _add_duration(head: bytes, duration: int) -> bytes:
    """Add the box that says how long all the fragments will be, in the movie's time units."""
    box = struct.pack(">I4sB3xQ", 20, b"mehd", 1, duration)
    moov, mvex = head.index(b"moov") - 4, head.rindex(b"mvex") - 4
    changed = bytearray(head)
    for place in (moov, mvex):
        (size,) = struct.unpack_from(">I", changed, place)
        struct.pack_into(">I", changed, place, size + len(box))
    changed[mvex + 8 : mvex + 8] = box
    return bytes(changed)


def remux(source: Path, target: Path) -> None:
    """Write a fragmented MP4 as a progressive one, its index first. Nothing is coded anew; memory stays small."""
    with (
        av.open(str(source)) as fragments,
        av.open(str(target), "w", format="mp4", container_options={"movflags": "faststart"}) as whole,
    ):
        stream = fragments.streams.video[0]
        copy = whole.add_stream_from_template(stream)
        for packet in fragments.demux(stream):
            if packet.size:
                packet.stream = copy
                whole.mux(packet)


def resize_frames(frames: Frames, width: int, height: int) -> Frames:
    """Return the frames in another size (pixels), by bicubic interpolation that averages where it shrinks."""
    if (frames.width, frames.height) == (width, height):
        return frames
    reformatter = VideoReformatter()
    pixels = np.empty((frames.count, height, width, 3), np.uint8)
    for frame, out in zip(frames.pixels, pixels, strict=True):
        out[...] = _scale_frame(reformatter, frame, width, height).to_ndarray()
    return Frames(pixels, frames.first, frames.rate)


def _scale_frame(reformatter: VideoReformatter, pixels: Pixels, width: int, height: int) -> VideoFrame:
    interpolation = Interpolation.BICUBIC | EXACT
    return reformatter.reformat(_wrap_pixels(pixels), width, height, "rgb24", interpolation=interpolation, threads=1)


def encode_jpeg(pixels: Pixels, max_side: int) -> bytes:
    """Return a JPEG of (h, w, 3) uint8 RGB, shrunk until no side has more than `max_side` pixels."""
    height, width = pixels.shape[:2]
    scale = min(Fraction(1), Fraction(max_side, max(width, height)))
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    reformatter = VideoReformatter()
    small = _scale_frame(reformatter, pixels, width, height)
    frame = reformatter.reformat(
        small,
        format="yuvj420p",
        dst_colorspace=Colorspace.ITU601,  # JFIF knows no other
        dst_color_range=ColorRange.JPEG,
        interpolation=Interpolation.AREA | EXACT,
        threads=1,
    )
    return _encode_still("mjpeg", frame)


def encode_png(pixels: Pixels) -> bytes:
    """Return a PNG of (h, w, 3) uint8 RGB, without loss."""
    return _encode_still("png", _wrap_pixels(pixels))


def _encode_still(codec: str, frame: VideoFrame) -> bytes:
    context = cast("VideoCodecContext", av.CodecContext.create(codec, "w"))
    context.width, context.height, context.pix_fmt = frame.width, frame.height, frame.format.name
    context.time_base = Fraction(1)
    context.thread_count = 1
    if codec == "mjpeg":
        context.color_range = ColorRange.JPEG
        context.qmin = context.qmax = JPEG_QUANTISER
    else:
        context.options = {"compression_level": PNG_COMPRESSION}
    frame.pts, frame.time_base = 0, Fraction(1)
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode()])
