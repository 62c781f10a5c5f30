"""Recordings that were cut off, and pictures whose size changes: what is there is used, and what was done is told."""

import io
import re
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from PIL import Image

from composition.media.decode import Decoder, MediaFacts, probe_media
from composition.media.decoding.endings import is_cut
from composition.media.decoding.frame_index import MATROSKA, MOV, TS
from services.errors import UndecodableMedia
from services.frames import Pixels
from tests.composition import sample_media as media
from tests.composition.cards import draw_card, read_code
from tests.composition.media.test_decode import X264, pulled
from tests.composition.sample_media import Coding

DATA = Path(__file__).parents[2] / "data" / "media"
FRAMES = 60
B_FRAMES = {**X264, "bf": "2", "g": "12"}
RECORDINGS = {
    "obs.mp4": Coding(options={**X264, "g": "12"}, container={"movflags": "frag_keyframe+empty_moov"}),
    "b-frames.mp4": Coding(options=B_FRAMES, container={"movflags": "frag_keyframe+empty_moov"}),
    "faststart.mp4": Coding(options=B_FRAMES, container={"movflags": "faststart"}),
    "plain.mkv": Coding(options=B_FRAMES),
    "crashed.mkv": Coding(options={**X264, "g": "12"}, form="matroska", container={"live": "1"}),
    "vp9.webm": Coding("libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"}),
    "recorder.webm": Coding("libvpx", options={"deadline": "realtime", "b": "2M"}, container={"live": "1"}, matrix=5),
    "plain.ts": Coding(options=B_FRAMES),
    "plain.avi": Coding("mpeg4", options={"qscale": "2"}, matrix=5),
    "rle.gif": Coding("gif", "rgb8", tagged=False),
}


async def read_all(path: Path) -> tuple[Pixels, MediaFacts]:
    async with Decoder.open(path) as decoder:
        await decoder.verify()
        pixels = await pulled(decoder)
        return pixels, decoder.facts


@pytest.mark.parametrize("part", [0.55, 0.8, 0.93])
@pytest.mark.parametrize("name", RECORDINGS)
async def test_a_recording_that_was_cut_off_is_used_as_far_as_it_goes(tmp_path: Path, name: str, part: float) -> None:
    cards = [draw_card(number, 128, 96) for number in range(FRAMES)]
    whole = media.clip(tmp_path / name, cards, 25, RECORDINGS[name])
    assert (await probe_media(whole)).damaged is None
    data = whole.read_bytes()
    cut = tmp_path / f"cut-{name}"
    cut.write_bytes(data[: int(len(data) * part) | 1])  # an odd number of bytes ends inside of a packet
    pixels, facts = await read_all(cut)
    assert 0 < len(pixels) == facts.frames < FRAMES
    assert facts.damaged is not None
    assert facts.damaged.startswith("truncated: ")
    assert "could not" not in facts.damaged
    assert [read_code(frame) for frame in pixels] == list(range(len(pixels)))
    assert (facts.rate, facts.is_variable, facts.duration_s) == (25, False, pytest.approx(len(pixels) / 25))
    worst = max(np.abs(frame.astype(int) - card).mean() for frame, card in zip(pixels, cards, strict=False))
    assert worst < 16  # no half frames: of the same quality as the others


async def test_a_cut_fragmented_recording_says_how_many_frames_are_there() -> None:
    pixels, facts = await read_all(DATA / "frag_cut.mp4")
    assert (facts.damaged, facts.frames, facts.rate) == ("truncated: 12 of 15 frames", 12, 24)
    assert [read_code(frame) for frame in pixels] == list(range(1, 13))


async def test_a_cut_file_with_its_index_first_says_how_many_frames_are_there(tmp_path: Path) -> None:
    cards = [draw_card(number, 128, 96) for number in range(FRAMES)]
    whole = media.clip(tmp_path / "a.mp4", cards, 25, RECORDINGS["faststart.mp4"]).read_bytes()
    (tmp_path / "b.mp4").write_bytes(whole[: len(whole) // 2])
    facts = await probe_media(tmp_path / "b.mp4")
    assert facts.damaged == f"truncated: {facts.frames} of {FRAMES} frames"


async def test_a_cut_matroska_file_says_how_many_seconds_are_there(tmp_path: Path) -> None:
    cards = [draw_card(number, 128, 96) for number in range(FRAMES)]
    whole = media.clip(tmp_path / "a.mkv", cards, 25, RECORDINGS["plain.mkv"]).read_bytes()
    (tmp_path / "b.mkv").write_bytes(whole[: len(whole) // 2])
    facts = await probe_media(tmp_path / "b.mkv")
    assert facts.damaged is not None
    assert re.fullmatch(r"truncated: \d\.\d of 2\.4 s", facts.damaged)


async def test_a_file_without_a_whole_frame_is_refused(tmp_path: Path) -> None:
    noise = list(np.random.default_rng(0).integers(0, 255, (3, 96, 128, 3), dtype=np.uint8))
    whole = media.clip(tmp_path / "a.mp4", noise, 25, RECORDINGS["faststart.mp4"]).read_bytes()
    (tmp_path / "b.mp4").write_bytes(whole[: whole.index(b"mdat") + 500])
    with pytest.raises(UndecodableMedia, match="truncated before the end of its first frame"):
        await probe_media(tmp_path / "b.mp4")


@pytest.mark.parametrize("part", [0.5, 0.9])
@pytest.mark.parametrize("form", ["png", "webp"])
async def test_a_cut_animation_is_used_as_far_as_it_goes(tmp_path: Path, form: str, part: float) -> None:
    cards = [draw_card(number, 70, 50) for number in range(8)]
    first, *rest = [Image.fromarray(card) for card in cards]
    first.save(tmp_path / f"a.{form}", save_all=True, append_images=rest, duration=100, lossless=True)
    data = (tmp_path / f"a.{form}").read_bytes()
    (tmp_path / f"b.{form}").write_bytes(data[: int(len(data) * part)])
    pixels, facts = await read_all(tmp_path / f"b.{form}")
    assert 1 < facts.frames < 8
    assert np.array_equal(pixels, np.stack(cards[: facts.frames]))
    assert facts.duration_s == pytest.approx(facts.frames / 10)
    assert facts.damaged in (
        f"truncated: {facts.frames} of 8 frames",
        f"truncated: the first {facts.frames} frames are complete",
    )


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_whole_file_is_not_cut(tmp_path: Path, name: str) -> None:
    path = media.clip(tmp_path / name, [draw_card(number) for number in range(3)], 25, RECORDINGS[name])
    forms = {".mp4": MOV, ".mkv": MATROSKA, ".webm": MATROSKA, ".ts": TS, ".gif": "gif"}
    form = forms.get(path.suffix, "avi")
    assert not is_cut(str(path), form)
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    assert is_cut(str(path), form)
    if form == MOV:
        path.write_bytes(data + b"what a phone appends")
        assert not is_cut(str(path), form)


def encode_raw(cards: list[Pixels], options: dict[str, str]) -> bytes:
    """Return H.264 without a container."""
    target = io.BytesIO()
    height, width = cards[0].shape[:2]
    with av.open(target, "w", format="h264") as container:
        stream: Any = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number, card in enumerate(cards):
            frame = VideoFrame.from_ndarray(card, "rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return target.getvalue()


def write_resized(path: Path, *parts: list[Pixels]) -> Path:
    """Write a video whose size changes: H.264 parts of different sizes, one after the other."""
    options = {**X264, "bf": "0", "x264-params": "annexb=1:repeat-headers=1"}
    source = io.BytesIO(b"".join(encode_raw(part, options) for part in parts))
    with av.open(source, "r", format="h264") as parsed, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(parsed.streams.video[0])
        for number, packet in enumerate(parsed.demux(video=0)):
            if packet.size:
                packet.stream, packet.time_base = stream, Fraction(1, 25)
                packet.pts = packet.dts = number
                packet.duration = 1
                container.mux(packet)
    return path


def draw_fitted(card: Pixels, width: int, height: int) -> Pixels:
    """Return a picture scaled into a size, centred on black."""
    scale = min(width / card.shape[1], height / card.shape[0])
    inner = Image.fromarray(card).resize(
        (round(card.shape[1] * scale), round(card.shape[0] * scale)), Image.Resampling.BICUBIC
    )
    fitted = Image.new("RGB", (width, height))
    fitted.paste(inner, ((width - inner.width) // 2, (height - inner.height) // 2))
    return np.asarray(fitted)


@pytest.mark.parametrize("container", ["ts", "mkv"])
@pytest.mark.parametrize("size", [(48, 64), (128, 96), (160, 48), (32, 96)], ids=str)
async def test_frames_of_another_size_are_fitted_without_stretching(
    tmp_path: Path, container: str, size: tuple[int, int]
) -> None:
    first, second = [draw_card(n) for n in range(6)], [draw_card(n, *size) for n in range(6, 12)]
    path = write_resized(tmp_path / f"a.{container}", first, second)
    probed = await probe_media(path)
    pixels, facts = await read_all(path)
    told = {} if size == (64, 48) else {"resized": f"64x48 to {size[0]}x{size[1]}"}
    assert facts.changes == probed.changes == told
    assert (facts.width, facts.height, facts.frames) == (64, 48, 12)
    for frame, card in zip(pixels, [*first, *second], strict=True):
        assert np.abs(frame.astype(int) - draw_fitted(card, 64, 48)).mean() < 8


async def test_a_shared_screen_that_is_turned_keeps_its_shape() -> None:
    pixels, facts = await read_all(DATA / "resize.webm")
    assert facts.changes == {"resized": "64x48 to 48x64"}
    assert (facts.width, facts.height, facts.frames) == (64, 48, 12)
    assert [read_code(frame) for frame in pixels[:6]] == list(range(1, 7))
    assert [read_code(frame[:, 14:50]) for frame in pixels[6:]] == list(range(7, 13))
    assert pixels[6:, :, :13].max() <= 8  # black at the sides
    assert pixels[6:, :, 51:].max() <= 8


async def test_several_other_sizes_are_named(tmp_path: Path) -> None:
    parts = [
        [draw_card(n, *size)] * 2 for n, size in enumerate([(64, 48), (32, 64), (96, 32), (80, 80), (48, 48), (64, 96)])
    ]
    async with Decoder.open(write_resized(tmp_path / "a.ts", *parts)) as decoder:
        assert len(await pulled(decoder)) == 12
        assert decoder.facts.changes == {"resized": "64x48 to 32x64, 96x32, 80x80 and others"}
        sampled = (await decoder.sample(16)).pixels
    assert sampled.shape == (12, 48, 64, 3)
    assert zlib.crc32(sampled[0].tobytes()) != zlib.crc32(sampled[11].tobytes())
