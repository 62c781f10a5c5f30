"""Encoding frames: fragmented MP4 segment by segment, progressive MP4, JPEG and PNG; and resizing frames.

All functions block; async callers run them in a thread.
"""

# PyAV's stubs omit the type arguments of Packet.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import contextlib
import heapq
import io
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream

from composition.media.bitrate import BitrateSearch
from composition.media.encoded_sound import EncodedSound
from composition.media.encoders import SOFTWARE, TAGS, Encoder
from composition.media.encoding import Encoding
from composition.media.mp4 import add_duration, set_picture_size
from composition.media.sound_header import open_template
from services.frames import Frames, Pixels

MAX_RATE_TERM = 1 << 31
"""Upper bound (exclusive) of the numerator and denominator of a frame rate: MP4 time scales have 32 bits."""
VARIABLE_TIMESCALE = 5_760_000
"""Units per second of a video with a variable frame rate. A multiple of the usual rates (24000/1001, 30, 60 …) and time
bases (1/600, 1/1000, 1/12800, 1/15360, 1/90000), so that their times are exact; others are rounded to 0.2 µs."""
EXACT = Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INP
"""Flags of swscale for the same result on every processor."""
JPEG_QUANTISER = 3
"""From 1 (best quality) to 31 (smallest file)."""
PNG_COMPRESSION = "3"
"""From 1 (fastest) to 9 (smallest file). 3 takes a third of the default's time for 6 % more bytes."""


class SegmentEncoder:
    """Encodes a fragmented MP4 (ISO/IEC 14496-12) segment by segment: BT.709 limited range, 4:2:0, no B-frames.

    The result of `encode_init` followed by consecutive segments is a playable file. A segment depends only on its
    frames, `first` and `sequence`, so encoding it again, on any machine, gives the same bytes. Where the encoder needs
    even sizes, the last column or row is repeated; H.264 is cropped to the odd size by the container.

    Args:
        width, height: size of the frames in pixels.
        rate: frames per second; timestamps are exact for every rate. With `variable`, a typical one.
        total_frames: number of frames of the whole video, if known; players then show its duration.
        encoder: the encoder; by default that of H.264.
        variable: whether the frame rate is variable, so that segments are encoded with `times`.

    Raises:
        ValueError: the rate is not positive, or its numerator or denominator is too large for MP4.
    """

    def __init__(
        self,
        width: int,
        height: int,
        rate: Fraction,
        *,
        total_frames: int | None = None,
        encoder: Encoder | None = None,
        variable: bool = False,
    ) -> None:
        if rate <= 0 or max(rate.numerator, rate.denominator) >= MAX_RATE_TERM:
            raise ValueError(f"rate must be a positive fraction below {MAX_RATE_TERM}, got {rate}")
        self._shape = height, width, 3
        self._encoder = encoder or Encoder(SOFTWARE["h264"], Encoding())
        self._width, self._height = self._encoder.find_coded_size(width, height)
        self.size = self._encoder.find_written_size(width, height)
        """Width and height of the video in pixels."""
        self._rate = rate
        self._total_frames = total_frames
        self._variable = variable
        # A multiple of the rate's numerator, so that the duration of a frame is a whole number of units.
        self._timescale = VARIABLE_TIMESCALE if variable else rate.numerator * max(1, 1000 // rate.numerator)
        self._reformatter = VideoReformatter()

    def encode_init(self) -> bytes:
        """Return the initialisation segment (ftyp and moov)."""
        target = io.BytesIO()
        container, _ = self._open(target, 1, self._encoder.default_crf)
        container.start_encoding()
        head = target.getvalue()
        container.close()
        if self.size != (self._width, self._height):
            head = set_picture_size(head, *self.size)
        if self._total_frames is None or self._variable:
            return head
        return add_duration(head, int(self._total_frames / self._rate * self._timescale))

    def encode_segment(
        self, frames: Pixels | Sequence[Frames], first: int, sequence: int, times: Sequence[Fraction] | None = None
    ) -> bytes:
        """Return a media segment (moof and mdat), which is a closed group of pictures.

        Args:
            frames: one or more frames, (n, height, width, 3) uint8 RGB, or runs of frames.
            first: index of the first frame in the video.
            sequence: number of the segment, from 1.
            times: when each frame appears and the last one disappears, in seconds: one value more than frames. Given
                if and only if the frame rate is variable.

        Raises:
            ValueError: there are no frames, a frame has a different size, or `times` do not suit the frames.
        """
        pixels = list(_iterate_frames(frames))
        if not pixels:
            raise ValueError("frames: a segment needs at least 1 frame, got 0")
        ticks = self._count_ticks(first, len(pixels), times)
        bitrate = self._encoder.encoding.bits_per_second
        if bitrate is None:
            return self._encode(pixels, ticks, sequence, self._encoder.default_crf)
        search = BitrateSearch(self._encoder, float(bitrate * (ticks[-1] - ticks[0]) * self._time_base / 8))
        while (crf := search.next) is not None:
            search.add(crf, self._encode(pixels, ticks, sequence, crf))
        return search.best

    def _encode(self, pixels: Sequence[Pixels], ticks: Sequence[int], sequence: int, crf: float) -> bytes:
        """Encode a segment with a constant quality.

        Args:
            pixels: the frames.
            ticks: the time of each frame, and the end of the last one, in units of `_time_base`.
            sequence: number of the segment, from 1.
            crf: the quality.
        """
        ends = dict(pairwise(ticks))
        target = io.BytesIO()
        container, stream = self._open(target, sequence, crf)
        container.start_encoding()
        begin = target.tell()
        for tick, frame in zip(ticks, [*pixels, None], strict=True):
            for packet in stream.encode(None if frame is None else self._convert_frame(frame, tick)):
                if self._variable and packet.pts is not None:  # the encoder has the time base of the ticks
                    packet.duration = ends[packet.pts] - packet.pts
                container.mux(packet)
        container.close()
        return target.getvalue()[begin:]

    @property
    def _time_base(self) -> Fraction:
        """Unit of the encoder's timestamps, in seconds."""
        return Fraction(1, self._timescale) if self._variable else 1 / self._rate

    def _count_ticks(self, first: int, count: int, times: Sequence[Fraction] | None) -> list[int]:
        """Return the time of each frame, and the end of the last one, in units of `_time_base`."""
        if (times is not None) != self._variable or (times is not None and len(times) != count + 1):
            expected = f"{count + 1} values" if self._variable else "absent, because the frame rate is constant"
            raise ValueError(f"times: must be {expected}, got {times}")
        if times is None:
            return list(range(first, first + count + 1))
        ticks = [round(time * self._timescale) for time in times]
        if any(before >= after for before, after in pairwise(ticks)):
            raise ValueError(f"times: must increase by at least 1/{self._timescale} s, got {times}")
        return ticks

    def _open(self, target: io.BytesIO, sequence: int, crf: float) -> tuple[OutputContainer, VideoStream]:
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
        stream = cast("VideoStream", container.add_stream(self._encoder.name, rate=self._rate))
        stream.codec_context.time_base = self._time_base
        self._encoder.configure(stream.codec_context, self._shape[1], self._shape[0], crf)
        return container, stream

    def _convert_frame(self, pixels: Pixels, tick: int) -> VideoFrame:
        if pixels.shape != self._shape:
            raise ValueError(f"frames: every frame must have the shape {self._shape}, got {pixels.shape}")
        pad = [(0, self._height - pixels.shape[0]), (0, self._width - pixels.shape[1]), (0, 0)]
        frame = self._reformatter.reformat(
            _wrap_pixels(np.pad(pixels, pad, "edge")),
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=Interpolation.AREA | EXACT,
            threads=1,
        )
        frame.pts, frame.time_base = tick, self._time_base
        return frame


def _iterate_frames(frames: Pixels | Sequence[Frames]) -> Iterator[Pixels]:
    for run in frames:
        if isinstance(run, Frames):
            yield from run.pixels
        else:
            yield run


def _wrap_pixels(pixels: Pixels) -> VideoFrame:
    """Return (h, w, 3) uint8 RGB pixels, full range, as a frame of PyAV."""
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    frame.color_range = ColorRange.JPEG
    return frame


def remux(source: Path, target: Path, sound: EncodedSound | None = None) -> None:
    """Copy a fragmented MP4 to a progressive one with its index first. Does not re-encode; memory use is small.

    Args:
        source: the fragmented file, a video.
        target: the file to write.
        sound: is added to the video; see `EncodedSound.delay`.
    """
    options = {"movflags": "faststart"}
    if sound is not None:
        # Edit lists are in units of the movie's time scale.
        options |= {"movie_timescale": str(sound.form.rate), "avoid_negative_ts": "disabled"}
    delay = Fraction(0) if sound is None else sound.delay
    with (
        contextlib.ExitStack() as templates,
        av.open(str(source)) as fragments,
        av.open(str(target), "w", format="mp4", container_options=options) as progressive,
    ):
        stream = fragments.streams.video[0]
        copy = progressive.add_stream_from_template(stream, opaque=True)  # there may be no encoder of the same name
        copy.codec_context.codec_tag = next((tag for tag in TAGS.values() if tag == stream.codec_context.codec_tag), "")
        packets = _direct_packets(fragments.demux(stream), copy, delay)
        if sound is not None:
            track = progressive.add_stream_from_template(templates.enter_context(open_template(sound.form)))
            packets = heapq.merge(packets, _direct_packets(sound.read_packets(), track, delay), key=_find_time)
        for packet in packets:
            progressive.mux(packet)


def _direct_packets(packets: "Iterable[Packet[Any]]", stream: Stream, delay: Fraction) -> "Iterator[Packet[Any]]":
    """Yield packets for a stream, `delay` seconds later."""
    for packet in packets:
        if packet.size and packet.pts is not None and packet.dts is not None:
            ticks = round(delay / packet.time_base)
            packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
            packet.stream = stream
            yield packet


def _find_time(packet: "Packet[Any]") -> Fraction:
    return (packet.dts or 0) * packet.time_base


def resize_frames(frames: Frames, width: int, height: int) -> Frames:
    """Resize frames to `width` × `height` pixels by bicubic interpolation, which averages when it shrinks."""
    if (frames.width, frames.height) == (width, height):
        return frames
    reformatter = VideoReformatter()
    pixels = np.empty((frames.count, height, width, 3), np.uint8)
    for frame, out in zip(frames.pixels, pixels, strict=True):
        out[...] = _scale_frame(reformatter, frame, width, height).to_ndarray()
    return Frames(pixels, frames.first, frames.rate, frames.times)


def _scale_frame(reformatter: VideoReformatter, pixels: Pixels, width: int, height: int) -> VideoFrame:
    interpolation = Interpolation.BICUBIC | EXACT
    return reformatter.reformat(_wrap_pixels(pixels), width, height, "rgb24", interpolation=interpolation, threads=1)


def encode_jpeg(pixels: Pixels, max_side: int) -> bytes:
    """Encode (h, w, 3) uint8 RGB as JPEG, shrunk so that neither side exceeds `max_side` pixels."""
    height, width = pixels.shape[:2]
    scale = min(Fraction(1), Fraction(max_side, max(width, height)))
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    reformatter = VideoReformatter()
    small = _scale_frame(reformatter, pixels, width, height)
    frame = reformatter.reformat(
        small,
        format="yuvj420p",
        dst_colorspace=Colorspace.ITU601,  # the only one in JFIF
        dst_color_range=ColorRange.JPEG,
        interpolation=Interpolation.AREA | EXACT,
        threads=1,
    )
    return _encode_still("mjpeg", frame)


def encode_png(pixels: Pixels) -> bytes:
    """Encode (h, w, 3) uint8 RGB as PNG, which is lossless."""
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
