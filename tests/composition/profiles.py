"""ICC profiles, written byte by byte, and what a picture with them looks like in sRGB."""

import struct

import numpy as np
from numpy.typing import NDArray

from services.frames import Pixels
from tests.composition.filming import encode_srgb

D50 = (0.9642, 1.0, 0.8249)
P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
"""Red, green and blue of a profile: XYZ, adapted to D50."""
INKS: dict[tuple[int, ...], tuple[float, float, float]] = {
    (0, 0, 0, 0): (100.0, 0.0, 0.0),
    (1, 0, 0, 0): (55.0, -37.0, -50.0),
    (0, 0, 0, 1): (15.0, 0.0, 0.0),
}
"""Cyan, magenta, yellow and black → L*, a* and b* of some prints."""


def build_rgb(colourants: tuple[tuple[float, ...], ...], gamma: float, name: str) -> bytes:
    """Return a profile with three primaries and a power as tone curve."""
    tags = {b"rXYZ": _xyz(colourants[0]), b"gXYZ": _xyz(colourants[1]), b"bXYZ": _xyz(colourants[2])}
    return _build(b"mntr", b"RGB ", b"XYZ ", name, tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _power(gamma)))


def build_srgb() -> bytes:
    """Return a profile of sRGB with a table of 1024 values as tone curve."""
    x = np.linspace(0, 1, 1024)
    light = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    table = np.round(light * 65535).astype(">u2").tobytes()
    curve = b"curv\0\0\0\0" + struct.pack(">I", 1024) + table
    tags = {b"rXYZ": _xyz(SRGB[0]), b"gXYZ": _xyz(SRGB[1]), b"bXYZ": _xyz(SRGB[2])}
    return _build(b"mntr", b"RGB ", b"XYZ ", "made sRGB", tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve))


def build_grey(gamma: float) -> bytes:
    """Return a profile for grey pictures."""
    return _build(b"mntr", b"GRAY", b"XYZ ", "grey", {b"kTRC": _power(gamma)})


def build_cmyk() -> bytes:
    """Return a profile of a printer with the prints INKS; other prints are between or black."""
    nodes = bytearray()
    for index in range(16):
        ink = tuple(index >> shift & 1 for shift in (3, 2, 1, 0))  # the last ink changes fastest
        lightness, a, b = INKS.get(ink, (15.0, 0.0, 0.0))
        nodes += bytes([round(lightness * 2.55), round(a + 128), round(b + 128)])
    ramp = bytes(range(256))
    matrix = b"".join(_encode_fixed(float(row == column)) for row in range(3) for column in range(3))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + ramp * 4 + bytes(nodes) + ramp * 3
    return _build(b"prtr", b"CMYK", b"Lab ", "made inks", {b"A2B0": table})


def show_rgb(pixels: Pixels, colourants: tuple[tuple[float, ...], ...], gamma: float) -> NDArray[np.float64]:
    """Return a picture with such a profile in sRGB, 0 to 255."""
    xyz = (pixels / 255) ** gamma @ np.array(colourants)
    return encode_srgb(xyz @ np.linalg.inv(np.array(SRGB))) * 255


def show_ink(ink: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the colour of a print in sRGB, 0 to 255, without black point compensation."""
    lightness, a, b = INKS[ink]
    y = (lightness + 16) / 116
    f = np.array([y + a / 500, y, y - b / 200])
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * D50
    return encode_srgb(xyz @ np.linalg.inv(np.array(SRGB))) * 255


def _build(kind: bytes, space: bytes, connection: bytes, name: str, tags: dict[bytes, bytes]) -> bytes:
    text = name.encode()
    described = b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text + b"\0" + bytes(78)
    tags = {b"desc": described, b"cprt": b"text\0\0\0\0none\0", b"wtpt": _xyz(D50), **tags}
    offset = 132 + 12 * len(tags)
    table = data = b""
    for tag, value in tags.items():
        table += tag + struct.pack(">II", offset + len(data), len(value))
        data += value + bytes(-len(value) % 4)
    head = struct.pack(">I4sI", offset + len(data), b"lcms", 0x02100000) + kind + space + connection
    head += (
        struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + b"".join(map(_encode_fixed, D50)) + bytes(48)
    )
    return head + struct.pack(">I", len(tags)) + table + data


def _encode_fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _xyz(values: tuple[float, ...]) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(map(_encode_fixed, values))


def _power(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
