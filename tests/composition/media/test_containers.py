"""Cuts, offsets and additional tracks: a video is what a player shows, however its container is put together."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from composition.media.decode import Decoder, probe_media
from tests.composition import sample_media as media
from tests.composition.sample_media import Coding

FRAMES = 24
RATES = [Fraction(240), Fraction(1), Fraction(1, 2), Fraction(24000, 1001), Fraction(30000, 1001)]


async def read_numbers(path: Path) -> list[int]:
    async with Decoder.open(path) as decoder:
        return [media.number_of(frame) async for run in decoder.stream_runs() for frame in run.pixels]


def copy_packets(source: Path, target: Path, skip_key_frames: int = 0, shift: Fraction = Fraction(0)) -> None:
    """Copy a video without encoding it again.

    Args:
        source, target: the files.
        skip_key_frames: number of key frames after whose packets the copy begins.
        shift: seconds added to all times; packets before 0 are hidden by an edit list where the container has one.
    """
    options = {} if target.suffix == ".mp4" else {"avoid_negative_ts": "disabled"}
    with av.open(str(source)) as given, av.open(str(target), "w", container_options=options) as copy:
        stream = given.streams.video[0]
        made = copy.add_stream_from_template(stream)
        for packet in given.demux(stream):
            skip_key_frames -= packet.is_keyframe
            if skip_key_frames < 0 and packet.pts is not None and packet.dts is not None:
                packet.pts += int(shift / packet.time_base)
                packet.dts += int(shift / packet.time_base)
                packet.stream = made
                copy.mux(packet)


async def test_a_cut_inside_a_group_of_pictures_shows_what_its_edit_list_shows(tmp_path: Path) -> None:
    coding = Coding(options={"crf": "10", "g": "12", "bf": "2", "x264-params": "scenecut=0"})
    source = media.count(tmp_path / "source.mp4", FRAMES, coding, 24)
    copy_packets(source, tmp_path / "cut.mp4", shift=Fraction(-6, 24))
    assert await read_numbers(tmp_path / "cut.mp4") == list(range(6, FRAMES))
    facts = await probe_media(tmp_path / "cut.mp4")
    assert (facts.frames, facts.rate, facts.damaged) == (18, 24, None)


@pytest.mark.parametrize("suffix", [".mkv", ".ts", ".mp4"])
async def test_a_late_start_is_no_frame_and_no_time(tmp_path: Path, suffix: str) -> None:
    source = media.count(tmp_path / "source.mp4", FRAMES, Coding(options={"bf": "2", "crf": "10"}), 25)
    copy_packets(source, tmp_path / f"late{suffix}", shift=Fraction(15, 2))
    assert await read_numbers(tmp_path / f"late{suffix}") == list(range(FRAMES))
    facts = await probe_media(tmp_path / f"late{suffix}")
    assert (facts.frames, facts.rate, facts.is_variable, facts.duration_s) == (FRAMES, 25, False, FRAMES / 25)


async def test_a_cut_at_an_open_group_of_pictures_begins_with_its_key_frame(tmp_path: Path) -> None:
    x264 = "open-gop=1:keyint=8:min-keyint=8:bframes=3:scenecut=0:b-adapt=0"
    source = media.count(tmp_path / "source.mp4", FRAMES, Coding(options={"crf": "10", "x264-params": x264}), 24)
    copy_packets(source, tmp_path / "cut.mkv", skip_key_frames=1)
    shown = await read_numbers(tmp_path / "cut.mkv")
    assert shown[-16:] == list(range(8, FRAMES))
    assert set(shown[:-16]) <= {8}


def add_sound(container: Any, codec: str, seconds: float) -> Any:
    stream = container.add_stream(codec, rate=48000)
    stream.layout = "mono"
    tone = (0.1 * np.sin(np.arange(int(48000 * seconds)) * 0.06)).astype(np.float32)
    return stream, tone


def write_with_sound(path: Path, codec: str, seconds: float, frames: Sequence[Any], rate: int) -> None:
    """Write a video with a tone of its own length."""
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=rate, options={"crf": "10", "bf": "2"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound, tone = add_sound(container, codec, seconds)
        for pixels in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode())
        size = sound.codec_context.frame_size or 960
        for first in range(0, len(tone), size):
            part = av.AudioFrame.from_ndarray(tone[None, first : first + size], format="fltp", layout="mono")
            part.sample_rate, part.pts, part.time_base = 48000, first, Fraction(1, 48000)
            container.mux(sound.encode(part))
        container.mux(sound.encode())


@pytest.mark.parametrize(("name", "codec"), [("long.mp4", "aac"), ("long.mkv", "libopus"), ("long.mov", "pcm_s16le")])
async def test_sound_that_lasts_longer_adds_no_frame(tmp_path: Path, name: str, codec: str) -> None:
    write_with_sound(tmp_path / name, codec, 3.0, [media.numbered(n) for n in range(FRAMES)], 24)
    facts = await probe_media(tmp_path / name)
    assert (facts.frames, facts.rate, facts.duration_s, facts.damaged) == (FRAMES, 24, 1.0, None)
    assert await read_numbers(tmp_path / name) == list(range(FRAMES))


@pytest.mark.parametrize("rate", RATES, ids=str)
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi"])
async def test_rates_are_exact(tmp_path: Path, rate: Fraction, name: str) -> None:
    coding = Coding("mpeg4", options={"qscale": "2"}, matrix=5) if name == "a.avi" else media.PLAIN
    media.count(tmp_path / name, 12, coding, rate)
    facts = await probe_media(tmp_path / name)
    assert (facts.frames, facts.rate, facts.is_variable) == (12, rate, False)
    assert facts.duration_s == pytest.approx(float(12 / rate))
