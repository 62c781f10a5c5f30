"""Videos with flashes and beeps, at the same times; and measuring when they come in a result."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.video.frame import VideoFrame
from numpy.typing import NDArray

RATE = Fraction(25)
"""Frames per second of the videos."""
FRAMES = 50
FLASHES = (10, 20, 37)
"""Numbers of the white frames; the others are black."""
BEEP_HZ, BEEP_S = 1500, 0.03
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}


@dataclass(frozen=True)
class Take:
    """How a video with flashes and beeps is written."""

    form: str = "mp4"
    video: str = "libx264"
    audio: str = "aac"
    rate: int = 48_000
    """Samples per second."""
    channels: int = 2
    sound_start: Fraction = Fraction(0)
    """When the sound begins in the file, in seconds. Its beeps are at the flashes all the same."""
    video_start: Fraction = Fraction(0)
    """When the video begins in the file, in seconds."""
    sound_end: Fraction = FRAMES / RATE
    """When the sound ends after the beginning of the video, in seconds."""
    size: tuple[int, int] = (64, 48)
    options: dict[str, str] = field(default_factory=dict[str, str])
    """Options of the container."""
    codec: dict[str, str] = field(default_factory=dict[str, str])
    """Options of the sound's encoder."""
    times: tuple[int, ...] = tuple(range(FRAMES))
    """When each frame is shown, in 1/25 s."""


def make_samples(take: Take) -> NDArray[np.int16]:
    """Return the sound of a take, (samples, channels): beeps over a quiet hum."""
    shift = take.sound_start - take.video_start
    count = int((take.sound_end - shift) * take.rate)
    time = np.arange(count) / take.rate + float(shift)
    wave = 0.002 * np.sin(2 * np.pi * 200 * time)
    for flash in FLASHES:
        since = time - float(take.times[flash] / RATE)
        wave = np.where((since >= 0) & (since < BEEP_S), 0.5 * np.sin(2 * np.pi * BEEP_HZ * since), wave)
    return np.repeat((wave * 32767).astype(np.int16)[:, None], take.channels, axis=1)


def write_take(path: Path, take: Take = Take()) -> Path:
    """Write a video with flashes and beeps."""
    with av.open(str(path), "w", format=take.form, options=take.options) as container:
        video: Any = container.add_stream(take.video, rate=RATE, options={"g": "25"})
        video.width, video.height = take.size
        video.pix_fmt = "yuv420p"
        audio: Any = container.add_stream(take.audio, rate=take.rate, options=take.codec)
        audio.layout = LAYOUTS[take.channels]
        container.start_encoding()
        packets: list[Any] = []
        for number in range(FRAMES):
            white = 255 if number in FLASHES else 0
            frame = VideoFrame.from_ndarray(np.full((*take.size[::-1], 3), white, np.uint8), format="rgb24")
            frame.pts, frame.time_base = take.times[number] + round(take.video_start * RATE), 1 / RATE
            packets += video.encode(frame)
        packets += video.encode()
        for frame in split_samples(make_samples(take), take, audio):
            packets += audio.encode(frame)
        packets += audio.encode()
        packets = [packet for packet in packets if packet.size]
        packets.sort(key=lambda packet: (packet.dts if packet.dts is not None else packet.pts) * packet.time_base)
        for packet in packets:
            container.mux(packet)
    return path


def split_samples(samples: NDArray[np.int16], take: Take, stream: Any) -> list[AudioFrame]:
    """Return frames in the format and length that the encoder takes."""
    resampler = AudioResampler(
        stream.format.name, LAYOUTS[take.channels], take.rate, stream.codec_context.frame_size or 1024
    )
    whole = AudioFrame.from_ndarray(np.ascontiguousarray(samples.reshape(1, -1)), "s16", LAYOUTS[take.channels])
    whole.sample_rate = take.rate
    whole.pts, whole.time_base = round(take.sound_start * take.rate), Fraction(1, take.rate)
    return [frame for frame in [*resampler.resample(whole), *resampler.resample(None)] if frame]


def find_flashes(path: Path) -> list[Fraction]:
    """Return when each run of white frames begins in a video, in seconds."""
    found: list[Fraction] = []
    before = False
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            white = frame.to_ndarray(format="gray").mean() > 127
            if white and not before:
                found.append(cast("int", frame.pts) * cast("Fraction", frame.time_base))
            before = bool(white)
    return found


def read_sound(path: Path) -> tuple[NDArray[np.float64], int]:
    """Return the sound of a file as a player plays it, mono from time 0 on, -1 to 1, and its rate."""
    with av.open(str(path)) as container:
        pieces: list[tuple[int, NDArray[np.float64]]] = []
        rate = 0
        for frame in container.decode(audio=0):
            rate = frame.sample_rate
            first = round(cast("int", frame.pts) * cast("Fraction", frame.time_base) * rate)
            resampler = AudioResampler("flt", "mono")
            frame.pts = None
            (mono,) = resampler.resample(frame)
            pieces.append((first, mono.to_ndarray().reshape(-1).astype(np.float64)))
    sound = np.zeros(max((first + len(piece) for first, piece in pieces), default=0))
    for first, piece in pieces:
        begin = max(0, -first)
        sound[first + begin : first + len(piece)] = piece[begin:]
    return sound, rate


def find_beeps(path: Path) -> list[float]:
    """Return when each beep begins in a file, in seconds."""
    sound, rate = read_sound(path)
    loud = np.flatnonzero(np.abs(sound) > 0.1)
    if not len(loud):
        return []
    begins = loud[np.flatnonzero(np.diff(loud, prepend=-rate) > rate * BEEP_S)]
    return [float(begin) / rate for begin in begins]


def read_packets(path: Path) -> list[bytes]:
    """Return the packets of the sound of a file."""
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def assert_in_time(path: Path, flashes: Sequence[int] = FLASHES, tolerance: float = float(1 / RATE)) -> None:
    """Assert that a video has a beep within `tolerance` seconds of each flash, and no others."""
    seen, heard = find_flashes(path), find_beeps(path)
    assert len(seen) == len(heard) == len(flashes), (seen, heard)
    for flash, beep in zip(seen, heard, strict=True):
        assert abs(float(flash) - beep) <= tolerance, (seen, heard)
