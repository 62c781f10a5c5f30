"""Measures whether memory grows with the length of a rolling edit."""

import io
import tempfile
import zipfile
from itertools import islice
from pathlib import Path

import av
import numpy as np
from av import VideoFrame

from benchmarks.memory import watch_memory
from benchmarks.report import Goal, Report, Row
from benchmarks.serving import CLIP, create_job, serve_application, upload, wait_for_job

WIDTH, HEIGHT = 320, 176
LENGTHS = (10, 300)
"""Lengths of the edits in frames, including the first one."""
PICTURES = 12
"""Number of different edge pictures, used in turn."""
JOB = {"model": "rolling-edit", "steps": 2, "max_area": WIDTH * HEIGHT, "seed": 1, "debug": True}

METHOD = f"""\
Rolling edits of {WIDTH}×{HEIGHT}, guided by edges from a zip of {LENGTHS[-1]} pictures; the shorter one uses the
first ones. Scores are measured and debug pictures stored. Measured: the peak, during the job, of the total proportional
set size of all processes (Ray, replicas, decoders and the object store), sampled ten times a second. One server runs
both jobs, after the shorter one twice as a warm-up, so that memory of the first use does not count as growth."""


def measure() -> Report:
    """Run the jobs, the shorter first. Takes several minutes."""
    found: dict[int, float] = {}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, serve_application() as client:
        first, edges = Path(folder) / "first.png", Path(folder) / "edges.zip"
        first.write_bytes(_png(_frames(1)[0]))
        edges.write_bytes(_zip(_frames(PICTURES)))
        media = {"init_frame": upload(client, first), "edge_frames": upload(client, edges)}
        for number, frames in enumerate([LENGTHS[0], LENGTHS[0], *LENGTHS]):
            with watch_memory() as peak:
                video = wait_for_job(client, create_job(client, **JOB, **media, max_frames=frames))
            if number >= 2:
                found[frames] = peak[0] / 2**20
                seconds = video["completed_at"] - video["started_at"]
                rows.append({"frames": str(frames), "peak MiB": found[frames], "seconds": float(seconds)})
    ratio = found[LENGTHS[-1]] / found[LENGTHS[0]]
    goals = [Goal(f"peak of {LENGTHS[-1]} frames over {LENGTHS[0]}", ratio, 1.1, at_most=True)]
    samples = {f"{frames} frames": [peak] for frames, peak in found.items()}
    return Report("Memory over the length of a rolling edit", METHOD, rows, goals, samples, ("ray", "torch", "av"))


def _frames(count: int) -> list[VideoFrame]:
    with av.open(str(CLIP)) as container:
        return [frame.reformat(WIDTH, HEIGHT, "rgb24") for frame in islice(container.decode(video=0), count)]


def _png(frame: VideoFrame) -> bytes:
    target = io.BytesIO()
    frame.to_image().save(target, "png")
    return target.getvalue()


def _zip(frames: list[VideoFrame]) -> bytes:
    """Return a zip of difference pictures between neighbouring frames, repeated."""
    pictures: list[bytes] = []
    for frame in frames:
        grey = frame.to_ndarray().mean(2)
        edges = np.clip(4 * np.hypot(*np.gradient(grey)), 0, 255).astype(np.uint8)
        pictures.append(_png(VideoFrame.from_ndarray(np.repeat(edges[..., None], 3, 2), "rgb24")))
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for index in range(LENGTHS[-1]):
            archive.writestr(f"{index:06d}.png", pictures[index % len(pictures)])
    return target.getvalue()
