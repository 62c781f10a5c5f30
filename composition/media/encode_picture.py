"""Encoding a picture as PNG, JPEG or WebP, with transparency where the format has it.

All functions block; async callers run them in a thread.
"""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from composition.media.encode import encode_png
from composition.media.formats import PictureFormat
from services.frames import Pixels

BEST = 100
"""The best quality."""
PNG_LEVEL = 3
"""zlib's level for PNG files with alpha, as for those without."""
LOSSLESS_EFFORT = 40
"""Effort of lossless WebP, from 0 (fastest) to 100 (smallest file)."""
WHITE = 255
SIGNATURE_BYTES = 8
"""Size of the signature at the beginning of a PNG file."""
CHUNK_BYTES = 12
"""Size of a chunk of a PNG file besides its content: length, type, checksum."""
PIXELS = b"IDAT"
"""Type of the chunks of a PNG file that hold its pixels."""


def encode_picture(pixels: Pixels, form: PictureFormat, quality: int = BEST, alpha: Pixels | None = None) -> bytes:
    """Encode a picture.

    PNG is lossless. JPEG has full-range BT.601 as JFIF requires, with chroma at full resolution (4:4:4). WebP is
    lossless at quality 100, and otherwise lossy, with chroma at half the resolution. All are sRGB.

    Args:
        pixels: (h, w, 3) uint8 RGB, straight (not premultiplied) colours.
        form: the file format.
        quality: from 0 to 100 for JPEG and WebP; not used for PNG.
        alpha: (h, w) uint8, the opacity; JPEG has none, so the picture is composited on white.
    """
    if form == "png" and alpha is None:
        return _join_chunks(encode_png(pixels))
    if form == "jpeg":
        picture = Image.fromarray(pixels if alpha is None else blend_on_white(pixels, alpha))
        return _save(picture, "JPEG", quality=quality, subsampling=0, optimize=True)
    picture = Image.fromarray(pixels if alpha is None else np.dstack([pixels, alpha]))
    if form == "png":
        return _save(picture, "PNG", compress_level=PNG_LEVEL)
    if quality == BEST:
        return _save(picture, "WEBP", lossless=True, exact=True, quality=LOSSLESS_EFFORT, method=2)
    return _save(picture, "WEBP", quality=quality, method=4)


def _join_chunks(png: bytes) -> bytes:
    """Return a PNG file with its pixels in one chunk. FFmpeg writes chunks of 4 KiB, which are slow to sign."""
    head, pixels, rest = [png[:SIGNATURE_BYTES]], list[bytes](), list[bytes]()
    place = SIGNATURE_BYTES
    while place < len(png):
        size, kind = struct.unpack_from(">I4s", png, place)
        stop = place + CHUNK_BYTES + size
        if kind == PIXELS:
            pixels.append(png[place + 8 : stop - 4])
        else:
            (rest if pixels else head).append(png[place:stop])
        place = stop
    data = b"".join([PIXELS, *pixels])
    joined = [struct.pack(">I", len(data) - len(PIXELS)), data, struct.pack(">I", zlib.crc32(data))]
    return b"".join([*head, *joined, *rest])


def _save(picture: Image.Image, name: str, **options: int) -> bytes:
    target = io.BytesIO()
    picture.save(target, name, **options)
    return target.getvalue()


def blend_on_white(pixels: Pixels, alpha: Pixels) -> Pixels:
    """Composite straight colours, (h, w, 3) uint8, on white by their opacity, (h, w) uint8."""
    opacity = alpha[..., None].astype(np.uint32)
    blended = (pixels * opacity + WHITE * (WHITE - opacity) + WHITE // 2) // WHITE
    return np.ascontiguousarray(blended.astype(np.uint8))


def convert_picture(source: Path, form: PictureFormat) -> bytes:
    """Encode a picture that this project has written in another format, with the best quality."""
    with Image.open(source) as picture:
        shown = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    values = np.array(shown)
    pixels = np.ascontiguousarray(values[..., :3])
    return encode_picture(pixels, form, alpha=values[..., 3] if values.shape[2] == 4 else None)
