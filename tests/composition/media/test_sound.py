"""Sound: whatever the file, it is heard when it was, copied where MP4 holds it, and never more than it was."""

import struct
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition

from composition.media.decode import Decoder
from composition.media.encode import SegmentEncoder, remux
from composition.media.encoded_sound import EncodedSound
from composition.media.limits import MediaLimits
from composition.media.sound import SoundCollector, SoundResult
from services.errors import UndecodableMedia
from services.frames import Sound
from tests.composition import beeps
from tests.composition.beeps import FLASHES, FRAMES, RATE, Take, write_take
from tests.composition.media.test_decode import workers
from tests.memory import trace_memory

FRAME_S = float(1 / RATE)
LATE = Fraction(12, 25)
"""Twelve frames."""


@asynccontextmanager
async def open_file(url: str) -> AsyncGenerator[Path]:
    yield Path(url)


async def collect(sounds: Sequence[Sound], check: Callable[[SoundResult], None]) -> None:
    async with SoundCollector(open_file, MediaLimits()).collect(sounds) as made:
        check(made)


async def carry(source: Path, seconds: Fraction | None = None) -> tuple[Path, str | None]:
    """Decode and encode the frames of a video, and add its sound; return the result and the fact about it."""
    async with Decoder.open(source) as decoder:
        runs = [run async for run in decoder.stream_runs()]
        facts = decoder.facts
    encoder = SegmentEncoder(facts.width, facts.height, facts.rate or RATE, variable=facts.is_variable)
    times = [*(time for run in runs for time in run.list_times()[:-1]), runs[-1].list_times()[-1]]
    silent, result = source.with_suffix(".silent.mp4"), source.with_suffix(".result.mp4")
    segment = encoder.encode_segment(runs, 0, 1, times if facts.is_variable else None)
    silent.write_bytes(encoder.encode_init() + segment)
    async with SoundCollector(open_file, MediaLimits()).collect([Sound(str(source), seconds=seconds)]) as made:
        remux(silent, result, made.sound)
        return result, made.fact


COPIED: dict[str, Take] = {
    "aac.mp4": Take(),
    "aac.mov": Take("mov", rate=44_100, channels=1),
    "aac.mkv": Take("matroska"),
    "aac51.mp4": Take(channels=6),
    "mp3.mp4": Take(audio="libmp3lame"),
    "mp3.mkv": Take("matroska", audio="libmp3lame", rate=22_050, channels=1),
    "mp3.avi": Take("avi", audio="libmp3lame", rate=44_100),
    "mp3.ts": Take("mpegts", audio="libmp3lame"),
    "opus.webm": Take("webm", video="libvpx", audio="libopus"),
    "opus51.mkv": Take("matroska", audio="libopus", channels=6),
    "opus.mp4": Take(audio="libopus", channels=1),
    "flac.mkv": Take("matroska", audio="flac"),
    "flac.mp4": Take(audio="flac", rate=44_100),
    "alac.mov": Take("mov", audio="alac"),
    "alac.mkv": Take("matroska", audio="alac"),
    "ac3.mp4": Take(audio="ac3", channels=6),
    "ac3.ts": Take("mpegts", audio="ac3"),
    "eac3.mkv": Take("matroska", audio="eac3"),
    "fragments.mp4": Take(options={"movflags": "frag_keyframe+empty_moov"}),
    "no-edit-list.mp4": Take(options={"use_editlist": "0"}),
    "late-sound.mp4": Take(sound_start=Fraction(1, 4)),
    "late-sound.mkv": Take("matroska", sound_start=Fraction(1, 4)),
    "late-sound.webm": Take("webm", video="libvpx", audio="libopus", sound_start=Fraction(1, 4)),
    "late-video.mp4": Take(video_start=LATE),
    "late-video.mkv": Take("matroska", video_start=LATE),
    "long.mp4": Take(sound_end=Fraction(4)),
    "short.mkv": Take("matroska", sound_end=Fraction(17, 10)),
    "variable.mp4": Take(times=tuple(number + 20 * (number > 12) for number in range(FRAMES)), sound_end=Fraction(3)),
    "wide.mp4": Take(size=(96, 50)),
}
CONVERTED: dict[str, Take] = {
    "vorbis.mkv": Take("matroska", audio="vorbis", rate=44_100, codec={"strict": "experimental"}),
    "pcm.mov": Take("mov", audio="pcm_s16le"),
    "pcm24.mov": Take("mov", audio="pcm_s24le", rate=44_100, channels=1),
    "pcm.avi": Take("avi", audio="pcm_s16le", rate=22_050),
    "pcm51.mkv": Take("matroska", audio="pcm_f32le", channels=6),
    "telephone.mov": Take("mov", audio="pcm_mulaw", rate=8_000, channels=1),
    "pcm96.mkv": Take("matroska", audio="pcm_s16le", rate=96_000),
    "mp2.ts": Take("mpegts", audio="mp2"),
    "late-sound.mov": Take("mov", audio="pcm_s16le", sound_start=Fraction(1, 4)),
    "late-video.mkv": Take("matroska", audio="pcm_s16le", video_start=LATE),
}


@pytest.mark.parametrize("name", COPIED)
async def test_packets_are_copied_bit_by_bit_and_heard_when_they_were(tmp_path: Path, name: str) -> None:
    source = write_take(tmp_path / name, COPIED[name])
    result, fact = await carry(source)
    assert (fact or "").startswith("copied: ")
    assert beeps.read_packets(result) == beeps.read_packets(source)
    beeps.assert_in_time(result)
    assert find_end(result) == pytest.approx(find_end(source), abs=0.05), "all of it is there"


@pytest.mark.parametrize("name", CONVERTED)
async def test_what_mp4_does_not_hold_is_converted_and_heard_when_it_was(tmp_path: Path, name: str) -> None:
    take = CONVERTED[name]
    result, fact = await carry(write_take(tmp_path / name, take))
    assert (fact or "").startswith("converted: ")
    assert " to aac" in (fact or "")
    beeps.assert_in_time(result, tolerance=0.005)
    with av.open(str(result)) as container:
        context = container.streams.audio[0].codec_context
        assert (context.name, context.channels) == ("aac", take.channels)
        assert context.sample_rate == (take.rate if take.rate in (22_050, 44_100) else 48_000)


@pytest.mark.parametrize(("rate", "channels"), [(48_000, 2), (44_100, 1)])
async def test_aac_of_a_transport_stream_is_copied_without_its_headers(
    tmp_path: Path, rate: int, channels: int
) -> None:
    source = write_take(tmp_path / "a.ts", Take("mpegts", rate=rate, channels=channels))
    result, fact = await carry(source)
    assert fact == f"copied: aac; its first {1024_000 / rate:.0f} ms, before the first frame, are not played"
    assert beeps.read_packets(result) == [packet[7:] for packet in beeps.read_packets(source)]
    beeps.assert_in_time(result, tolerance=0.002)


def find_end(path: Path) -> float:
    """Return the seconds from the first flash to the end of the sound."""
    sound, rate = beeps.read_sound(path)
    return len(sound) / rate - float(beeps.find_flashes(path)[0])


def read_lengths(path: Path) -> tuple[float, float]:
    """Return the seconds of video and of sound in a file."""
    found: dict[str, float] = {}
    with av.open(str(path)) as container:
        streams = {stream.index: stream for stream in container.streams}
        begins, ends = dict[int, Fraction](), dict[int, Fraction]()
        for packet in container.demux():
            if packet.size and packet.pts is not None:
                begin = packet.pts * packet.time_base
                begins[packet.stream_index] = min(begin, begins.get(packet.stream_index, begin))
                end = begin + (packet.duration or 0) * packet.time_base
                ends[packet.stream_index] = max(end, ends.get(packet.stream_index, end))
        for index, begin in begins.items():
            found[streams[index].type] = float(ends[index] - begin)
    return found["video"], found["audio"]


async def test_sound_before_the_first_frame_is_heard_and_the_video_is_shown_later(tmp_path: Path) -> None:
    source = write_take(tmp_path / "a.mp4", Take(video_start=LATE))
    result, fact = await carry(source)
    assert fact == "copied: aac"
    flashes = [float(flash) for flash in beeps.find_flashes(result)]
    assert flashes == pytest.approx([float(LATE) + flash / 25 for flash in FLASHES], abs=0.001)


@pytest.mark.parametrize("first", [1, 7, 30])
async def test_a_clip_cut_by_an_edit_list_keeps_its_sound_in_time(tmp_path: Path, first: int) -> None:
    whole = write_take(tmp_path / "whole.mp4")
    source = cut(whole, tmp_path / "cut.mp4", first)
    async with Decoder.open(source) as decoder:
        assert decoder.facts.frames == FRAMES - first
    result, fact = await carry(source)
    assert fact == "copied: aac"
    left = [flash for flash in FLASHES if flash >= first]
    assert [float(time) for time in beeps.find_flashes(result)] == pytest.approx(
        [(flash - first) / 25 for flash in left], abs=0.001
    )
    beeps.assert_in_time(result, left, tolerance=0.002)


def cut(source: Path, target: Path, first: int) -> Path:
    """Copy a video without its first frames, as editors do without encoding: by edit lists."""
    with (
        av.open(str(source)) as given,
        av.open(
            str(target), "w", container_options={"movie_timescale": "48000", "avoid_negative_ts": "disabled"}
        ) as made,
    ):
        streams = {stream.index: made.add_stream_from_template(stream) for stream in given.streams}
        for packet in given.demux():
            if packet.size and packet.pts is not None and packet.dts is not None:
                shift = round(first / RATE / packet.time_base)
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = streams[packet.stream_index]
                made.mux(packet)
    return target


async def test_a_gap_is_silent_and_what_is_behind_it_in_time(tmp_path: Path) -> None:
    source = drop_packets(write_take(tmp_path / "whole.mkv", Take("matroska")), tmp_path / "a.mkv", 0.5, 0.7)
    result, fact = await carry(source)
    assert fact == "converted: aac to aac (its packets are not consecutive)"
    beeps.assert_in_time(result, tolerance=0.025)
    sound, rate = beeps.read_sound(result)
    assert np.abs(sound[int(0.56 * rate) : int(0.66 * rate)]).max() < 1e-3


def drop_packets(source: Path, target: Path, begin: float, end: float) -> Path:
    """Copy a video without the packets of sound between two times in seconds."""
    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        streams = {stream.index: made.add_stream_from_template(stream) for stream in given.streams}
        for packet in given.demux():
            is_kept = packet.stream_index == 0 or not begin <= float((packet.pts or 0) * packet.time_base) < end
            if packet.size and is_kept:
                packet.stream = streams[packet.stream_index]
                made.mux(packet)
    return target


async def test_damaged_packets_are_silent_and_told(tmp_path: Path) -> None:
    source = write_take(tmp_path / "a.mp4")
    spoil_sound(source, range(30, 33))
    result, fact = await carry(source)
    assert fact == "converted: aac to aac (packets of it are damaged; 3 damaged packets are silent)"
    beeps.assert_in_time(result, tolerance=0.005)


def spoil_sound(path: Path, numbers: Sequence[int]) -> None:
    """Overwrite packets of the sound, so that they cannot be decoded."""
    with av.open(str(path)) as container:
        places = [(packet.pos or 0, packet.size) for packet in container.demux(audio=0) if packet.size]
    data = bytearray(path.read_bytes())
    for place, size in (places[number] for number in numbers):
        data[place : place + size] = b"\xff" * size
    path.write_bytes(data)


async def test_sound_that_cannot_be_decoded_is_left_out_and_told(tmp_path: Path) -> None:
    unknown = write_take(tmp_path / "unknown.mkv", Take("matroska"))
    unknown.write_bytes(unknown.read_bytes().replace(b"A_AAC", b"A_XYZ"))
    broken = write_take(tmp_path / "broken.mp4")
    spoil_sound(broken, range(len(beeps.read_packets(broken))))
    for source, reason in ((unknown, "its codec is not supported"), (broken, "none of it can be decoded")):
        result, fact = await carry(source)
        assert fact == f"left out: {reason}"
        with av.open(str(result)) as container:
            assert len(container.streams) == 1


async def test_a_video_without_sound_gets_none_and_no_word(tmp_path: Path) -> None:
    source = write_take(tmp_path / "a.mp4", Take(sound_end=Fraction(1, 1000)))
    with av.open(str(source)) as given, av.open(str(tmp_path / "b.mp4"), "w") as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.size:
                packet.stream = stream
                made.mux(packet)
    _, fact = await carry(tmp_path / "b.mp4")
    assert fact is None


async def test_sound_is_cut_where_it_is_to_end(tmp_path: Path) -> None:
    for name, take in (("a.mp4", Take(sound_end=Fraction(4))), ("a.mov", Take("mov", audio="pcm_s16le"))):
        result, _ = await carry(write_take(tmp_path / name, take), seconds=Fraction(1))
        beeps_left = [flash for flash in FLASHES if flash < 25]
        assert len(beeps.find_beeps(result)) == len(beeps_left)
        assert read_lengths(result)[1] == pytest.approx(1, abs=0.03)


async def test_the_result_is_the_same_every_time(tmp_path: Path) -> None:
    for name in ("aac.mp4", "pcm51.mkv"):
        source = write_take(tmp_path / name, (COPIED | CONVERTED)[name])
        result, _ = await carry(source)
        first = result.read_bytes()
        assert (await carry(source))[0].read_bytes() == first


async def test_the_track_that_a_player_would_choose_is_heard(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        for layout, is_default in (("5.1", False), ("mono", True), ("stereo", False)):
            stream = container.add_stream("aac", rate=48_000, layout=layout)
            stream.disposition = Disposition.default if is_default else Disposition(0)
        container.start_encoding()
        for stream in container.streams.audio:
            frame = av.AudioFrame(format="fltp", layout=stream.layout.name, samples=1024)
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            frame.sample_rate, frame.pts = 48_000, 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
    async with Decoder.open(path, takes_sound=True) as decoder:
        assert (await decoder.begin_sound(copied=True)).channels == 1


def write_wave(path: Path, rate: int = 48_000, channels: int = 2, samples: int = 4800, bits: int = 16) -> Path:
    """Write a WAV file whose header says what it likes."""
    data = np.zeros(samples * 2, np.int16).tobytes()
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", 1, channels & 0xFFFF, rate, rate * block & 0xFFFFFFFF, block & 0xFFFF, bits)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return path


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"rate": 1, "samples": 100}, "2000 to 768000 Hz, got 1"),
        ({"rate": 2_000_000_000}, "2000 to 768000 Hz"),
        ({"channels": 400}, "1 to 64 channels, got 400"),
        ({"samples": 0}, "no samples"),
    ],
)
async def test_absurd_sound_is_refused(tmp_path: Path, how: dict[str, int], message: str) -> None:
    with pytest.raises(UndecodableMedia, match=message):
        async with Decoder.open(write_wave(tmp_path / "a.wav", **how), takes_sound=True):
            pass


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.wav", "pcm_s16le"),
        ("a.mp3", "mp3"),
        ("a.m4a", "aac"),
        ("a.ogg", "flac"),
        ("a.flac", "flac"),
        ("a.mka", "opus"),
    ],
)
async def test_a_file_of_sound_alone_is_sound(tmp_path: Path, name: str, codec: str) -> None:
    path = write_sound(tmp_path / name, codec)
    async with Decoder.open(path, takes_sound=True) as decoder:
        facts = decoder.facts
        assert (facts.kind, facts.sound, facts.codec, facts.frames, facts.rate) == ("sound", codec, codec, 0, None)
        assert facts.duration_s == pytest.approx(1.0, abs=0.06)
        with pytest.raises(UndecodableMedia, match="no video stream, only audio"):
            await decoder.read_last()
    with pytest.raises(UndecodableMedia):
        async with Decoder.open(path):
            pass


def write_sound(path: Path, codec: str, beep_s: float | None = None, seconds: float = 1, channels: int = 2) -> Path:
    """Write a file of sound alone, silent but for a beep."""
    encoder = {"mp3": "libmp3lame", "opus": "libopus"}.get(codec, codec)
    wave = np.zeros((int(48_000 * seconds), channels), np.int16)
    if beep_s is not None:
        begin, count = int(48_000 * beep_s), int(48_000 * 0.03)
        wave[begin : begin + count] = (16_000 * np.sin(np.arange(count) * 0.2))[:, None]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(encoder, rate=48_000, layout=beeps.LAYOUTS[channels])
        container.start_encoding()
        for frame in beeps.split_samples(wave, Take(audio=codec, channels=channels), stream):
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


async def test_sounds_are_mixed_each_at_its_time_with_silence_between(tmp_path: Path) -> None:
    first = write_sound(tmp_path / "a.mp3", "mp3", 0.5)
    second = write_sound(tmp_path / "b.wav", "pcm_s16le", 0.25, channels=1)
    video = write_take(tmp_path / "c.mp4", Take(video_start=LATE))
    sounds = [
        Sound(str(first), Fraction(1)),
        Sound(str(second), Fraction("3.1"), Fraction(1, 2)),
        Sound(str(video), Fraction(5)),
    ]
    made = tmp_path / "made.mp4"
    await collect(sounds, lambda result: remux(write_still(tmp_path / "still.mp4"), made, expect(result)))
    assert beeps.find_beeps(made) == pytest.approx([1.5, 3.35, *(5 + flash / 25 for flash in FLASHES)], abs=0.002)
    sound, rate = beeps.read_sound(made)
    assert np.abs(sound[int(2.1 * rate) : int(3.0 * rate)]).max() < 1e-3
    assert len(sound) / rate == pytest.approx(7, abs=0.03)
    with av.open(str(made)) as container:
        assert (container.streams.audio[0].rate, container.streams.audio[0].channels) == (48_000, 2)


def expect(result: SoundResult, fact: str = "mixed: 3 sounds to aac") -> EncodedSound | None:
    assert result.fact == fact
    return result.sound


def write_still(path: Path, frames: int = 2) -> Path:
    encoder = SegmentEncoder(64, 48, RATE)
    path.write_bytes(encoder.encode_init() + encoder.encode_segment(np.zeros((frames, 48, 64, 3), np.uint8), 0, 1))
    return path


async def test_mono_sounds_make_a_mono_mix_and_a_broken_one_is_left_out(tmp_path: Path) -> None:
    sound = write_sound(tmp_path / "a.wav", "pcm_s16le", 0.5, channels=1)
    broken = write_wave(tmp_path / "b.wav", samples=0)
    made = tmp_path / "made.mp4"
    told = "mixed: 1 sound to aac; 1 of 2 left out: the sound cannot be used: it has no samples"
    sounds = [Sound(str(sound), Fraction(1)), Sound(str(broken))]
    await collect(sounds, lambda result: remux(write_still(tmp_path / "still.mp4"), made, expect(result, told)))
    assert beeps.find_beeps(made) == pytest.approx([1.5], abs=0.002)
    with av.open(str(made)) as container:
        assert container.streams.audio[0].channels == 1


async def test_overlapping_sounds_are_added_and_limited(tmp_path: Path) -> None:
    loud = write_sound(tmp_path / "a.wav", "pcm_s16le", 0.5, channels=1)
    made = tmp_path / "made.mp4"
    sounds = [Sound(str(loud), Fraction(1))] * 3
    await collect(sounds, lambda result: remux(write_still(tmp_path / "still.mp4"), made, expect(result)))
    assert beeps.find_beeps(made) == pytest.approx([1.5], abs=0.002)
    assert np.abs(beeps.read_sound(made)[0]).max() > 0.9


async def test_the_samples_of_a_mix_do_not_depend_on_how_they_are_read(tmp_path: Path) -> None:
    sounds = [
        Sound(str(write_sound(tmp_path / f"{n}.wav", "pcm_s16le", 0.5, 1.3 + n / 7)), Fraction(n, 3)) for n in range(3)
    ]
    results: list[bytes] = []
    for _ in range(2):
        await collect(sounds, lambda made: results.append(made.sound.path.read_bytes() if made.sound else b""))
    assert results[0] == results[1] != b""


def read_peak(pid: int) -> int:
    """Return the largest resident memory that a process had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


@pytest.mark.parametrize("copied", [True, False])
async def test_memory_does_not_grow_with_the_length(tmp_path: Path, copied: bool) -> None:
    """Neither that of the decoder nor ours."""
    peaks: list[tuple[int, int]] = []
    for seconds in (10, 100):
        path = write_sound(
            tmp_path / f"{seconds}.{'m4a' if copied else 'wav'}", "aac" if copied else "pcm_s16le", 1, seconds
        )
        async with Decoder.open(path, takes_sound=True) as decoder:
            await decoder.begin_sound(copied=copied)
            async for _ in decoder.stream_sound():
                pass
            (worker,) = workers()
            decoders = read_peak(worker.pid)
        with trace_memory() as memory:
            await collect([Sound(str(path))], lambda made: None)
        peaks.append((decoders, memory.peak))
    (decoder_short, short), (decoder_long, long) = peaks
    assert decoder_long < decoder_short + (4 << 20)
    assert long < short + (1 << 20)


@pytest.mark.parametrize(
    ("name", "codec", "fact"),
    [
        ("a.wav", "pcm_s16le", "converted: pcm_s16le to aac"),
        ("a.mp3", "mp3", "copied: mp3"),
        ("a.m4a", "aac", "copied: aac"),
        ("a.ogg", "opus", "copied: opus"),
        ("b.ogg", "flac", "copied: flac"),
        ("a.flac", "flac", "copied: flac"),
    ],
)
async def test_a_sound_file_is_heard_from_its_first_sample_on(tmp_path: Path, name: str, codec: str, fact: str) -> None:
    sound, made = write_sound(tmp_path / name, codec, 0.5), tmp_path / "made.mp4"
    await collect(
        [Sound(str(sound))], lambda result: remux(write_still(tmp_path / "still.mp4"), made, expect(result, fact))
    )
    assert beeps.find_beeps(made) == pytest.approx([0.5], abs=0.002)


async def test_a_form_of_a_codec_that_mp4_does_not_hold_is_converted(tmp_path: Path) -> None:
    take = Take("matroska", audio="libmp3lame", rate=8_000, channels=1)
    result, fact = await carry(write_take(tmp_path / "a.mkv", take))
    assert fact == "converted: mp3 to aac (MP4 does not hold this form of it)"
    assert beeps.find_beeps(result)[0] == pytest.approx(FLASHES[0] / 25, abs=0.01)


async def test_hidden_sound_is_not_kept(tmp_path: Path) -> None:
    """A clip that is cut by an edit list contains hidden sound, of which its result has only what a decoder needs."""
    whole = write_take(tmp_path / "whole.mp4")
    result, fact = await carry(cut(whole, tmp_path / "cut.mp4", 30))
    assert fact == "copied: aac"
    hidden = len(beeps.read_packets(whole)) - len(beeps.read_packets(result))
    assert hidden == pytest.approx((30 / 25 - 0.1) * 48_000 / 1024, abs=2)
