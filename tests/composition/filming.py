"""Test clips in HDR and wide colours: cards encoded as a camera would, by formulas of their own."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange
from numpy.typing import NDArray

from services.frames import Pixels

Colours: TypeAlias = NDArray[np.float64]
"""(…, 3) red, green and blue, 0 to 1."""

BT709, BT2020, DISPLAY_P3 = 1, 9, 12
SRGB, PQ, HLG = 13, 16, 18
TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
"""From linear BT.709 to linear BT.2020 (ITU-R BT.2087)."""
TO_P3 = np.array([[0.8225, 0.1774, 0.0], [0.0332, 0.9669, 0.0], [0.0171, 0.0724, 0.9108]])
"""From linear BT.709 to linear Display P3."""
LUMINANCE = np.array([0.2627, 0.6780, 0.0593])
"""Luminance of BT.2020's primaries."""


@dataclass(frozen=True)
class Film:
    """How a clip is encoded. Code numbers are those of ISO/IEC 23091-2."""

    transfer: int
    primaries: int = BT2020
    codec: str = "libx264"
    pix_fmt: str = "yuv420p10le"
    matrix: int = 9
    range: int = 1
    """1 is limited, 2 is full."""
    suffix: str = ".mp4"
    options: dict[str, str] = field(default_factory=dict[str, str])
    names_primaries: bool = True
    """Whether the file names its primaries and its matrix."""


def decode_srgb(pixels: Pixels) -> Colours:
    """Return linear light."""
    x = pixels / 255
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def encode_srgb(light: Colours) -> Colours:
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def encode_hlg(light: Colours) -> Colours:
    """Encode display light, 1 at 203 nit, for a display of 1000 nit with system gamma 1.2 (ITU-R BT.2100)."""
    light = light * 0.203
    luminance = np.maximum(light @ LUMINANCE, 1e-9)[..., None]
    scene = np.clip(light * luminance ** (1 / 1.2 - 1), 0, 1)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)


def encode_pq(light: Colours) -> Colours:
    """Encode display light, 1 at 203 nit (SMPTE ST 2084)."""
    y = np.maximum(light * 203 / 10_000, 0) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375


ENCODERS = {PQ: encode_pq, HLG: encode_hlg}
MATRICES = {BT2020: TO_BT2020, DISPLAY_P3: TO_P3}


def encode_card(card: Pixels, transfer: int, primaries: int) -> Colours:
    """Return the code values of an SDR picture, whose white is at 203 nit in HDR."""
    light = decode_srgb(card) @ MATRICES.get(primaries, np.eye(3)).T
    return ENCODERS.get(transfer, encode_srgb)(light)


def film(path: Path, cards: Sequence[Pixels], how: Film) -> Path:
    """Write SDR pictures as a clip of 25 frames per second; the suffix of `how` is added to the path."""
    path = path.with_suffix(how.suffix)
    height, width = cards[0].shape[:2]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(how.codec, rate=25, options=how.options)
        stream.width, stream.height, stream.pix_fmt = width, height, how.pix_fmt
        context = stream.codec_context
        context.color_range, context.color_trc = how.range, how.transfer
        if how.names_primaries:
            context.color_primaries, context.colorspace = how.primaries, how.matrix
        for number, card in enumerate(cards):
            code = np.round(encode_card(card, how.transfer, how.primaries) * 65535).astype(np.uint16)
            frame = _code_frame(code, how)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def _code_frame(code: NDArray[np.uint16], how: Film) -> VideoFrame:
    frame: Any = VideoFrame.from_ndarray(code, "rgb48le").reformat(
        format=how.pix_fmt,
        dst_colorspace=how.matrix or None,
        src_color_range=ColorRange.JPEG,
        dst_color_range=how.range,
    )
    named = (how.primaries, how.matrix) if how.names_primaries else (2, 2)
    frame.color_primaries, frame.colorspace = named
    frame.color_trc = how.transfer
    return frame
