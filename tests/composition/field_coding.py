"""H.264 whose fields are coded as pictures of their own, as by camcorders. No encoder at hand makes it.

The pixels are stored as they are (I_PCM), so what is decoded equals what was coded.
"""

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

MACROBLOCK = 16
PCM = 25
"""Type of a macroblock of an intra slice that is stored as it is."""


class BitWriter:
    """Collects the bits of a header."""

    def __init__(self) -> None:
        self._bits = ""

    def write(self, *values: tuple[int, int]) -> "BitWriter":
        """Append integers, each given with its number of bits; 0 bits stand for Exp-Golomb code."""
        for value, count in values:
            code = format(value + 1, "b")
            self._bits += format(value, f"0{count}b") if count else "0" * (len(code) - 1) + code
        return self

    def take_bytes(self, last: str = "") -> bytes:
        """Return the bits and `last`, filled up with zeros to whole bytes, and forget them."""
        bits, self._bits = self._bits + last, ""
        bits += "0" * (-len(bits) % 8)
        return int(bits, 2).to_bytes(len(bits) // 8, "big")


def record_fields(path: Path, frames: Sequence[VideoFrame], rate: int, *, top_first: bool = True) -> Path:
    """Write frames as H.264 with two packets for each, one for each field. Sizes must be multiples of 16 by 32."""
    coded = b"".join(_code_frame(frame, number, top_first) for number, frame in enumerate(frames))
    with av.open(io.BytesIO(coded), "r", format="h264") as source, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        assert len(packets) == 2 * len(frames)
        for number, packet in enumerate(packets):
            packet.stream = stream
            packet.pts = packet.dts = number
            packet.time_base, packet.duration = Fraction(1, 2 * rate), 1
            container.mux(packet)
    return path


def _code_frame(frame: VideoFrame, number: int, top_first: bool) -> bytes:
    """Return the parameter sets and the two fields of a frame; the first of these is an IDR picture."""
    sequence = BitWriter().write((77, 8), (0, 8), (30, 8), (0, 0), (0, 0), (0, 0), (0, 0), (1, 0), (0, 1))
    sequence.write((frame.width // MACROBLOCK - 1, 0), (frame.height // (2 * MACROBLOCK) - 1, 0))
    sequence.write((0, 1), (0, 1), (1, 1), (0, 1), (0, 1))  # frames and fields, no cropping
    picture = BitWriter().write((0, 0), (0, 0), (0, 1), (0, 1), (0, 0), (0, 0), (0, 0), (0, 1), (0, 2))
    picture.write((0, 0), (0, 0), (0, 0), (1, 1), (0, 1), (0, 1))
    planes = [_read_plane(frame, index) for index in range(3)]
    order = (0, 1) if top_first else (1, 0)
    fields = [_code_field([plane[parity::2] for plane in planes], parity, order, number) for parity in order]
    return _wrap_unit(0x67, sequence.take_bytes("1")) + _wrap_unit(0x68, picture.take_bytes("1")) + b"".join(fields)


def _code_field(planes: list[NDArray[np.uint8]], parity: int, order: tuple[int, int], number: int) -> bytes:
    is_first = parity == order[0]
    bits = BitWriter().write((0, 0), (7, 0), (0, 0), (0, 4), (1, 1), (parity, 1))
    bits.write(*([(number % 2, 0)] if is_first else []), (0 if is_first else 1, 4))
    bits.write(*([(0, 1), (0, 1)] if is_first else [(0, 1)]), (0, 0), (1, 0))
    data = b""
    height, width = planes[0].shape
    for row in range(height // MACROBLOCK):
        for column in range(width // MACROBLOCK):
            data += bits.write((PCM, 0)).take_bytes()
            for plane, side in zip(planes, (MACROBLOCK, MACROBLOCK // 2, MACROBLOCK // 2), strict=True):
                data += plane[row * side : (row + 1) * side, column * side : (column + 1) * side].tobytes()
    return _wrap_unit(0x65 if is_first else 0x61, data + b"\x80")


def _read_plane(frame: VideoFrame, index: int) -> NDArray[np.uint8]:
    plane = frame.planes[index]
    lines = np.frombuffer(cast("Any", plane), np.uint8).reshape(plane.height, -1)
    return np.maximum(lines[:, : plane.width], 1)  # the value 0 is not allowed


def _wrap_unit(head: int, payload: bytes) -> bytes:
    """Return a NAL unit behind a start code; no start code occurs in it."""
    escaped = bytearray()
    zeros = 0
    for byte in payload:
        if zeros == 2 and byte <= 3:
            escaped.append(3)
            zeros = 0
        escaped.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return b"\0\0\0\1" + bytes([head]) + bytes(escaped)
