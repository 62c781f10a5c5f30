"""Recipes of files that refer to other files or to the network, or are no media at all."""

import io
import os
import pickle
import struct

from PIL import Image

from tests.composition.media.hostile import (
    DAMAGED,
    EITHER,
    REFUSED,
    TRIANGLE,
    Recipe,
    box,
    make_gif,
    png,
    rebuild,
    riff,
)

TARGET = "/etc/passwd"
"""A file that every system has, and that no decoder may open."""


class Harmful:
    """An object that runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("false",)


def draw(form: str) -> bytes:
    """Return a small picture in a format."""
    drawn = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(drawn, form)
    return drawn.getvalue()


def make_dash() -> bytes:
    return (
        f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file://{TARGET}">]>'
        '<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S"><Period>'
        '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1">'
        f"<BaseURL>file://{TRIANGLE}</BaseURL></Representation></AdaptationSet></Period></MPD>"
    ).encode()


def make_svg() -> bytes:
    return (
        f'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY e SYSTEM "file://{TARGET}">]>'
        '<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64">'
        f'<image href="file://{TARGET}"/><text>&e;</text></svg>'
    ).encode()


def make_playlist(entry: str) -> bytes:
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{entry}\n#EXT-X-ENDLIST\n".encode()


def make_outer_reference(kind: bytes, content: bytes) -> bytes:
    """Return a video that says that its data is in another file (`dref`)."""
    entry = struct.pack(">II", 0, 1) + box(kind, bytes(4) + content)
    return rebuild(TRIANGLE.read_bytes(), b"dref", lambda _: entry)


def make_alias(path: bytes) -> bytes:
    """Return an alias record with an absolute path, as of QuickTime."""
    padded = path + b"\0" * (len(path) % 2)
    record = struct.pack(">4xHHHH28s12x64s16xHH16x", 150 + 8, 2, 0, 0, b"\3vol", b"\6passwd", 2, 2)
    paths = b"".join(struct.pack(">hH", kind, len(path)) + padded for kind in (2, 18))
    return record + paths + struct.pack(">hH", -1, 0)


def make_hidden_animation() -> bytes:
    """Return an animated WebP whose animation comes after unknown data, and is empty."""
    sizes = 2 * (63).to_bytes(3, "little")
    head = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + sizes
    return riff(head + b"JUNK" + struct.pack("<I", 200) + bytes(200) + b"ANIM" + struct.pack("<I", 6) + bytes(6))


def make_lossless_webp_header() -> bytes:
    side = 0x3FFF
    return riff(b"VP8L" + struct.pack("<IBI", 20, 0x2F, side | side << 14) + bytes(15))


RECIPES: dict[str, Recipe] = {
    "hls_of_file": Recipe(
        "HLS playlist that names a local file", "m3u8", lambda: make_playlist(f"file://{TARGET}"), DAMAGED
    ),
    "hls_as_mp4": Recipe(
        "HLS playlist that names `concat:` of local files, as .mp4",
        "mp4",
        lambda: make_playlist(f"concat:file://{TARGET}|file:///etc/hosts"),
        DAMAGED,
    ),
    "hls_of_network": Recipe(
        "HLS playlist that names a URL", "m3u8", lambda: make_playlist("http://127.0.0.1:1/a.ts"), DAMAGED
    ),
    "concat": Recipe(
        "FFmpeg's list of files (`ffconcat`)",
        "txt",
        f"ffconcat version 1.0\nfile '{TRIANGLE}'\n".encode,
        DAMAGED,
    ),
    "dash": Recipe("DASH manifest that names a local file and an XML entity", "mpd", make_dash, DAMAGED),
    "sdp": Recipe(
        "SDP, the description of a stream in the network",
        "sdp",
        lambda: (
            b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
            b"m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
        ),
        DAMAGED,
    ),
    "svg": Recipe("SVG that names a local file and an XML entity", "svg", make_svg, DAMAGED),
    "srt": Recipe("subtitles, SRT", "srt", lambda: b"1\n00:00:00,000 --> 00:00:01,000\nhi\n", DAMAGED),
    "ass": Recipe(
        "subtitles, ASS",
        "ass",
        lambda: b"[Script Info]\nScriptType: v4.00+\n[Events]\nDialogue: 0,0:00:00.00,0:00:01.00,Default,,0,0,0,,hi\n",
        DAMAGED,
    ),
    "html": Recipe("HTML with a script", "html", lambda: b"<html><script>alert(1)</script></html>", DAMAGED),
    "empty": Recipe("empty file", "png", lambda: b"", DAMAGED),
    "pickle": Recipe(
        "pickle that runs a command when it is loaded, as .pt", "pt", lambda: pickle.dumps(Harmful()), DAMAGED
    ),
    "tiff": Recipe("TIFF, which is not accepted", "tiff", lambda: draw("TIFF"), DAMAGED),
    "bmp": Recipe("BMP, which is not accepted", "bmp", lambda: draw("BMP"), DAMAGED),
    "mp4_url": Recipe(
        "MP4 that says its data is in /etc/passwd (`dref`, `url `)",
        "mp4",
        lambda: make_outer_reference(b"url ", f"file://{TARGET}\0".encode()),
        ("accepted", *DAMAGED),
    ),
    "mp4_alias": Recipe(
        "MP4 that says its data is in /etc/passwd (`dref`, `alis`)",
        "mp4",
        lambda: make_outer_reference(b"alis", make_alias(TARGET.encode())),
        ("accepted", *DAMAGED),
    ),
    "mp4_half": Recipe(
        "MP4 cut in half", "mp4", lambda: TRIANGLE.read_bytes()[: TRIANGLE.stat().st_size // 2], ("accepted", *DAMAGED)
    ),
    "png_huge_side": Recipe(
        "PNG of 2147483647x2147483647 by its header",
        "png",
        lambda: png()[:16] + struct.pack(">II", 0x7FFFFFFF, 0x7FFFFFFF) + png()[24:],
        REFUSED,
    ),
    "gif_of_300000": Recipe("GIF of 300,000 frames", "gif", lambda: make_gif((16, 16), 300_000), REFUSED),
    "webp_lossless_huge": Recipe(
        "lossless WebP of 16384x16384 by its header", "webp", make_lossless_webp_header, REFUSED
    ),
    "webp_hidden_animation": Recipe(
        "animated WebP without frames, behind unknown data", "webp", make_hidden_animation, EITHER
    ),
}
