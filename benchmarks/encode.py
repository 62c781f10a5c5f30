"""Measures how fast each codec's encoder writes segments, and how large and how exact they are."""

import io
import time
from collections.abc import Mapping
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np

from benchmarks.report import Goal, Report, Row, find_spread, measure_alternately, ratio
from composition.media.encode import SegmentEncoder
from composition.media.encoders import SOFTWARE, Encoder
from composition.media.encoding import Codec, Encoding
from services.frames import Pixels

CLIP = Path(__file__).parent.parent / "clients" / "media" / "bigbuckbunny.mp4"
SEGMENTS = (8, 32)
"""Frames in each segment."""
ROUNDS = 5
CODECS: tuple[Codec, ...] = ("h264", "hevc", "av1")

METHOD = f"""\
The first {sum(SEGMENTS)} frames of Big Buck Bunny (1280×720, 25 fps) are encoded in segments of {SEGMENTS[0]} and
{SEGMENTS[1]} frames, from RGB to fragmented MP4, with the default quality and preset of each codec. {ROUNDS} rounds
with alternating order after a warm-up round; medians, with the extremes in brackets. PSNR: of the decoded frames
against the RGB input, mean over the frames. The last row searches for a bitrate:
each segment is encoded several times."""


def measure() -> Report:
    """Compare the encoders. Takes two minutes."""
    frames = _read_frames()
    contenders = {codec: Encoding(codec=codec) for codec in CODECS} | {"h264, 5000k": Encoding(bitrate="5000k")}
    written: dict[str, bytes] = {}
    encoding = {name: partial(_encode, name, each, frames, written) for name, each in contenders.items()}
    speeds = measure_alternately(encoding, ROUNDS)
    rows = [_row(name, speeds, written[name], frames) for name in contenders]
    goals = [
        Goal("frames per second, hevc over h264", ratio(speeds, "hevc", "h264").median, 0.1),
        Goal("frames per second, av1 over h264", ratio(speeds, "av1", "h264").median, 0.1),
    ]
    samples = {f"{name}, frames per second": figures for name, figures in speeds.items()}
    return Report("Encoding", METHOD, rows, goals, samples, ("av", "numpy"))


def _read_frames() -> Pixels:
    with av.open(str(CLIP)) as container:
        shown = container.decode(video=0)
        pixels = [next(shown).reformat(format="rgb24", dst_color_range=2).to_ndarray() for _ in range(sum(SEGMENTS))]
    return np.stack(pixels).astype(np.uint8)


def _encode(name: str, encoding: Encoding, frames: Pixels, written: dict[str, bytes]) -> float:
    """Encode the frames, and return the number per second."""
    encoder = SegmentEncoder(1280, 720, Fraction(25), encoder=Encoder(SOFTWARE[encoding.codec], encoding))
    begun, first, data = time.perf_counter(), 0, encoder.encode_init()
    for sequence, count in enumerate(SEGMENTS, 1):
        data += encoder.encode_segment(frames[first : first + count], first, sequence)
        first += count
    seconds = time.perf_counter() - begun
    written[name] = data
    return len(frames) / seconds


def _row(name: str, speeds: Mapping[str, list[float]], written: bytes, frames: Pixels) -> Row:
    return {
        "codec": name,
        "frames/s": str(find_spread(speeds[name])),
        "of h264": str(ratio(speeds, name, "h264")),
        "kbit/s": round(len(written) * 8 / (len(frames) / 25) / 1000),
        "PSNR, dB": round(_measure_psnr(written, frames), 1),
    }


def _measure_psnr(data: bytes, frames: Pixels) -> float:
    with av.open(io.BytesIO(data), "r") as container:
        pairs: Any = zip(container.decode(video=0), frames, strict=True)
        errors = [
            np.mean((frame.reformat(format="rgb24", dst_color_range=2).to_ndarray().astype(float) - pixels) ** 2)
            for frame, pixels in pairs
        ]
    return float(np.mean([10 * np.log10(255**2 / error) for error in errors]))
