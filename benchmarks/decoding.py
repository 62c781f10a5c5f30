"""Measures decoding to what a viewer sees against plain PyAV, which only decodes and converts to RGB."""

import asyncio
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from benchmarks.report import Goal, Report, Row, find_spread, measure_alternately, ratio
from composition.media.decode import Decoder
from composition.media.decoding.media_file import THREADS

WIDTH, HEIGHT = 1920, 1080
FRAMES = 240
ROUNDS = 5
SDR, HDR = "H.264, 8 bit, BT.709", "H.264, 10 bit, HLG"
CLIPS: Mapping[str, tuple[str, int, int, int]] = {SDR: ("yuv420p", 1, 1, 1), HDR: ("yuv420p10le", 9, 18, 9)}
"""Name → pixel format, primaries, transfer function and matrix (ISO/IEC 23091-2)."""
OURS, PLAIN = "reelgraph", "plain PyAV"
LIMIT = 0.35
"""Least speed of an ordinary clip over plain PyAV. The pixels are copied between two processes, which takes longer than
decoding this clip: 0.42 before HDR, profiles and interlacing were handled."""

METHOD = f"""\
All {FRAMES} frames of a clip of {WIDTH}×{HEIGHT} are decoded to RGB, with {THREADS} threads. *{OURS}*: a file is opened
in a decoder process, and its frames are received in runs; HDR is tone-mapped. *{PLAIN}*: `decode` and `to_ndarray` in
this process; HDR stays as it is. Processor time per frame, over all processes: it depends on the machine's other load
less than the wall time does. {ROUNDS} rounds with alternating order after a warm-up round; medians, with the extremes
in brackets."""


def draw_frame(index: int) -> NDArray[np.uint8]:
    """Return a moving pattern with some grain, (HEIGHT, WIDTH, 3)."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = np.stack([(x + 7 * index) % 256, (y * 2 + 3 * index) % 256, (x + y - 5 * index) % 256], -1)
    grain = np.random.default_rng(index).integers(0, 12, (HEIGHT, WIDTH, 1))
    return np.clip(waves + grain, 0, 255).astype(np.uint8)


def write_clip(path: Path, pix_fmt: str, primaries: int, transfer: int, matrix: int) -> None:
    """Write a clip of FRAMES frames."""
    with av.open(str(path), "w") as container:
        options = {"preset": "ultrafast", "crf": "24", "bf": "2"}
        stream: Any = container.add_stream("libx264", rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = (
            primaries,
            transfer,
            matrix,
            1,
        )
        drawn = [draw_frame(index) for index in range(12)]
        for number in range(FRAMES):
            frame = VideoFrame.from_ndarray(drawn[number % len(drawn)], "rgb24").reformat(
                format=pix_fmt, dst_colorspace=matrix, dst_color_range=1
            )
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


async def decode_with_reelgraph(path: Path) -> None:
    async with Decoder.open(path) as decoder:
        async for run in decoder.stream_runs():
            assert run.width == WIDTH


def decode_with_pyav(path: Path) -> None:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = THREADS
        for frame in container.decode(stream):
            assert frame.to_ndarray(format="rgb24").shape[1] == WIDTH


def measure() -> Report:
    """Run the benchmark."""
    rows: list[Row] = []
    samples: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, how in CLIPS.items():
            path = Path(folder) / f"{how[0]}.mp4"
            write_clip(path, *how)
            contenders = {OURS: partial(_measure_ours, path), PLAIN: partial(_measure_plain, path)}
            found = measure_alternately(contenders, ROUNDS)
            rows += [_row(name, contender, found) for contender in contenders]
            samples |= {f"{name}, {contender}": values for contender, values in found.items()}
    speed = ratio(samples, f"{SDR}, {PLAIN}", f"{SDR}, {OURS}").median
    goals = [Goal(f"{SDR}: speed of {OURS} over {PLAIN}", speed, LIMIT)]
    return Report("Decoding to what a viewer sees", METHOD, rows, goals, samples, ("av",))


def _measure_ours(path: Path) -> float:
    before = _cpu_s()
    asyncio.run(decode_with_reelgraph(path))
    return (_cpu_s() - before) / FRAMES * 1000


def _measure_plain(path: Path) -> float:
    before = _cpu_s()
    decode_with_pyav(path)
    return (_cpu_s() - before) / FRAMES * 1000


def _cpu_s() -> float:
    """Return the processor time of this process and its descendants, including those that have ended."""
    processes = [psutil.Process(), *psutil.Process().children()]
    return sum(sum(process.cpu_times()[:4]) for process in processes)


def _row(clip: str, name: str, found: Mapping[str, list[float]]) -> Row:
    return {
        "clip": clip,
        "decoder": name,
        "CPU per frame (ms)": str(find_spread(found[name])),
        f"speed over {PLAIN}": "" if name == PLAIN else f"{ratio(found, PLAIN, name).median:.3f}",
    }
