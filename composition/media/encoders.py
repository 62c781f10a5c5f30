"""The encoders behind each codec: which one encodes a video, its options, and the sizes that it can write."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import av
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

from composition.media.encoding import DEFAULT_CRF, MAX_CRF, PRESETS, Codec, Encoding, Hardware
from services.errors import LimitExceeded, ServiceLost

THREADS = 4
"""Encoder threads. The output depends on it: x264 encodes slightly differently with another number."""
SOFTWARE: Mapping[Codec, str] = {"h264": "libx264", "hevc": "libx265", "av1": "libsvtav1"}
NVENC: Mapping[Codec, str] = {"h264": "h264_nvenc", "hevc": "hevc_nvenc", "av1": "av1_nvenc"}
"""Codec → FFmpeg's name of its encoder."""
MAX_SIDES: Mapping[Codec, tuple[int, int]] = {"h264": (16384, 16384), "hevc": (16384, 16384), "av1": (16384, 8704)}
"""Codec → the largest width and height that its encoder takes, in pixels."""
MIN_SIDE: Mapping[Codec, int] = {"h264": 2, "hevc": 16, "av1": 16}
"""Codec → the smallest width and height of a coded picture, in pixels."""
CUTREE_SIDE = 64
"""x265's analysis of references between frames (`cutree`) corrupts memory where a picture has a smaller side."""
NVENC_PRESETS = 7
"""NVENC's presets are p1, the fastest, to p7."""
LOSSLESS = 0.1
"""Quality for `crf: 0` of x264, whose lossless mode is a profile that most players lack."""
TAGS: Mapping[Codec, str] = {"h264": "avc1", "hevc": "hvc1", "av1": "av01"}
"""Codec → its sample entry in MP4. QuickTime plays HEVC only as `hvc1`."""
os.putenv("SVT_LOG", "1")  # only errors; else SVT-AV1 prints its settings for each segment


@dataclass(frozen=True)
class Encoder:
    """An encoder with its settings."""

    name: str
    """FFmpeg's name of the encoder."""
    encoding: Encoding

    @property
    def codec(self) -> Codec:
        return self.encoding.codec

    @property
    def default_crf(self) -> int:
        """The quality to encode with, or to begin the search for a bitrate with."""
        return DEFAULT_CRF[self.codec] if self.encoding.crf is None else self.encoding.crf

    def find_coded_size(self, width: int, height: int) -> tuple[int, int]:
        """Return the size of the coded pictures for frames of this size, in pixels: 4:2:0 mostly needs even sizes."""
        step = 1 if self.name == SOFTWARE["av1"] else 2
        return tuple(max(MIN_SIDE[self.codec], side + side % step) for side in (width, height))  # pyright: ignore[reportReturnType]

    def find_written_size(self, width: int, height: int) -> tuple[int, int]:
        """Return the size of the video for frames of this size, in pixels.

        An odd size of H.264 is written in the container, and decoders crop to it; HEVC stays padded.
        """
        return (width, height) if self.codec == "h264" else self.find_coded_size(width, height)

    def configure(self, context: VideoCodecContext, width: int, height: int, crf: float) -> None:
        """Set up the codec context, which has its rate and time base already.

        Args:
            context: a codec context of this encoder that is not open.
            width, height: size of the frames in pixels.
            crf: constant quality.
        """
        context.width, context.height = self.find_coded_size(width, height)
        context.pix_fmt = "yuv420p"
        context.thread_count = THREADS
        context.max_b_frames = 0
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        context.codec_tag = TAGS[self.codec]
        context.options = self._list_options(crf, min(width, height))

    def _list_options(self, crf: float, side: int) -> dict[str, str]:
        preset = self.encoding.preset or ""
        match self.name:
            case "libx264":
                # `stitchable`: a search for a bitrate gives each segment its own quality, and all have one header.
                stitchable = ":stitchable=1" if self.encoding.bitrate is not None else ""
                params = f"bframes=0:open-gop=0:cpu-independent=1{stitchable}"
                return {"crf": f"{crf or LOSSLESS:g}", "preset": preset, "x264-params": params}
            case "libx265":
                cutree = ":cutree=0" if side < CUTREE_SIDE else ""
                params = f"bframes=0:open-gop=0:pools={THREADS}:frame-threads=1:info=0:log-level=error{cutree}"
                return {"crf": f"{crf:g}", "preset": preset, "x265-params": params}
            case "libsvtav1":
                return {"crf": f"{crf:g}", "preset": preset, "svtav1-params": f"lp={THREADS}"}
            case _:
                presets = PRESETS[self.codec]
                speed = 1 + presets.index(preset) * NVENC_PRESETS // len(presets)
                return {"rc": "vbr", "cq": f"{max(1, crf):g}", "preset": f"p{speed}", "forced-idr": "1"}


def choose_encoder(
    encoding: Encoding, size: tuple[int, int], hardware: Hardware = "never", begun: str | None = None
) -> Encoder:
    """Return the encoder for a video.

    Args:
        encoding: the settings.
        size: width and height of the frames in pixels.
        hardware: whether NVENC is used where it is available.
        begun: FFmpeg's name of the encoder that an earlier attempt at the same video used, if it was not the default.

    Raises:
        LimitExceeded: the frames are larger than the encoder takes.
        ServiceLost: the video was begun with an encoder that this machine does not have.
    """
    width, height = size
    largest = MAX_SIDES[encoding.codec]
    if width > largest[0] or height > largest[1]:
        raise LimitExceeded(
            f"encoding.codec: {encoding.codec} has at most {largest[0]}x{largest[1]} pixels, got {width}x{height}",
            param="encoding.codec",
        )
    software, nvenc = (Encoder(names[encoding.codec], encoding) for names in (SOFTWARE, NVENC))
    if begun == nvenc.name:
        if not is_available(nvenc, size):
            raise ServiceLost(f"the video was begun with {begun}, which this machine does not have")
        return nvenc
    return nvenc if begun is None and hardware == "auto" and is_available(nvenc, size) else software


def is_available(encoder: Encoder, size: tuple[int, int]) -> bool:
    """Return whether this machine can encode pictures of this size, (width, height) in pixels, with an encoder."""
    try:
        context = cast("VideoCodecContext", av.CodecContext.create(encoder.name, "w"))
        context.time_base = Fraction(1, 25)
        encoder.configure(context, *size, encoder.default_crf)
        context.open()
    except FFmpegError:
        return False
    return True


def clamp_crf(codec: Codec, crf: float) -> float:
    """Return the nearest allowed quality, in steps of a half for H.264 and HEVC, and of 1 for AV1."""
    step = 1.0 if codec == "av1" else 0.5
    return min(float(MAX_CRF[codec]), max(0.0, round(crf / step) * step))
