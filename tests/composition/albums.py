"""Zip archives of pictures, created on demand: valid ones, and hostile ones that must be rejected."""

import io
import stat
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from services.frames import Pixels
from tests.composition import sample_media as media

Entries = Iterable[tuple[str | zipfile.ZipInfo, bytes]]


def encoded(pixels: Any, form: str = "png", **how: Any) -> bytes:
    """Return a picture as the bytes of a file. Array shapes as in Pillow."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **how)
    return buffer.getvalue()


def numbered(number: int, width: int = 64, height: int = 48) -> bytes:
    """Return a PNG that encodes its number."""
    return encoded(media.numbered(number, width, height))


def zipped(path: Path, entries: Entries, method: int = zipfile.ZIP_STORED) -> Path:
    """Write a zip archive with entries in the given order."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


def album(path: Path, count: int, width: int = 64, height: int = 48) -> Path:
    """Write a zip archive of numbered pictures."""
    return zipped(path, [(f"frame{n}.png", numbered(n, width, height)) for n in range(count)])


def folder(path: Path, files: Mapping[str, bytes]) -> Path:
    """Write a folder of files: path → content."""
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def patched(path: Path, name: str, field: int, form: str, value: int) -> Path:
    """Overwrite a number in the directory entry of this name, at offset `field`."""
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\1\2", 0, data.rindex(name.encode()))
    struct.pack_into(form, data, at + field, value)
    path.write_bytes(data)
    return path


FLAGS, CHECKSUM, UNPACKED, ATTRIBUTES = (8, "<H"), (16, "<I"), (24, "<I"), (38, "<I")
"""Fields of a directory entry: offset and size."""


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


def spoiled(data: bytes) -> bytes:
    """Return the picture with its second half overwritten."""
    return data[: len(data) // 2] + b"\xff" * (len(data) - len(data) // 2)


def noisy(seed: int = 0, width: int = 64, height: int = 48) -> Pixels:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def moving_gif() -> bytes:
    frames = [Image.fromarray(media.numbered(n)) for n in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "gif", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def moving_webp() -> bytes:
    return encoded(media.numbered(0), "webp", save_all=True, append_images=[Image.fromarray(media.numbered(1))])


def _with(name: str | zipfile.ZipInfo, data: bytes) -> Callable[[Path], Path]:
    """Write an archive of two pictures with a forbidden entry between them."""
    return lambda path: zipped(path, [("frame1.png", numbered(1)), (name, data), ("frame3.png", numbered(3))])


def _docx(path: Path) -> Path:
    return zipped(path, [("[Content_Types].xml", b"<?xml version='1.0'?>"), ("word/document.xml", b"<?xml?>")])


def _cut(path: Path, share: float) -> Path:
    whole = album(path, 8).read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    return path


def _wrong_checksum(path: Path) -> Path:
    return patched(album(path, 3), "frame1.png", *CHECKSUM, 0)


def _damaged_deflate(path: Path) -> Path:
    data = bytearray(zipped(path, [("frame1.png", bytes(100) + noisy().tobytes())], zipfile.ZIP_DEFLATED).read_bytes())
    data[60:2000] = b"\xff" * 1940
    path.write_bytes(data)
    return path


def _no_local_header(path: Path) -> Path:
    data = album(path, 3).read_bytes()
    at = data.index(b"PK\3\4", 10)
    path.write_bytes(data[:at] + b"XXXX" + data[at + 4 :])
    return path


def _twice(path: Path) -> Path:
    entries = [("frame1.png", numbered(1)), ("frame2.png", numbered(2)), ("frame3.png", numbered(3))]
    data = zipped(path, entries).read_bytes()
    path.write_bytes(data.replace(b"frame3.png", b"frame1.png"))
    return path


def _bad_names(path: Path) -> Path:
    """Write an archive whose names are flagged as UTF-8 and are not."""
    data = zipped(path, [("frameé.png", numbered(1))]).read_bytes()
    path.write_bytes(data.replace("é".encode(), b"\xff\xfe"))
    return path


def _renamed(name: bytes) -> Callable[[Path], Path]:
    """Write an archive with a name that zipfile would not write."""

    def make(path: Path) -> Path:
        stand_in = "x" * len(name)
        data = zipped(path, [("frame1.png", numbered(1)), (stand_in, numbered(2))]).read_bytes()
        path.write_bytes(data.replace(stand_in.encode(), name))
        return path

    return make


BAD: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "absolute": (_with("/etc/frame2.png", numbered(2)), ("'/etc/frame2.png'", "absolute")),
    "drive": (_with("C:/frame2.png", numbered(2)), ("'C:/frame2.png'", "drive")),
    "backslash": (_renamed(b"a\\frame2.png"), (r"'a\\frame2.png'", "backslash")),
    "parent": (_with("../frame2.png", numbered(2)), ("'../frame2.png'", "..")),
    "parent-inside": (_with("a/../../frame2.png", numbered(2)), ("'a/../../frame2.png'", "..")),
    "parent-folder": (_with("a/../", b""), ("'a/../'", "..")),
    "nul": (_renamed(b"frame2.png\0.txt"), (r"'frame2.png\x00.txt'", "NUL")),
    "no-name": (_with(".//.", numbered(2)), ("'.//.'", "no name")),
    "link": (_with(link("frame2.png"), b"/etc/passwd"), ("'frame2.png'", "link")),
    "encrypted": (
        lambda path: patched(album(path, 3), "frame1.png", *FLAGS, 1),
        ("'frame1.png'", "encrypted"),
    ),
    "twice": (_twice, ("'frame1.png'", "two files of this name")),
    "twice-by-path": (_with("./frame1.png", numbered(2)), ("'./frame1.png'", "two files of this name")),
    "text": (_with("notes.txt", b"No picture at all.\n" * 99), ("'notes.txt'", "text, not a picture")),
    "empty-file": (_with("frame2.png", b""), ("'frame2.png'", "empty")),
    "video": (
        lambda path: _with("frame2.mp4", media.one_frame(path.parent).read_bytes())(path),
        ("'frame2.mp4'", "format must be one of PNG"),
    ),
    "archive": (
        lambda path: _with("more.zip", album(path, 1).read_bytes())(path),
        ("'more.zip'", "format must be one of PNG"),
    ),
    "moving-gif": (_with("frame2.gif", moving_gif()), ("'frame2.gif'", "animated")),
    "moving-webp": (_with("frame2.webp", moving_webp()), ("'frame2.webp'", "animated")),
    "huge": (_with("frame2.png", media.png_header(60_000, 60_000)), ("'frame2.png'", "60000x60000", "max_side")),
    "tiny": (_with("frame2.png", numbered(2, 8, 8)), ("'frame2.png'", "8x8", "min_side")),
    "office": (_docx, ("'[Content_Types].xml'", "text, not a picture")),
    "long-name": (_with("x" * 5000 + "/frame2.png", b"?"), ("xxx/frame2.png'", "text, not a picture")),
    "control": (_with("frame\x1b[31m.png", b"?"), (r"'frame\x1b[31m.png'",)),
    "empty": (lambda path: zipped(path, []), ("no pictures in the archive",)),
    "only-ignored": (lambda path: zipped(path, [("a/", b""), ("__MACOSX/a", b"?")]), ("no pictures in the archive",)),
    "cut-1": (lambda path: _cut(path, 0.1), ("truncated or damaged", "directory")),
    "cut-5": (lambda path: _cut(path, 0.5), ("truncated or damaged", "directory")),
    "cut-9": (lambda path: _cut(path, 0.95), ("truncated or damaged", "directory")),
    "bad-names": (_bad_names, ("truncated or damaged",)),
    "no-local-header": (_no_local_header, ("'frame1.png'", "damaged or truncated")),
    "checksum": (_wrong_checksum, ("'frame1.png'", "CRC")),
    "damaged-deflate": (_damaged_deflate, ("'frame1.png'",)),
    "bzip2": (
        lambda path: zipped(path, [("frame1.png", numbered(1))], zipfile.ZIP_BZIP2),
        ("'frame1.png'", "bzip2"),
    ),
    "lzma": (lambda path: zipped(path, [("frame1.png", numbered(1))], zipfile.ZIP_LZMA), ("'frame1.png'", "lzma")),
    "damaged-png": (_with("frame2.png", spoiled(encoded(noisy()))), ("'frame2.png'", "damaged or truncated")),
    "half-jpg": (_with("frame2.jpg", encoded(noisy(), "jpeg")[:900]), ("'frame2.jpg'", "damaged or truncated")),
}
"""Archives that must be rejected: name → how to write the archive, and parts of the error message."""
