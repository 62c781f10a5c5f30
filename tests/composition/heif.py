"""Writing HEIC pictures as phones do: tiles, rotation, alpha, profiles, several pictures in one file."""

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace

from services.frames import Pixels

ALPHA = b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0"


@dataclass
class Item:
    """An item of a HEIF file, with its properties."""

    kind: bytes
    data: bytes
    properties: list[bytes] = field(default_factory=list[bytes])
    tiles: list[int] = field(default_factory=list[int])
    """For a grid: numbers of the items that are its tiles."""
    alpha_of: int = 0
    """For an alpha plane: number of the item that it belongs to."""


def make_box(kind: bytes, *parts: bytes, version: int | None = None, flags: int = 0) -> bytes:
    head = b"" if version is None else struct.pack(">I", version << 24 | flags)
    data = head + b"".join(parts)
    return struct.pack(">I4s", len(data) + 8, kind) + data


def encode_still(pixels: Pixels, form: str = "yuv444p") -> tuple[bytes, bytes]:
    """Return the decoder configuration (`hvcC`) and the data of one HEVC picture, full range BT.709."""
    buffer = io.BytesIO()
    height, width = pixels.shape[:2]
    with av.open(buffer, "w", format="mp4") as container:
        options = {"crf": "4", "preset": "ultrafast", "x265-params": "log-level=none:ctu=16"}
        stream: Any = container.add_stream("libx265", rate=1, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, form
        context = stream.codec_context
        context.color_range, context.colorspace, context.color_primaries, context.color_trc = 2, 1, 1, 13
        frame = VideoFrame.from_ndarray(pixels, "rgb24").reformat(
            format=form, dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.JPEG
        )
        frame.pts, frame.time_base = 0, Fraction(1)
        for packet in (*stream.encode(frame), *stream.encode()):
            packet.pts = packet.dts = 0  # x265 does not set the decoding time of a single frame
            container.mux(packet)
    buffer.seek(0)
    with av.open(buffer, "r") as written:
        packet = next(written.demux(video=0))
        return bytes(written.streams.video[0].codec_context.extradata or b""), bytes(packet)


def make_picture(pixels: Pixels, form: str = "yuv444p", ispe: tuple[int, int] | None = None) -> Item:
    """Return a coded picture. `ispe` is the size in the header, by default the true one."""
    configuration, data = encode_still(pixels, form)
    return Item(b"hvc1", data, [make_box(b"hvcC", configuration), make_size(*(ispe or pixels.shape[1::-1]))])


def make_size(width: int, height: int) -> bytes:
    return make_box(b"ispe", struct.pack(">II", width, height), version=0)


def make_colours(primaries: int = 1, transfer: int = 13, matrix: int = 1) -> bytes:
    """Return the code numbers of the colours (`nclx`), full range."""
    return make_box(b"colr", b"nclx", struct.pack(">HHHB", primaries, transfer, matrix, 0x80))


def make_profile(profile: bytes) -> bytes:
    return make_box(b"colr", b"prof", profile)


def turn(quarters: int) -> bytes:
    """Return a rotation by a number of quarter turns counterclockwise."""
    return make_box(b"irot", bytes([quarters]))


def mirror(*, upside_down: bool = False) -> bytes:
    """Return a mirroring: left to right, or upside down."""
    return make_box(b"imir", bytes([0 if upside_down else 1]))


def write_heic(pixels: Pixels, *properties: bytes, form: str = "yuv444p", ispe: tuple[int, int] | None = None) -> bytes:
    """Return a HEIC file of one picture, with further properties in the order in which they apply."""
    item = make_picture(pixels, form, ispe)
    item.properties += [make_colours(), *properties]
    return write_items([item])


def write_tiled(pixels: Pixels, side: int, *properties: bytes) -> bytes:
    """Return a HEIC file of one picture made of square tiles; the last ones reach beyond the picture."""
    height, width = pixels.shape[:2]
    rows, columns = -(-height // side), -(-width // side)
    padded = np.pad(pixels, ((0, rows * side - height), (0, columns * side - width), (0, 0)), "edge")
    tiles = [
        make_picture(np.ascontiguousarray(padded[y * side : (y + 1) * side, x * side : (x + 1) * side]))
        for y in range(rows)
        for x in range(columns)
    ]
    layout = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)
    grid = Item(
        b"grid", layout, [make_size(width, height), make_colours(), *properties], list(range(1, len(tiles) + 1))
    )
    return write_items([*tiles, grid], primary=len(tiles) + 1)


def write_alpha(pixels: Pixels, alpha: Pixels) -> bytes:
    """Return a HEIC file of a picture and its opacity, (height, width, 3) grey."""
    picture, plane = make_picture(pixels), make_picture(alpha)
    picture.properties.append(make_colours())
    plane.properties += [make_colours(), make_box(b"auxC", ALPHA, version=0)]
    plane.alpha_of = 1
    return write_items([picture, plane])


def write_items(items: Sequence[Item], primary: int = 1, brand: bytes = b"heic") -> bytes:
    """Return a HEIF file. Items are numbered from 1."""
    names = make_box(
        b"iinf", struct.pack(">H", len(items)), *map(_name_item, range(1, len(items) + 1), items), version=0
    )
    references = b"".join(_refer(number, item) for number, item in enumerate(items, 1))
    properties: list[bytes] = []
    uses: list[bytes] = []
    for number, item in enumerate(items, 1):
        places = range(len(properties) + 1, len(properties) + len(item.properties) + 1)
        uses.append(struct.pack(">HB", number, len(places)) + bytes(0x80 | place for place in places))
        properties += item.properties
    ipma = make_box(b"ipma", struct.pack(">I", len(items)), *uses, version=0)
    meta = [
        make_box(b"hdlr", bytes(4), b"pict", bytes(13), version=0),
        make_box(b"pitm", struct.pack(">H", primary), version=0),
        names,
        make_box(b"iref", references, version=0) if references else b"",
        make_box(b"iprp", make_box(b"ipco", *properties), ipma),
    ]
    head = make_box(b"ftyp", brand, bytes(4), b"mif1", b"heic")
    start = len(head) + len(make_box(b"meta", *meta, _locate(items, 0), version=0)) + 8
    return (
        head + make_box(b"meta", *meta, _locate(items, start), version=0) + make_box(b"mdat", *(i.data for i in items))
    )


def _name_item(number: int, item: Item) -> bytes:
    is_hidden = int(bool(item.alpha_of))
    return make_box(b"infe", struct.pack(">HH", number, 0), item.kind, b"\0", version=2, flags=is_hidden)


def _refer(number: int, item: Item) -> bytes:
    kind, others = (b"dimg", item.tiles) if item.tiles else (b"auxl", [item.alpha_of] if item.alpha_of else [])
    return make_box(kind, struct.pack(f">HH{len(others)}H", number, len(others), *others)) if others else b""


def _locate(items: Sequence[Item], start: int) -> bytes:
    """Return the places of the items, which follow each other from `start` on."""
    entries: list[bytes] = []
    for number, item in enumerate(items, 1):
        entries.append(struct.pack(">HHHII", number, 0, 1, start, len(item.data)))
        start += len(item.data)
    return make_box(b"iloc", b"\x44\x00", struct.pack(">H", len(items)), *entries, version=0)
