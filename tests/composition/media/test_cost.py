"""Costs by headers: what is refused before it is decoded, what is not, and what becomes of estimates that are wrong."""

import asyncio
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from av.packet import Packet

from composition.media.cost import Cost, FrameForm, count_decoded, count_references, estimate_picture, estimate_video
from composition.media.decode import Decoder, probe_media
from composition.media.decoding.mp4_edits import MAX_EDITS, check_edits
from composition.media.decoding.references import read_references
from composition.media.decoding.sampling import VERIFIED_FRAMES, spread_positions
from composition.media.limits import MediaLimits
from services.errors import LimitExceeded
from tests.composition import sample_media as media
from tests.composition.media import hostile
from tests.composition.media.test_decode import workers

LIMITS = MediaLimits()
HD = FrameForm(1920, 1080, 12, "h264", references=4)
UHD = FrameForm(3840, 2160, 24, "hevc", is_deep=True, references=5)


def estimate_check(form: FrameForm, frames: int, key_every: int) -> Cost:
    """Return the cost of a video by the distance of its keyframes."""
    positions = sorted({*spread_positions(VERIFIED_FRAMES, frames), frames - 1})
    return estimate_video(form, frames, count_decoded(positions, range(0, frames, key_every)))


@pytest.mark.parametrize(
    ("form", "frames", "key_every"),
    [(HD, 54_000, 250), (HD, 200_000, 300), (UHD, 54_000, 250), (HD, 5_000, 5_000), (UHD, 3_000, 3_000)],
)
def test_ordinary_videos_are_within_the_limits(form: FrameForm, frames: int, key_every: int) -> None:
    cost = estimate_check(form, frames, key_every)
    assert cost.cpu_s < LIMITS.cpu_s / 2
    assert cost.memory_bytes < LIMITS.memory_bytes / 2


def test_a_large_video_of_one_keyframe_is_not() -> None:
    cost = estimate_check(FrameForm(4096, 2304, 12, "h264"), 60_000, 60_000)
    assert cost.cpu_s > 4 * LIMITS.cpu_s
    assert cost.reason == "60,000 frames of 4096x2304 must be decoded to check it"


@pytest.mark.parametrize(
    ("positions", "keyframes", "count"),
    [
        ([0], [0], 1),
        ([9], [], 10),
        ([9], [0, 9], 1),
        ([3, 5, 9], [0], 10),
        ([3, 5, 9], [0, 5], 4 + 5),
        ([3, 5, 9], [0, 8], 4 + 2 + 2),
        ([3, 4, 4, 5], [0], 6),
    ],
)
def test_frames_are_decoded_from_the_keyframe_before(positions: list[int], keyframes: list[int], count: int) -> None:
    assert count_decoded(positions, keyframes) == count


def test_large_frames_have_few_references() -> None:
    assert count_references(FrameForm(640, 480, 12, "h264")) == 16
    assert count_references(FrameForm(4096, 4096, 12, "h264")) == 10
    assert count_references(FrameForm(640, 480, 12, "h264", references=3)) == 3
    assert count_references(FrameForm(640, 480, 12, "mpeg2video")) == 4


def test_deep_pictures_and_those_with_alpha_need_more() -> None:
    plain = estimate_picture(FrameForm(4096, 4096, 24, "png"), 0).memory_bytes
    deep = estimate_picture(FrameForm(4096, 4096, 64, "png", has_alpha=True, is_deep=True), 0).memory_bytes
    assert plain < deep < LIMITS.memory_bytes


@pytest.mark.parametrize(
    ("codec", "options", "references"),
    [
        ("libx264", {"x264-params": "ref=7:bframes=0"}, 7),
        ("libx264", {"x264-params": "ref=1:bframes=0"}, 1),
        ("libx265", {"x265-params": "log-level=none:ref=3:bframes=0"}, 4),
    ],
)
@pytest.mark.parametrize("suffix", ["mp4", "ts"])
async def test_the_stream_tells_its_references(
    tmp_path: Path, codec: str, options: dict[str, str], references: int, suffix: str
) -> None:
    path = media.count(tmp_path / f"a.{suffix}", coding=media.Coding(codec=codec, options=options))
    with hostile.av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert read_references(context.name, context.extradata) == references
    assert (await probe_media(path)).frames == 40


@pytest.mark.parametrize("data", [None, b"", b"\1", b"\1" + bytes(40), bytes(range(256)), b"\xff" * 60])
@pytest.mark.parametrize("codec", ["h264", "hevc", "vp9"])
def test_what_is_no_configuration_tells_nothing_or_a_number(codec: str, data: bytes | None) -> None:
    assert read_references(codec, data) is None or codec != "vp9"


async def test_a_slow_video_is_refused_by_its_headers(tmp_path: Path) -> None:
    path = hostile.write_hostile("slow_mp4", tmp_path)
    with pytest.raises(LimitExceeded, match=r"^a: decoding takes about 2\d\d s .* 60,000 frames .* 60 s \(cpu_s\)$"):
        await probe_media(path, param="a")


async def test_the_same_frames_with_keyframes_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(hostile.make_slow_video(3_000, key_every=30, size=(1920, 1072)))
    facts = await probe_media(path)
    assert (facts.frames, facts.damaged) == (3_000, None)


async def test_what_memory_allows_too_little_is_refused_with_numbers(tmp_path: Path) -> None:
    path = media.picture(tmp_path / "a.png", np.zeros((3000, 4000, 3), np.uint8))
    with pytest.raises(LimitExceeded, match=r"needs about \d+ MiB .* 4000x3000; the limit is 256 MiB \(memory_bytes\)"):
        await probe_media(path, MediaLimits(memory_bytes=256 << 20))


async def test_a_cost_is_known_before_frames_are_read(tmp_path: Path) -> None:
    async with Decoder.open(media.count(tmp_path / "a.mp4")) as small, Decoder.open(media.BUNNY) as large:
        assert 0 < small.cost.cpu_s < large.cost.cpu_s < 10
        assert small.cost.memory_bytes < large.cost.memory_bytes


async def test_headers_that_take_too_long_are_no_crash(tmp_path: Path) -> None:
    """The kernel counts whole seconds, so these take more than two."""
    path = tmp_path / "a.mkv"
    path.write_bytes(hostile.make_slow_video(450_000, form="matroska", size=(64, 64)))
    limits = MediaLimits(cpu_s=0.1, max_frames=450_000, max_duration_s=1e9)
    with pytest.raises(LimitExceeded, match=r"^reading its headers takes more than 0.1 s of processor time"):
        await probe_media(path, limits)
    assert workers() == []


async def test_decoding_that_takes_too_long_is_no_crash(tmp_path: Path) -> None:
    """Each frame takes a hundred times as long as the headers let expect."""
    path = write_noise(tmp_path / "a.mp4", 40)
    with pytest.raises(LimitExceeded, match=r"^decoding takes more than 0.1 s of processor time \(cpu_s\)$"):
        await probe_media(path, MediaLimits(cpu_s=0.1))
    assert workers() == []


def write_noise(path: Path, frames: int) -> Path:
    """Write a video that repeats a frame of noise."""
    noise = np.random.default_rng(0).integers(0, 256, (540, 960, 3), np.uint8)
    one = media.clip(path.with_name("one.mp4"), [noise], coding=media.Coding(options={"qp": "1"}))
    with hostile.av.open(str(one)) as source, hostile.av.open(str(path), "w") as container:
        (data,) = [bytes(packet) for packet in source.demux(video=0) if packet.size]
        stream = container.add_stream_from_template(source.streams.video[0])
        for number in range(frames):
            packet = Packet(data)
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts, packet.dts, packet.duration, packet.is_keyframe = number, number, 1, True
            container.mux_one(packet)
    return path


async def test_decoders_that_wait_for_each_other_end(tmp_path: Path) -> None:
    """Each has read its headers, and all of them need more than is left: one after the other gets it."""
    path = media.clip(tmp_path / "a.mp4", [media.solid((1, 2, 3), 1280, 720)] * 3)
    limits = MediaLimits(node_memory_bytes=512 << 20, node_memory_folder=str(tmp_path / "runtime"))
    found = await asyncio.gather(*(probe_media(path, limits, owner=str(number)) for number in range(6)))
    assert [facts.frames for facts in found] == [3] * 6


def test_many_edits_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(hostile.make_edit_list(MAX_EDITS + 1))
    with pytest.raises(LimitExceeded, match=r"4097 entries; the limit is 4096"):
        check_edits(str(path))


@pytest.mark.parametrize("name", ["mp4_deep_boxes", "mp4_tracks", "gif_huge", "png_text_bomb"])
def test_files_without_edits_have_none(tmp_path: Path, name: str) -> None:
    check_edits(str(hostile.write_hostile(name, tmp_path)))


async def test_large_frames_are_sampled_in_parts(tmp_path: Path) -> None:
    """Sixteen frames of 4K take 400 MB at once, more than decoding the video."""
    path = media.clip(tmp_path / "a.mp4", [media.numbered(number, 3840, 2160) for number in range(7)])
    async with Decoder.open(path) as decoder:
        before = decoder.cost.memory_bytes
        sampled = await decoder.sample(16)
        assert [media.number_of(frame) for frame in sampled.pixels] == list(range(7))
        assert decoder.cost.memory_bytes <= before + (128 << 20)
