"""Compares SVD → Real-ESRGAN → mp4 streamed by the graph with the same stages run one after the other."""

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
from benchmarks.pipeline_sides import FULL_SIZE, STAGES, Case, Film, make_application, run_sequentially
from benchmarks.report import Goal, Report, Row, Section, find_spread, measure_alternately
from benchmarks.svd_full_size import write_full_size
from composition.graphs.full_pipeline.request import FullPipelineRequest
from composition.graphs.run import Known
from composition.media.encode import encode_png
from composition.variants import IMAGE
from services.frames import Frames

CLIP = Path(__file__).parent.parent / "clients" / "media" / "bigbuckbunny.mp4"
ROUNDS = 3
STREAMED, BEHIND, ALL_CORES = "streamed", "one process, 1 thread", "one process, all cores"
LONGEST, EARLY = "makespan / longest stage", "first enlarged frame / SVD's last window"

SMALL = Case(192, 128, steps=25)
FULL = Case(1024, 576, steps=25, full_size=True, dtype="bfloat16", device="cuda")

METHOD = """\
{frames} frames generated from a picture of the shipped clip by {svd} ({width}×{height}, {steps} steps, {dtype}, decoded
in windows of {window}), each upscaled ×4 by the shipped realesr-animevideov3 ({net_dtype}), and both videos encoded in
segments of {first}, then {later} frames. All on {device}.

*{streamed}*: `FullPipeline.run` in Ray Serve, with its picture given; SVD, Real-ESRGAN, the graph and the consumer that
encodes its items are four processes, **each with 1 thread** (`OMP_NUM_THREADS=1`; x264 has its own). *{behind}*: the
same services in one process, the first for the whole video, then the second, then the encoder; undisturbed, so its
figures are the stages' own times.{cores} The columns of the stages are working times, which are longer while stages
share a device. {rounds} rounds with alternating order after a warm-up round; medians, with the extremes in brackets."""

CORES = " *{all_cores}*: the same with one thread for each of the {cores} cores."

OVERLAP = """\
Per round. The sum of the stages and the longest stage are those of *{behind}*, where they run undisturbed. SVD emits no
frame before its last denoising step, so upscaling can only overlap with the decoding of later windows."""


def measure(device: str = "cpu") -> Report:
    """Run both. Takes several minutes on two cores.

    Args:
        device: a torch device; `cuda` runs the full-size architecture with random weights.
    """
    case = SMALL if device == "cpu" else FULL
    films: dict[str, list[Film]] = {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        if case.full_size:
            write_full_size(home / FULL_SIZE, case.dtype)
        picture = still(case.width, case.height)
        (home / "picture.png").write_bytes(encode_png(picture.pixels[0]))
        known = Known(key="benchmark", pictures={IMAGE: str(home / "picture.png")})
        with local_ray(), _alone() as narrow, _alone() as wide:
            graph = serve.run(make_application(case, home), route_prefix=None)
            ways: dict[str, Callable[[], Film]] = {
                STREAMED: lambda: graph.film.remote(case.request, known, case.frames).result(),
                BEHIND: lambda: narrow.submit(run_sequentially, case, home, picture, 1).result(),
            }
            if case.device == "cpu":
                ways[ALL_CORES] = lambda: wide.submit(run_sequentially, case, home, picture, _cores()).result()

            def kept(name: str) -> float:
                film = ways[name]()
                films.setdefault(name, []).append(film)
                return film.makespan

            samples = measure_alternately({name: partial(kept, name) for name in ways}, ROUNDS)
    return report(case, {name: made[1:] for name, made in films.items()}, samples)


def _alone() -> ProcessPoolExecutor:
    """Return a pool of one process, which keeps its models loaded."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def still(width: int, height: int) -> Frames:
    """Return the clip's first frame, scaled."""
    with av.open(str(CLIP)) as file:
        frame = next(iter(file.decode(video=0)))
    return Frames(np.ascontiguousarray(frame.reformat(width, height, "rgb24").to_ndarray().astype(np.uint8))[None])


def report(case: Case, films: Mapping[str, Sequence[Film]], samples: Mapping[str, Sequence[float]]) -> Report:
    """Compare both. Raises ValueError if the streamed videos differ from the others."""
    pairs = list(zip(films[STREAMED], films[BEHIND], strict=True))
    same = len({film.digest for pair in pairs for film in pair}) == 1
    if case.device == "cpu" and not same:
        raise ValueError("the streamed videos differ from those made one stage after the other")
    figures = _figures(films)
    rows: list[Row] = [{"": name, "streamed": str(find_spread(values))} for name, values in figures.items()]
    rows.append({"": "the same bytes as one behind the other", "streamed": "yes" if same else "no"})
    return Report(
        "SVD and Real-ESRGAN, streamed",
        _method(case),
        [_row(name, made) for name, made in films.items()],
        [
            Goal("makespan over the longest stage", find_spread(figures[LONGEST]).median, 1.1, at_most=True),
            Goal("first enlarged frame over SVD's last window", max(figures[EARLY]), 1, at_most=True),
        ],
        samples,
        ("ray", "torch", "diffusers", "av"),
        {"device": torch.cuda.get_device_name() if case.device == "cuda" else "the CPU"},
        [Section("Overlap", OVERLAP.format(behind=BEHIND), rows)],
    )


def _figures(films: Mapping[str, Sequence[Film]]) -> dict[str, list[float]]:
    """Return the figures of the overlap, one value per round."""
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
    stages = {f"{stage} (s)": str(find_spread([film.seconds[stage] for film in films])) for stage in STAGES}
    moments = {
        "first enlarged frame (s)": [film.first_enlarged for film in films],
        "first segment (s)": [film.first_segment for film in films],
        "SVD's last window (s)": [film.last_window for film in films],
        "makespan (s)": [film.makespan for film in films],
    }
    return {"": name} | stages | {heading: str(find_spread(values)) for heading, values in moments.items()}


def _method(case: Case) -> str:
    svd, realesrgan = case.models(Path())
    first, later = FullPipelineRequest.SEGMENTS
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
