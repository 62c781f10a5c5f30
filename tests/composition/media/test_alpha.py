"""Transparency is composited on one background, whatever the codec."""

import struct
import zlib
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from PIL import Image
from pydantic import ValidationError

from composition.media.decode import Decoder, MediaFacts
from composition.media.limits import MediaLimits
from services.frames import Pixels
from tests.composition import sample_media
from tests.composition.cards import QUARTERS, draw_card, read_quarters
from tests.composition.sample_media import picture, solid

FILES = Path(__file__).parents[2] / "data" / "media"
VPX = {"crf": "4", "b": "8M", "deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "0"}
FILMS: dict[str, tuple[str, str, str, dict[str, str]]] = {
    "vp9": ("libvpx-vp9", "yuva420p", ".webm", VPX),
    "vp9-mkv": ("libvpx-vp9", "yuva420p", ".mkv", VPX),
    "vp8": ("libvpx", "yuva420p", ".webm", VPX),
    "prores": ("prores_ks", "yuva444p10le", ".mov", {}),
    "qtrle": ("qtrle", "argb", ".mov", {}),
    "png": ("png", "rgba", ".mov", {}),
    "ffv1": ("ffv1", "yuva420p", ".mkv", {}),
    "ffv1-10-bit": ("ffv1", "yuva444p10le", ".mkv", {}),
}
HALF = 128


def draw_transparent(number: int, width: int = 64, height: int = 48) -> Pixels:
    """Return a card whose right quarters are transparent above and half transparent below, (height, width, 4)."""
    alpha = np.full((height, width, 1), 255, np.uint8)
    alpha[: height // 2, width // 2 :], alpha[height // 2 :, width // 2 :] = 0, HALF
    return np.concatenate([draw_card(number, width, height), alpha], 2)


def film(path: Path, frames: list[Pixels], codec: str, pix_fmt: str, options: dict[str, str]) -> Path:
    height, width = frames[0].shape[:2]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        if codec.startswith("libvpx"):
            stream.metadata["alpha_mode"] = "1"
        for number, pixels in enumerate(frames):
            frame = VideoFrame.from_ndarray(pixels, "rgba").reformat(format=pix_fmt)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def composite(background: tuple[int, int, int]) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """Return the colours of the quarters of `draw_transparent` on a background."""
    shares = np.array([255, 0, 255, HALF])[:, None] / 255
    return np.array(QUARTERS) * shares + np.array(background) * (1 - shares)


async def show(path: Path, background: str | None = None) -> tuple[MediaFacts, Pixels]:
    async with Decoder.open(path, background=background) as decoder:
        await decoder.verify()
        return decoder.facts, (await decoder.read_last()).pixels[0]


@pytest.mark.parametrize("size", [(64, 48), (318, 182)], ids=["small", "large"])
@pytest.mark.parametrize("name", FILMS)
async def test_videos_are_composited_alike(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    codec, pix_fmt, suffix, options = FILMS[name]
    frames = [draw_transparent(number, *size) for number in range(4)]
    path = film(tmp_path / f"a{suffix}", frames, codec, pix_fmt, options)
    for background, colour in ((None, (255, 255, 255)), ("black", (0, 0, 0)), ("#20C060", (32, 192, 96))):
        facts, shown = await show(path, background)
        name = "white" if background is None else background.lower()
        assert (facts.changes, facts.damaged, facts.frames) == ({"alpha": f"on {name}"}, None, 4)
        assert (facts.width, facts.height) == size
        assert np.abs(read_quarters(shown) - composite(colour)).max() <= 5


async def test_every_frame_of_vp9_has_its_alpha(tmp_path: Path) -> None:
    frames = [np.concatenate([solid((200, 30, 30)), np.full((48, 64, 1), 20 * n, np.uint8)], 2) for n in range(12)]
    path = film(tmp_path / "a.webm", frames, "libvpx-vp9", "yuva420p", VPX)
    async with Decoder.open(path, background="black") as decoder:
        in_order = np.concatenate([run.pixels async for run in decoder.stream_runs()])
        backwards = [(await anext(decoder.stream_runs(position, 1))).pixels[0] for position in (11, 5, 0)]
        sampled = (await decoder.sample(12)).pixels
        assert decoder.facts.codec == "vp9"
    assert np.abs(in_order[:, 24, 32, 0] - np.arange(12) * 20 * 200 / 255).max() <= 5
    assert np.array_equal(np.stack(backwards), in_order[[11, 5, 0]])
    assert np.array_equal(sampled, in_order)


@pytest.mark.parametrize("name", ["alpha_vp9.webm", "alpha_prores.mov", "rgba.png"])
async def test_files_of_other_programs(name: str) -> None:
    facts, shown = await show(FILES / name)
    assert facts.changes == {"alpha": "on white"}
    assert (shown[-3:, -10:] >= 250).all()
    assert np.abs(read_quarters(shown)[2] - QUARTERS[2]).max() <= 4


def stills() -> dict[str, tuple[Any, str, dict[str, Any]]]:
    """Return name → array, Pillow's mode and options of pictures, all transparent on the right and red on the left."""
    rgba = np.concatenate([solid((200, 30, 30)), np.full((48, 64, 1), 255, np.uint8)], 2)
    rgba[:, 32:] = (0, 255, 0, 0)
    grey = np.ascontiguousarray(rgba[..., [0, 3]])
    return {
        "rgba.png": (rgba, "RGBA", {}),
        "grey.png": (grey, "LA", {}),
        "a.webp": (rgba, "RGBA", {"lossless": True}),
        "lossy.webp": (rgba, "RGBA", {"quality": 98}),
        "still.gif": (rgba, "RGBA", {}),
    }


@pytest.mark.parametrize("name", stills())
async def test_pictures_are_composited(tmp_path: Path, name: str) -> None:
    pixels, mode, how = stills()[name]
    path = tmp_path / name
    Image.fromarray(pixels, mode).save(path, **how)
    red = (200, 200, 200) if mode == "LA" else (200, 30, 30)
    for background, colour in (("white", 255), ("black", 0)):
        facts, shown = await show(path, background)
        assert (facts.kind, facts.changes) == ("image", {"alpha": f"on {background}"})
        assert np.abs(shown[:, :28].astype(int) - red).max() <= 5
        assert np.abs(shown[:, 36:].astype(int) - colour).max() <= 2


def png(path: Path, rows: "np.ndarray[Any, Any]", kind: int, depth: int, *chunks: tuple[bytes, bytes]) -> Path:
    """Write a PNG of any type. `rows` are (height, bytes per row) uint8."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    width = rows.shape[1] * 8 // (depth * channels)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    return path


async def test_transparency_of_png_in_every_form(tmp_path: Path) -> None:
    deep = np.zeros((48, 64, 4), ">u2")
    deep[:, :32], deep[:, 32:] = (51_400, 7710, 7710, 65_535), (0, 65_535, 0, 0)
    rgb = np.repeat(np.array([[(200, 30, 30)] * 32 + [(1, 2, 3)] * 32], np.uint8), 48, 0)
    index = np.repeat(np.array([[0] * 32 + [1] * 32], np.uint8), 48, 0)
    palette = (b"PLTE", bytes([200, 30, 30, 0, 255, 0]))
    paths = [
        png(tmp_path / "deep.png", deep.view(np.uint8).reshape(48, -1), 6, 16),
        png(tmp_path / "key.png", rgb.reshape(48, -1), 2, 8, (b"tRNS", struct.pack(">HHH", 1, 2, 3))),
        png(tmp_path / "palette.png", index, 3, 8, palette, (b"tRNS", bytes([255, 0]))),
    ]
    for path in paths:
        facts, shown = await show(path)
        assert facts.changes == {"alpha": "on white"}, path
        assert np.abs(shown[:, :32].astype(int) - (200, 30, 30)).max() <= 1, path
        assert (shown[:, 32:] == 255).all(), path


async def test_a_picture_that_is_opaque_everywhere_is_not_changed(tmp_path: Path) -> None:
    card = draw_card(9)
    rgba = np.concatenate([card, np.full((48, 64, 1), 255, np.uint8)], 2)
    for name in ("a.png", "a.webp", "a.gif"):
        path = picture(tmp_path / name, rgba, **({"lossless": True} if name == "a.webp" else {}))
        facts, shown = await show(path)
        assert facts.changes == {}
        assert np.abs(shown.astype(int) - card).max() <= (6 if name == "a.gif" else 0)


async def test_a_gif_that_becomes_transparent_says_so(tmp_path: Path) -> None:
    frames = [Image.fromarray(draw_transparent(number), "RGBA") for number in range(3)]
    frames[0].putalpha(255)
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100, disposal=2)
    async with Decoder.open(path) as decoder:
        assert decoder.facts.changes == {}
        shown = (await decoder.read_last()).pixels[0]
        assert decoder.facts.changes == {"alpha": "on white"}
    assert (shown[:10, -10:] == 255).all()


async def test_a_picture_with_its_alpha(tmp_path: Path) -> None:
    drawn = draw_transparent(9, 61, 43)
    async with Decoder.open(picture(tmp_path / "a.png", drawn)) as decoder:
        colours, alpha = await decoder.read_picture_with_alpha()
        composited = await decoder.read_last()
    assert alpha is not None
    assert np.array_equal(colours.pixels[0], drawn[..., :3])
    assert np.array_equal(alpha.pixels[0], np.repeat(drawn[..., 3:], 3, 2))
    share = alpha.pixels / 255
    assert np.abs(colours.pixels * share + 255 * (1 - share) - composited.pixels).max() <= 0.51
    async with Decoder.open(picture(tmp_path / "opaque.png", draw_card(1))) as decoder:
        colours, alpha = await decoder.read_picture_with_alpha()
    assert alpha is None
    assert np.array_equal(colours.pixels[0], draw_card(1))


async def test_a_turned_picture_with_its_alpha(tmp_path: Path) -> None:
    drawn, exif = draw_transparent(9), Image.Exif()
    exif[0x0112] = 5
    async with Decoder.open(picture(tmp_path / "a.png", drawn, exif=exif)) as decoder:
        colours, alpha = await decoder.read_picture_with_alpha()
    assert alpha is not None
    assert np.array_equal(colours.pixels[0], drawn[..., :3].transpose(1, 0, 2))
    assert np.array_equal(alpha.pixels[0, ..., 0], drawn[..., 3].T)


async def test_the_alpha_of_a_picture_in_an_album(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    drawn = draw_transparent(9)
    picture(folder / "1.png", drawn)
    async with Decoder.open(folder) as decoder:
        colours, alpha = await decoder.read_picture_with_alpha()
    assert alpha is not None
    assert np.array_equal(colours.pixels[0], drawn[..., :3])


async def test_a_video_without_alpha_is_left_alone(tmp_path: Path) -> None:
    vp9 = sample_media.Coding("libvpx-vp9", options=VPX)
    facts, _ = await show(sample_media.count(tmp_path / "a.webm", 3, vp9))
    assert facts.changes == {}


@pytest.mark.parametrize("background", ["white", "Black", "#12aBcd", "teal"])
def test_backgrounds(background: str) -> None:
    assert MediaLimits.model_validate({"background": background}).background == background.lower()


@pytest.mark.parametrize("background", ["", "transparent", "#123", "#gggggg", "rgb(1,2,3)", "#1234567"])
def test_backgrounds_that_are_none(background: str) -> None:
    with pytest.raises(ValidationError, match="must be #rrggbb, or one of aqua"):
        MediaLimits.model_validate({"background": background})
