"""Converting HDR and wide-gamut colours to what an SDR screen shows: sRGB, BT.709 primaries.

The conversion is computed once for a grid of colours, and interpolated for every pixel in between (a 3-D table, applied
by FFmpeg's `haldclut`). Code numbers are those of ISO/IEC 23091-2.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import cast

import numpy as np
from av.filter import Graph
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from numpy.typing import NDArray

BT709, BT2020, DCI_P3, DISPLAY_P3 = 1, 9, 11, 12
LINEAR, PQ, HLG = 8, 16, 18
UNKNOWN = frozenset({0, 2})
"""Codes of primaries that were not given."""
BT2020_MATRICES = frozenset({9, 10})
WIDE = {BT2020: "bt2020", DCI_P3: "dci-p3", DISPLAY_P3: "display-p3"}
"""Primaries that are converted. Those of BT.601 are close to BT.709, and viewers show them unchanged."""
HDR = {PQ: "pq", HLG: "hlg"}
"""Transfer functions that are tone-mapped."""
POWERS = {4: 2.2, 5: 2.8, LINEAR: 1.0, 17: 2.6}
"""Transfer functions that are powers: gamma 2.2 and 2.8, linear, SMPTE ST 428. All others are shown as sRGB."""
CHROMATICITIES = {
    BT709: (0.640, 0.330, 0.300, 0.600, 0.150, 0.060, 0.3127, 0.3290),
    BT2020: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, 0.3127, 0.3290),
    DCI_P3: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.3140, 0.3510),
    DISPLAY_P3: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.3127, 0.3290),
}
"""x and y of red, green, blue and white."""
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
"""From XYZ to the responses in which white is adapted."""
SDR_WHITE_NIT = 203.0
"""Luminance of SDR white in HDR video (ITU-R BT.2408)."""
HLG_PEAK_NIT = 1000.0
"""Peak luminance of the display that HLG is shown on, for which the system gamma is 1.2 (ITU-R BT.2100)."""
KNEE = 0.85
"""Linear light, with SDR white at 1, above which highlights are compressed. Below, colours are unchanged."""
LEVEL = 8
"""Level of the table: LEVEL² = 64 values of each component."""
UNIT = Fraction(1, 25)
"""Time base of the table's graph; the frames' times are not used."""

Colours = NDArray[np.float64]
"""(n, 3) red, green and blue."""


@dataclass(frozen=True)
class SourceColour:
    """The colours of a stream."""

    primaries: int
    transfer: int

    @property
    def changes(self) -> Mapping[str, str]:
        """The conversions that are needed, as in `composition.media.decode.MediaFacts.changes`; empty if none."""
        changes: dict[str, str] = {}
        if self.transfer in HDR:
            changes["tone_mapped"] = HDR[self.transfer]
        if self.primaries in WIDE:
            changes["colours"] = WIDE[self.primaries]
        elif self.transfer == LINEAR:
            changes["colours"] = "linear"
        return changes


def identify_colour(frame: VideoFrame) -> SourceColour:
    """Return the colours of a frame. Primaries that are not given are BT.2020 for HDR or with BT.2020's matrix."""
    primaries, transfer = int(frame.color_primaries), int(frame.color_trc)
    if primaries in UNKNOWN and (transfer in HDR or int(frame.colorspace) in BT2020_MATRICES):
        primaries = BT2020
    return SourceColour(primaries if primaries in CHROMATICITIES else BT709, transfer)


def convert_colours(code: Colours, source: SourceColour) -> Colours:
    """Return the sRGB values of colours; values are 0 to 1.

    HDR is tone-mapped with SDR white at 203 nit. Colours beyond BT.709 are clipped, as browsers do.
    """
    light = _decode_light(code, source)
    light = np.maximum(light @ find_matrix(source.primaries).T, 0.0)
    if source.transfer in HDR:
        peak = light.max(-1, keepdims=True)
        light = light * (_compress_highlights(peak) / np.maximum(peak, 1e-9))
    light = np.minimum(light, 1.0)
    return _encode_srgb(light)


def _encode_srgb(light: Colours) -> Colours:
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def find_matrix(primaries: int) -> Colours:
    """Return the (3, 3) matrix from linear light with these primaries to BT.709, with white adapted."""
    source, target = _to_xyz(primaries), _to_xyz(BT709)
    source_white, target_white = (BRADFORD @ matrix.sum(1) for matrix in (source, target))
    adaptation = np.linalg.inv(BRADFORD) @ np.diag(target_white / source_white) @ BRADFORD
    return np.linalg.inv(target) @ adaptation @ source


def _to_xyz(primaries: int) -> Colours:
    """Return the matrix from linear red, green and blue to XYZ, in which white has the luminance 1."""
    xy: Colours = np.array(CHROMATICITIES[primaries]).reshape(4, 2)
    xyz: Colours = np.concatenate([xy, 1 - xy.sum(1, keepdims=True)], 1) / xy[:, 1:]
    luminances: Colours = np.linalg.inv(xyz[:3].T) @ xyz[3]
    return xyz[:3].T * luminances


def _decode_light(code: Colours, source: SourceColour) -> Colours:
    """Return the linear light of the display, with SDR white at 1."""
    match source.transfer:
        case 16:  # PQ
            return _decode_pq(code)
        case 18:  # HLG
            return _decode_hlg(code, _to_xyz(source.primaries)[1])
        case transfer if transfer in POWERS:
            return code ** POWERS[transfer]
        case _:
            return np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)


def _decode_pq(code: Colours) -> Colours:
    """The electro-optical transfer function of SMPTE ST 2084."""
    power = code ** (32 / 2523)
    nit = 10_000 * (np.maximum(power - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * power)) ** (8192 / 1305)
    return nit / SDR_WHITE_NIT


def _decode_hlg(code: Colours, weights: Colours) -> Colours:
    """The inverse transfer function of ARIB STD-B67 and the system gamma of BT.2100.

    Args:
        code: red, green and blue.
        weights: (3,) luminance of each.
    """
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12)
    luminance = np.maximum(scene @ weights, 0)[..., None]
    return HLG_PEAK_NIT / SDR_WHITE_NIT * luminance**0.2 * scene


def _compress_highlights(light: Colours) -> Colours:
    """Return light above KNEE compressed to less than 1: SDR white becomes 0.925, and 1000 nit 0.995."""
    above = np.maximum(light - KNEE, 0) / (1 - KNEE)
    return np.where(light > KNEE, KNEE + (1 - KNEE) * above / (1 + above), light)


class ColourTable:
    """Converts the colours of frames of one size to sRGB.

    Args:
        source: the colours of the frames.
        width, height: size of the frames in pixels.
        has_alpha: whether the frames have alpha, which is kept.
    """

    def __init__(self, source: SourceColour, width: int, height: int, *, has_alpha: bool) -> None:
        self.format = "gbrap16le" if has_alpha else "gbrp16le"
        """Format of the frames, before and after."""
        axis = np.linspace(0, 1, LEVEL**2)
        blue, green, red = np.meshgrid(axis, axis, axis, indexing="ij")
        colours = convert_colours(np.stack([red, green, blue], -1).reshape(-1, 3), source)
        self._lookup = _Lookup(colours[:, _find_order()], width, height, self.format)

    def convert(self, frame: VideoFrame) -> VideoFrame:
        """Return a frame of `format` with its colours converted."""
        return self._lookup.apply(frame)


class _Lookup:
    """FFmpeg's `haldclut` with its table.

    Args:
        colours: (level⁶, 3) the table, in which red changes fastest and blue slowest; 0 to 1.
        width, height, form: size and format of the frames.
    """

    def __init__(self, colours: Colours, width: int, height: int, form: str) -> None:
        side = math.isqrt(len(colours))
        self._graph = Graph()
        self._graph.threads = 1
        pixel_format = VideoFormat(form)
        self._frames = self._graph.add_buffer(width=width, height=height, format=pixel_format, time_base=UNIT)
        table = self._graph.add_buffer(width=side, height=side, format=pixel_format, time_base=UNIT, name="table")
        lookup = self._graph.add("haldclut", "clut=first:interp=tetrahedral")
        self._sink = self._graph.add("buffersink")
        self._frames.link_to(lookup, 0, 0)
        table.link_to(lookup, 0, 1)
        lookup.link_to(self._sink)
        self._graph.configure()
        self._count = 0
        pixels = np.round(colours * 65535).astype(np.uint16).reshape(side, side, 3)
        table.push(_stamp(VideoFrame.from_ndarray(pixels, "rgb48le").reformat(format=form, threads=1), 0))
        table.push(None)

    def apply(self, frame: VideoFrame) -> VideoFrame:
        self._count += 1
        self._frames.push(_stamp(frame, self._count))
        return cast("VideoFrame", self._sink.pull())


@cache
def _find_order() -> list[int]:
    """Return the order in which `haldclut` takes the columns of a table for red, green and blue.

    In FFmpeg 8 it takes the planes of the table, which are green, blue and red, for red, green and blue.
    """
    red, green, blue = 1.0, 0.5, 0.0
    axis = np.linspace(0, 1, 4)
    grid = np.array([[i, j, k] for k in axis for j in axis for i in axis])
    pixels = np.full((16, 16, 3), np.round(np.array([red, green, blue]) * 65535), np.uint16)
    frame = VideoFrame.from_ndarray(pixels, "rgb48le").reformat(format="gbrp16le", threads=1)
    found = _Lookup(grid, 16, 16, "gbrp16le").apply(frame).reformat(format="rgb24", threads=1).to_ndarray()[8, 8]
    ranks = np.argsort(-found.astype(int))  # the channel in which red came out, then green, then blue
    return [int(ranks[channel]) for channel in range(3)]


def _stamp(frame: VideoFrame, pts: int) -> VideoFrame:
    frame.pts, frame.time_base = pts, UNIT
    return frame
