"""SVD → Real-ESRGAN → mp4: streamed by the graph, against one stage behind the other in one process."""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
import torch
from ray import serve

from benchmarks.local_ray import local_ray
from benchmarks.pipeline_sides import FULL_SIZE, STAGES, Case, Film, application, behind
from benchmarks.report import Goal, Report, Row, Section, alternated, spread
from benchmarks.svd_full_size import write_full_size
from composition.graphs.full_pipeline import GRAPH
from composition.graphs.run import Known
from composition.media.encode import png
from composition.variants import IMAGE
from services.frames import Frames

CLIP = Path(__file__).parent.parent / "clients" / "media" / "bigbuckbunny.mp4"
ROUNDS = 3
STREAMED, BEHIND, ALL_CORES = "streamed", "one process, 1 thread", "one process, all cores"
LONGEST, EARLY = "makespan / longest stage", "first enlarged frame / SVD's last window"

SMALL = Case(192, 128, steps=25)
FULL = Case(1024, 576, steps=25, full_size=True, dtype="bfloat16", device="cuda")

METHOD = """\
A picture of the shipped clip, {frames} frames made of it by {svd} ({width}×{height}, {steps} steps, {dtype}, decoded in
windows of {window}), each enlarged ×4 by the shipped realesr-animevideov3 ({net_dtype}), and both videos encoded in
segments of {first}, then {later} frames. All on {device}.

*{streamed}*: `FullPipeline.run` in Ray Serve, its picture known; SVD, Real-ESRGAN, the graph and whoever takes its
items and encodes them are four processes, **each with 1 thread** (`OMP_NUM_THREADS=1`; x264 has its own). *{behind}*:
the same services called in one process, the first for the whole video, then the second, then the encoder; nobody
disturbs them there, so those are the stages' own seconds.{cores} The columns of
the stages are seconds of their work, which stretch while they share a device. {rounds} rounds in which the contenders
take turns, after one that does not count; medians, the extremes in brackets."""

CORES = " *{all_cores}*: that with a thread for each of the {cores} cores."

OVERLAP = """\
By rounds. The sum of the stages, and the longest of them, are those of *{behind}*, in which nothing disturbs them. SVD
shows nothing before its last denoising step: a stream can hide enlarging only behind the decoding of later windows."""


def measure(device: str = "cpu") -> Report:
    """Run it. Some minutes on two cores.

    Args:
        device: of torch; `cuda` makes it at full size, by the real architecture with random weights.
    """
    case = SMALL if device == "cpu" else FULL
    films: dict[str, list[Film]] = {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        if case.full_size:
            write_full_size(home / FULL_SIZE, case.dtype)
        picture = still(case.width, case.height)
        (home / "picture.png").write_bytes(png(picture.pixels[0]))
        known = Known(key="benchmark", picture_urls={IMAGE: str(home / "picture.png")})
        with local_ray(), _alone() as narrow, _alone() as wide:
            graph = serve.run(application(case, home), route_prefix=None)
            ways: dict[str, Callable[[], Film]] = {
                STREAMED: lambda: graph.film.remote(case.request, known, case.frames).result(),
                BEHIND: lambda: narrow.submit(behind, case, home, picture, 1).result(),
            }
            if case.device == "cpu":
                ways[ALL_CORES] = lambda: wide.submit(behind, case, home, picture, _cores()).result()

            def kept(name: str) -> float:
                film = ways[name]()
                films.setdefault(name, []).append(film)
                return film.makespan

            samples = alternated({name: partial(kept, name) for name in ways}, ROUNDS)
    return report(case, {name: made[1:] for name, made in films.items()}, samples)


def _alone() -> ProcessPoolExecutor:
    """A process that is started once, and keeps what it loads."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def still(width: int, height: int) -> Frames:
    """The clip's first frame, scaled."""
    with av.open(str(CLIP)) as file:
        frame = next(iter(file.decode(video=0)))
    return Frames(np.ascontiguousarray(frame.reformat(width, height, "rgb24").to_ndarray().astype(np.uint8))[None])


def report(case: Case, films: Mapping[str, Sequence[Film]], samples: Mapping[str, Sequence[float]]) -> Report:
    """Set both sides against each other. Raises ValueError when the streamed videos are not the same."""
    pairs = list(zip(films[STREAMED], films[BEHIND], strict=True))
    same = len({film.digest for pair in pairs for film in pair}) == 1
    if case.device == "cpu" and not same:
        raise ValueError("what was streamed is not what is made one behind the other")
    figures = _figures(films)
    rows: list[Row] = [{"": name, "streamed": str(spread(values))} for name, values in figures.items()]
    rows.append({"": "the same bytes as one behind the other", "streamed": "yes" if same else "no"})
    return Report(
        "SVD and Real-ESRGAN, streamed",
        _method(case),
        [_row(name, made) for name, made in films.items()],
        [
            Goal("makespan over the longest stage", spread(figures[LONGEST]).median, 1.1, at_most=True),
            Goal("first enlarged frame over SVD's last window", max(figures[EARLY]), 1, at_most=True),
        ],
        samples,
        ("ray", "torch", "diffusers", "av"),
        {"device": torch.cuda.get_device_name() if case.device == "cuda" else "the CPU"},
        [Section("Overlap", OVERLAP.format(behind=BEHIND), rows)],
    )


def _figures(films: Mapping[str, Sequence[Film]]) -> dict[str, list[float]]:
    """What is told of the overlap, by rounds."""
    pairs = list(zip(films[STREAMED], films[BEHIND], strict=True))
    figures = {
        "overlap: 1 − makespan / sum of the stages": [
            1 - ours.makespan / sum(own.seconds.values()) for ours, own in pairs
        ],
        LONGEST: [ours.makespan / max(own.seconds.values()) for ours, own in pairs],
        EARLY: [film.first_enlarged / film.last_window for film in films[STREAMED]],
    }
    if ALL_CORES in films:
        both = zip(films[STREAMED], films[ALL_CORES], strict=True)
        figures[f"makespan / {ALL_CORES}"] = [ours.makespan / theirs.makespan for ours, theirs in both]
    return figures


def _row(name: str, films: Sequence[Film]) -> Row:
    stages = {f"{stage} (s)": str(spread([film.seconds[stage] for film in films])) for stage in STAGES}
    moments = {
        "first enlarged frame (s)": [film.first_enlarged for film in films],
        "first segment (s)": [film.first_segment for film in films],
        "SVD's last window (s)": [film.last_window for film in films],
        "makespan (s)": [film.makespan for film in films],
    }
    return {"": name} | stages | {heading: str(spread(values)) for heading, values in moments.items()}


def _method(case: Case) -> str:
    svd, realesrgan = case.models(Path())
    first, later = GRAPH.segments
    return METHOD.format(
        frames=case.frames,
        svd="SVD-XT's architecture with random weights" if case.full_size else "a small SVD of random weights",
        width=case.width,
        height=case.height,
        steps=case.steps,
        dtype=case.dtype,
        window=svd.decode_window,
        net_dtype=realesrgan.dtype,
        first=first,
        later=later,
        device="one GPU" if case.device == "cuda" else "the CPU",
        streamed=STREAMED,
        behind=BEHIND,
        cores=CORES.format(all_cores=ALL_CORES, cores=_cores()) if case.device == "cpu" else "",
        rounds=ROUNDS,
    )
