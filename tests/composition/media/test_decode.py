"""Decoding uploads: the right frames with the right pixels; a hostile file costs one process."""

import asyncio
import contextlib
import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from composition.media.decode import Decoder, probe_media
from composition.media.limits import MediaLimits
from services.errors import LimitExceeded, ReelError, UndecodableMedia
from services.frames import Pixels
from tests.composition import sample_media as media
from tests.composition.sample_media import BUNNY, Coding

X264 = {"crf": "10", "preset": "ultrafast"}
CODINGS = {
    "b-frames.mp4": Coding(options={**X264, "bf": "3", "g": "12"}),
    "open-gop.mp4": Coding(options={**X264, "bf": "3", "g": "12", "x264-params": "open-gop=1"}),
    "refresh.mp4": Coding(options={**X264, "x264-params": "intra-refresh=1:keyint=12"}),
    "fragments.mp4": Coding(options={**X264, "g": "12"}, container={"movflags": "frag_keyframe+empty_moov"}),
    "hevc.mp4": Coding("libx265", options={"x265-params": "keyint=12:open-gop=1:log-level=none"}),
    "vp8.webm": Coding("libvpx", options={"deadline": "realtime", "crf": "4", "b": "2M"}, matrix=5),
    "live.webm": Coding("libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"}, container={"live": "1"}),
    "h264.mkv": Coding(options={**X264, "bf": "2", "g": "12"}),
    "mpeg4.avi": Coding("mpeg4", options={"bf": "2", "qscale": "2"}, matrix=5),
    "h264.avi": Coding(options={**X264, "bf": "2", "g": "12"}),
    "h264.ts": Coding(options={**X264, "bf": "2", "g": "12"}),
    "interlaced.mp4": Coding(options={**X264, "bf": "2", "flags": "+ilme+ildct", "x264-params": "tff=1:keyint=12"}),
    "mpeg2.ts": Coding("mpeg2video", options={"bf": "2", "qscale": "2"}, matrix=5),
    "rle.mov": Coding("qtrle", "rgb24", tagged=False),
    "turns.gif": Coding("gif", "rgb8", tagged=False),
}
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128), (200, 30, 90)]


async def pulled(decoder: Decoder, start: int = 0, count: int | None = None) -> Pixels:
    """Return all frames of `stream_runs`, and check that the runs are consecutive."""
    runs = [run async for run in decoder.stream_runs(start, count)]
    assert [run.first for run in runs] == [start + sum(run.count for run in runs[:i]) for i in range(len(runs))]
    return np.concatenate([run.pixels for run in runs])


def numbers(pixels: Pixels) -> list[int]:
    return [media.number_of(frame) for frame in pixels]


def prepared() -> list[psutil.Process]:
    """Return the prepared process of this process: none or one."""
    found: list[psutil.Process] = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            while not (command := child.cmdline()):  # it is still starting
                pass
            if "composition.media.decoding.fork_server" in command:
                found.append(child)
    return found


def workers() -> list[psutil.Process]:
    """Return the decoder processes of this process, including zombies."""
    return [worker for server in prepared() for worker in server.children()]


@pytest.mark.parametrize("name", CODINGS)
async def test_every_way_of_coding_gives_the_same_frames(tmp_path: Path, name: str) -> None:
    path = media.count(tmp_path / name, coding=CODINGS[name])
    async with Decoder.open(path) as decoder:
        await decoder.verify()
        facts = decoder.facts
        assert (facts.kind, facts.width, facts.height, facts.frames) == ("video", 64, 48, 40)
        assert (facts.rate, facts.duration_s, facts.damaged) == (Fraction(25), 1.6, None)
        everything = await pulled(decoder)
        assert numbers(everything) == list(range(40))
        for start in (0, 11, 12, 13, 23, 39):
            part = await pulled(decoder, start, 2)
            assert np.array_equal(part, everything[start : start + 2])
        assert [run async for run in decoder.stream_runs(40)] == []
        last = await decoder.read_last()
        assert (last.first, numbers(last.pixels)) == (39, [39])
        sampled = await decoder.sample(8)
        assert numbers(sampled.pixels) == [2, 7, 12, 17, 22, 26, 31, 36]
        assert np.abs(sampled.pixels.astype(int) - everything[[2, 7, 12, 17, 22, 26, 31, 36]]).max() <= 2


async def test_runs_are_of_sixteen(tmp_path: Path) -> None:
    async with Decoder.open(media.count(tmp_path / "a.mp4")) as decoder:
        assert [run.count async for run in decoder.stream_runs()] == [16, 16, 8]
        assert [run.count async for run in decoder.stream_runs(3, 20)] == [16, 4]
        assert {run.rate async for run in decoder.stream_runs()} == {Fraction(25)}


async def test_sampling_takes_internvl_s_positions() -> None:
    async with Decoder.open(BUNNY) as decoder:
        sampled = await decoder.sample(8)
        for index, position in enumerate([8, 24, 41, 57, 74, 90, 106, 123]):
            (frame,) = [run.pixels[0] async for run in decoder.stream_runs(position, 1)]
            assert np.abs(sampled.pixels[index].astype(int) - frame).max() <= 2


async def test_a_short_video_is_sampled_whole(tmp_path: Path) -> None:
    async with Decoder.open(media.count(tmp_path / "a.mp4", 3)) as decoder:
        assert numbers((await decoder.sample(16)).pixels) == [0, 1, 2]
        with pytest.raises(ValueError, match="1 to 16"):
            await decoder.sample(17)


async def test_one_frame_is_a_video(tmp_path: Path) -> None:
    facts = await probe_media(media.one_frame(tmp_path))
    assert (facts.kind, facts.frames, facts.rate, facts.duration_s) == ("video", 1, Fraction(25), 0.04)


async def test_damage_in_the_middle_is_said_and_filled(tmp_path: Path) -> None:
    path = media.damaged_middle(tmp_path)
    facts = await probe_media(path)
    assert facts.damaged == "6 of 132 frames could not be decoded"
    async with Decoder.open(path) as decoder:
        middle = await pulled(decoder, 14, 10)
        assert np.array_equal(middle[3:9], np.repeat(middle[2:3], 6, axis=0))
        assert not np.array_equal(middle[8], middle[9])
        assert (await decoder.read_last()).first == 131
        assert decoder.facts.damaged == facts.damaged
        assert (await decoder.sample(8)).count == 8


@pytest.mark.parametrize("name", sorted(media.BAD))
async def test_files_that_cannot_be_used_are_refused(tmp_path: Path, name: str) -> None:
    path, words = media.bad(name, tmp_path)
    with pytest.raises((UndecodableMedia, LimitExceeded)) as caught:
        await probe_media(path, param="input_video")
    assert caught.value.param == "input_video"
    assert caught.value.message.startswith("input_video: ")
    for word in words:
        assert word in caught.value.message
    assert isinstance(caught.value, LimitExceeded) == ("max_" in caught.value.message or "min_" in caught.value.message)
    assert workers() == []


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_frames": 39}, ("frames", "39", "max_frames")),
        ({"max_duration_s": 1.5}, ("1.6 s", "1.5 s", "max_duration_s")),
        ({"max_pixels": 64 * 48 - 1}, ("64x48", "3072", "3071", "max_pixels")),
        ({"max_side": 63}, ("64x48", "63", "max_side")),
        ({"min_side": 49}, ("64x48", "49", "min_side")),
    ],
)
@pytest.mark.parametrize("name", ["b-frames.mp4", "live.webm"])
async def test_limits_hold_by_header_and_by_packets(
    tmp_path: Path, name: str, limits: dict[str, float], words: tuple[str, ...]
) -> None:
    path = media.count(tmp_path / name, coding=CODINGS[name])
    with pytest.raises(LimitExceeded) as caught:
        await probe_media(path, MediaLimits.model_validate(limits))
    for word in words:
        assert word.replace("1.6 s", "1." if name == "live.webm" else "1.6 s") in caught.value.message


@pytest.mark.parametrize(
    ("size", "coding"),
    [
        ((64, 48), Coding(options=X264, matrix=1)),
        ((64, 48), Coding(options=X264, matrix=5)),
        ((64, 48), Coding(options=X264, matrix=1, range=2)),
        ((64, 48), Coding(options=X264, matrix=5, tagged=False)),
        ((1280, 720), Coding(options=X264, matrix=1, tagged=False)),
        ((1280, 720), Coding(options=X264, matrix=5)),
        ((64, 48), Coding(pix_fmt="yuv420p10le", options=X264)),
        ((64, 48), Coding(pix_fmt="yuv444p", options=X264)),
    ],
    ids=["709", "601", "full", "untagged-sd", "untagged-hd", "tagged-hd-601", "10-bit", "444"],
)
async def test_colours_are_right_in_order_and_at_random(tmp_path: Path, size: tuple[int, int], coding: Coding) -> None:
    path = media.clip(tmp_path / "colour.mp4", [media.solid(colour, *size) for colour in COLOURS], coding=coding)
    async with Decoder.open(path) as decoder:
        in_order = await pulled(decoder)
        at_random = (await decoder.sample(5)).pixels
    assert np.abs(in_order.astype(int) - np.array(COLOURS)[:, None, None]).max() <= 4
    assert np.abs(in_order.astype(int) - at_random).max() <= 2


def test_decord_samples_what_it_decodes_alike(tmp_path: Path) -> None:
    """Runs in a separate process: importing decord changes how a process finds other libraries."""
    script = """
import sys
from composition.media.decode import MediaLimits
from composition.media.decoding.headers import Limits
from composition.media.decoding.worker import Video
for path in sys.argv[1:]:
    video = Video(path, Limits(**MediaLimits().model_dump()))
    print(video.can_use_decord, video._sample_with_decord([3, 20, 39]) is not None)
"""
    tagged = media.count(tmp_path / "tagged.mp4", coding=CODINGS["open-gop.mp4"])
    paths = [tagged, BUNNY, media.damaged_middle(tmp_path)]
    said = subprocess.run(
        [sys.executable, "-c", script, *map(str, paths)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert said.stdout.splitlines() == ["True True", "False True", "False False"]


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
async def test_a_turned_video_is_shown_upright(tmp_path: Path, degrees: int, mirrored: bool) -> None:
    stored = np.zeros((64, 48, 3), np.uint8)
    stored[:32, :24], stored[:32, 24:], stored[32:, :24] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    coding = Coding(options=X264, degrees=degrees, mirrored=mirrored)
    async with Decoder.open(media.clip(tmp_path / "a.mp4", [stored], coding=coding)) as decoder:
        facts, shown = decoder.facts, (await decoder.read_last()).pixels[0]
    expected = np.rot90(stored, degrees // 90)
    expected = expected[:, ::-1] if mirrored else expected
    assert (facts.height, facts.width) == expected.shape[:2] == shown.shape[:2]
    for y in (8, -8):
        for x in (8, -8):
            assert np.abs(shown[y, x].astype(int) - expected[y, x]).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
async def test_a_photograph_is_turned_as_its_exif_says(tmp_path: Path, orientation: int) -> None:
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:24, :32], pixels[:24, 32:], pixels[24:, :32] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = media.picture(tmp_path / "a.jpg", pixels, exif=exif, quality=95, subsampling=0)
    turned = {1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1]}
    turned |= {5: pixels.transpose(1, 0, 2), 6: np.rot90(pixels, -1), 7: np.rot90(pixels[::-1]), 8: np.rot90(pixels)}
    async with Decoder.open(path) as decoder:
        shown = (await decoder.read_last()).pixels[0]
    assert shown.shape == turned[orientation].shape
    assert np.abs(shown.astype(int) - turned[orientation]).mean() < 3


def stills() -> Iterator[tuple[str, Any, Pixels, dict[str, object]]]:
    """Yield name, pixels to write, expected pixels and options of the writer."""
    rgb = np.random.default_rng(0).integers(0, 255, (33, 47, 3), dtype=np.uint8)
    half = np.full((33, 47, 1), 128, np.uint8)
    seen = (rgb * np.uint16(128) + 255 * np.uint16(127) + 127) // 255
    grey = np.resize(np.arange(256, dtype=np.uint8), (33, 47))
    yield "odd.png", rgb, rgb, {}
    yield "alpha.png", np.concatenate([rgb, half], 2), seen.astype(np.uint8), {}
    yield "grey.png", grey, np.repeat(grey[..., None], 3, 2), {}
    yield "deep.png", grey.astype(np.uint16) * 257, np.repeat(grey[..., None], 3, 2), {}
    flat = media.solid((200, 30, 90), 47, 33)
    yield "lossy.jpg", flat, flat, {"quality": 95}
    yield "lossy.webp", flat, flat, {"quality": 95}
    yield "exact.webp", rgb, rgb, {"lossless": True}
    yield "still.gif", flat, flat, {}


@pytest.mark.parametrize(("name", "written", "seen", "how"), list(stills()), ids=[still[0] for still in stills()])
async def test_pictures(tmp_path: Path, name: str, written: Any, seen: Pixels, how: dict[str, object]) -> None:
    path = media.picture(tmp_path / name, written, **how)
    async with Decoder.open(path) as decoder:
        await decoder.verify()
        facts = decoder.facts
        assert (facts.kind, facts.width, facts.height) == ("image", 47, 33)
        assert (facts.frames, facts.rate, facts.duration_s, facts.damaged) == (1, None, 0.0, None)
        for frames in (await decoder.read_last(), await decoder.sample(8)):
            assert frames.count == 1
            assert np.abs(frames.pixels[0].astype(int) - seen).max() <= (2 if how or name == "deep.png" else 1)


async def test_film_s_own_rate_is_exact(tmp_path: Path) -> None:
    path = media.count(tmp_path / "a.mkv", rate=Fraction(24000, 1001))
    assert (await probe_media(path)).rate == Fraction(24000, 1001)


async def test_a_bomb_of_memory_costs_one_process(tmp_path: Path) -> None:
    path = media.picture(tmp_path / "a.png", np.zeros((2300, 4000, 3), np.uint8))
    assert (await probe_media(path)).width == 4000
    with pytest.raises((LimitExceeded, UndecodableMedia), match=r"memory_bytes|crashed|decoded"):
        await probe_media(path, MediaLimits(memory_bytes=256 << 20))
    assert workers() == []


async def test_a_deadline_is_kept_by_killing(tmp_path: Path) -> None:
    limits = MediaLimits(deadline_s=2)
    async with Decoder.open(media.count(tmp_path / "a.mp4"), limits, param="input_video") as decoder:
        (worker,) = workers()
        worker.suspend()
        with pytest.raises(UndecodableMedia, match=r"input_video: decoding takes longer than 2 s") as caught:
            await decoder.read_last()
        assert caught.value.param == "input_video"
        assert psutil.wait_procs([worker], timeout=10)[1] == [] or worker.status() == psutil.STATUS_ZOMBIE
    assert workers() == []


async def test_a_crash_is_told_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with Decoder.open(media.count(tmp_path / "a.mp4")) as decoder:
        workers()[0].send_signal(signal.SIGSEGV)
        with caplog.at_level(logging.WARNING), pytest.raises(UndecodableMedia, match="crashed"):
            await decoder.read_last()
        (record,) = caplog.records
        assert record.__dict__["exit"] == -signal.SIGSEGV
        with pytest.raises(UndecodableMedia):
            await decoder.read_last()


async def test_cancelling_kills_at_once(tmp_path: Path) -> None:
    async with Decoder.open(media.count(tmp_path / "a.mp4")) as decoder:
        (worker,) = workers()
        worker.suspend()
        asking = asyncio.create_task(decoder.read_last())
        await asyncio.wait([asking], timeout=0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.to_thread(psutil.wait_procs, [worker], 10)
        assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    assert workers() == []


async def test_leaving_early_ends_the_process(tmp_path: Path) -> None:
    async with Decoder.open(media.count(tmp_path / "a.mp4")) as decoder:
        async for run in decoder.stream_runs():
            assert run.first == 0
            break
    assert workers() == []
    with pytest.raises(RuntimeError, match="ours"):
        async with Decoder.open(tmp_path / "a.mp4"):
            raise RuntimeError("ours")
    assert workers() == []


async def test_operations_at_once_wait_for_each_other(tmp_path: Path) -> None:
    async with Decoder.open(media.count(tmp_path / "a.mp4")) as decoder:
        last, sampled, everything = await asyncio.gather(decoder.read_last(), decoder.sample(4), pulled(decoder))
    assert numbers(last.pixels) == [39]
    assert numbers(sampled.pixels) == [4, 14, 24, 33]
    assert numbers(everything) == list(range(40))


async def test_memory_does_not_grow_with_the_video(tmp_path: Path) -> None:
    frames = [media.numbered(n % 256, 640, 360) for n in range(320)]
    path = media.clip(tmp_path / "a.mp4", frames, coding=Coding(options={**X264, "g": "30"}))
    async with Decoder.open(path) as decoder:
        (worker,) = workers()
        seen = [worker.memory_info().rss async for _ in decoder.stream_runs()]
    assert len(seen) == 20
    assert max(seen) - seen[2] < 16 << 20


async def test_a_missing_file_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(ReelError):
        await probe_media(tmp_path / "none.mp4")


async def test_damage_across_groups_of_pictures_is_filled_the_same_from_anywhere(tmp_path: Path) -> None:
    path = media.clip(
        tmp_path / "a.mp4",
        [media.numbered(n) for n in range(60)],
        coding=Coding(options={**X264, "g": "10", "x264-params": "keyint=10:scenecut=0"}),
    )
    media.spoil(path, range(27, 34))
    async with Decoder.open(path) as decoder:
        everything = await pulled(decoder)
        assert len(everything) == 60
        assert decoder.facts.damaged is not None
        assert numbers(everything)[:28] == [*range(27), 26]
        assert numbers(everything)[40:] == list(range(40, 60))
        for start in (26, 29, 30, 33, 41):
            part = await pulled(decoder, start, 3)
            assert np.array_equal(part, everything[start : start + 3])
        assert numbers((await decoder.read_last()).pixels) == [59]
