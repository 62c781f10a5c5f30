"""What lies beneath the marks of a finished file: all of it that the marks leave as it was."""

import io
import struct
import zlib

import av

PNG_MARKS = {b"iTXt", b"caBX"}
"""Chunks of a PNG file that hold marks."""
JPEG_MARKS = {0xE1, 0xEB}
"""Markers of the segments of a JPEG file that hold marks: APP1 and APP11."""


def read_beneath(data: bytes) -> object:
    """Return the packets of an MP4 file with their times, or a picture without the chunks that hold its marks."""
    if data.startswith(b"\x89PNG"):
        return _strip_png(data)
    if data.startswith(b"\xff\xd8"):
        return _strip_jpeg(data)
    with av.open(io.BytesIO(data), "r") as container:
        streams = [
            (stream.type, stream.codec_context.name, stream.codec_context.extradata, stream.time_base, stream.duration)
            for stream in container.streams
        ]
        packets = [
            (packet.stream.index, packet.pts, packet.dts, packet.duration, packet.is_keyframe, bytes(packet))
            for packet in container.demux()
            if packet.size
        ]
    assert packets, "no packets"
    return streams, packets


def _strip_png(data: bytes) -> bytes:
    """Return a PNG file without its marks, and with its pixels in one chunk."""
    rest, pixels, place = [], b"", 8
    while place < len(data):
        (size,), kind = struct.unpack(">I", data[place : place + 4]), data[place + 4 : place + 8]
        content = data[place + 8 : place + 8 + size]
        assert zlib.crc32(kind + content) == int.from_bytes(data[place + 8 + size : place + 12 + size], "big")
        place += 12 + size
        if kind == b"IDAT":
            pixels += content
        elif kind not in PNG_MARKS:
            rest.append(kind + content)
    return b"".join([*rest, pixels])


def _strip_jpeg(data: bytes) -> bytes:
    kept, place = data[:2], 2
    while (marker := data[place + 1]) != 0xDA:
        (size,) = struct.unpack(">H", data[place + 2 : place + 4])
        if marker not in JPEG_MARKS:
            kept += data[place : place + 2 + size]
        place += 2 + size
    return kept + data[place:]
