"""Measures whether memory grows with the length of the video."""

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import psutil

from benchmarks.report import Goal, Report, Row
from benchmarks.serving import create_job, serve_application, upload, wait_for_job

WIDTH, HEIGHT, RATE = 1280, 720, 25
JOINED = (25, 250, 2500)
"""Lengths in frames of the clips that are joined to their continuation: every frame goes through the server."""
LENGTHS_S = (10, 600)
"""Lengths in seconds of the clips that are only continued."""
JOB = {"prompt": "a meadow", "num_frames": 9, "steps": 2, "max_area": 320 * 176, "seed": 1}
EVERY_S = 0.1

METHOD = f"""\
V2V jobs on clips of {WIDTH}×{HEIGHT} at {RATE} frames per second, made of moving gradients. *joined*: the clip and its
continuation are joined to one video, so that every frame is decoded, sent, encoded and stored. *continued*: the default
job, which samples the clip. Measured: the peak, during the job, of the total proportional set size of all processes
(Ray, replicas, decoders and the object store), sampled every {EVERY_S * 1000:.0f} ms. One server runs all jobs, after
the shortest of each kind as a warm-up, so that memory of the first use does not count as growth. A clip of 25 frames is
shorter than one segment (32), so buffers are only filled from 250 frames on."""


def measure() -> Report:
    """Run the jobs, the shortest first."""
    found: dict[str, float] = {}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, serve_application({"max_body_bytes": 2 << 30}) as client:
        jobs: list[tuple[str, int, bool]] = [(f"joined, {n} frames", n, True) for n in JOINED]
        jobs += [(f"continued, {s} s", s * RATE, False) for s in LENGTHS_S]
        warm = [jobs[0], jobs[1], jobs[len(JOINED)]]
        for number, (name, frames, join) in enumerate(warm + jobs):
            clip = upload(client, _clip(Path(folder) / f"{frames}.mp4", frames))
            with watch_memory() as peak:
                video = wait_for_job(client, create_job(client, input_video=clip, join=join, **JOB))
            if number >= len(warm):
                found[name] = peak[0] / 2**20
                seconds = video["completed_at"] - video["started_at"]
                rows.append({"job": name, "peak MiB": found[name], "seconds": float(seconds)})
    goals = [
        Goal(
            "joined: 2500 frames over 25", found["joined, 2500 frames"] / found["joined, 25 frames"], 1.1, at_most=True
        ),
        Goal("continued: 600 s over 10 s", found["continued, 600 s"] / found["continued, 10 s"], 1.1, at_most=True),
    ]
    return Report(
        "Memory over the length of the video", METHOD, rows, goals, {k: [v] for k, v in found.items()}, ("ray", "av")
    )


@contextmanager
def watch_memory() -> Iterator[list[float]]:
    """Sample the memory of this process and its descendants; the list holds the peak in bytes."""
    peak, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(EVERY_S):
            peak[0] = max(peak[0], _pss())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()


def _pss() -> float:
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total


def _clip(path: Path, frames: int) -> Path:
    """Write a clip. Up to 250 frames are encoded; longer clips repeat their packets."""
    if path.exists():
        return path
    with av.open(str(path), "w") as target:
        stream = target.add_stream("libx264", RATE, options={"preset": "ultrafast", "g": "25", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.time_base = Fraction(1, RATE)
        packets = [packet for number in range(min(frames, 250)) for packet in stream.encode(_frame(number))]
        packets += stream.encode(None)
        whole = [bytes(packet) for packet in packets]
        keys = [packet.is_keyframe for packet in packets]
        for number in range(frames):
            packet = av.Packet(whole[number % len(whole)])
            packet.stream, packet.time_base = stream, Fraction(1, RATE)
            packet.pts = packet.dts = number
            cast("Any", packet).is_keyframe = keys[number % len(whole)]
            target.mux(packet)
    return path


def _frame(number: int) -> av.VideoFrame:
    across = (np.arange(WIDTH) + 8 * number) % 256
    down = (np.arange(HEIGHT)[:, None] + 3 * number) % 256
    pixels = np.stack(np.broadcast_arrays(across[None, :], down, (across[None, :] + down) % 256), axis=-1)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels.astype(np.uint8)), format="rgb24")
    frame.pts = number
    return frame
