"""Measures every model at full size on one GPU, with random weights that are built in its memory.

`python -m benchmarks gpu [MODEL]` measures all models, or those of a kind.
"""

from collections.abc import Iterator, Sequence

import torch

from benchmarks.gpu_cases import ANCHORS, SUBJECTS, Subject
from benchmarks.gpu_timing import TIMED, WARM_UPS, Bench, Timing, measure_subject
from benchmarks.report import Goal, Report, Row, Section, find_spread
from services.device import find_device
from services.errors import ConfigError

METHOD = f"""\
Each model has its real architecture and size, and random weights that are built in the memory of the device: nothing is
downloaded or written. All networks of a model are resident, as with `offload: none`, in the data types in which it is
served. A *pass* is one forward pass of the denoising network (for InternVL, Real-ESRGAN and ArcFace, of the network)
on inputs of the shapes that its pipeline gives it: the median of {TIMED} after {WARM_UPS} warm-ups, with the extremes
in brackets. *decode* is one whole decoding of the latents by the VAE, up to pixels in host memory, without a warm-up,
in the default variant. *peak* is the most memory that was allocated, weights included. **No job was run: *job* is
extrapolated**, the median pass times the passes of a job, plus *decode*; text encoders, the encoding of pictures and
the scheduler are left out."""

COMPARED = """\
Published times of others, beside the extrapolated time of as many passes here: passes times the median pass, plus the
decoding where the published time is that of a whole request (which also includes its text encoder). Cards and versions
differ. A ratio below 1 means that this project is faster."""


def measure(kinds: Sequence[str], bench: Bench, subjects: Sequence[Subject]) -> Report:
    """Measure models, one after the other.

    Args:
        kinds: their kinds; all if there are none.
        bench: the device.
        subjects: all models.
    """
    timings: list[Timing] = []
    for subject in subjects:
        if not kinds or subject.kind in kinds:
            timings += measure_subject(subject, bench)
            bench.free()
    measured = [timing for timing in timings if not timing.problem]
    compared = list(compare(measured))
    return Report(
        "All models at full size on a GPU",
        METHOD,
        rows=[show(timing) for timing in timings],
        goals=[Goal("share of the rows that was measured", len(measured) / len(timings), 1)],
        samples={f"{timing.label}, {timing.variant}, pass (s)": timing.passes for timing in measured},
        packages=("torch", "diffusers", "transformers"),
        versions={"device": _name_device(bench.device)},
        sections=[Section("Beside published times", COMPARED, compared)] if compared else [],
    )


def show(timing: Timing) -> Row:
    """Return the row of a work in a variant."""
    work, unknown = timing.work, "–"
    is_measured = not timing.problem
    peak = timing.peak_bytes
    return {
        "model": timing.subject.name,
        "work": work.name,
        "variant": timing.variant,
        "pass (s)": str(find_spread(timing.passes)) if is_measured else f"not measured: {timing.problem}",
        "passes of a job": f"{work.passes} ({work.job})",
        "decode (s)": unknown if timing.decode is None else timing.decode,
        "job (s), extrapolated": timing.extrapolate(work.passes, whole=True) if is_measured else unknown,
        "peak (GB)": unknown if peak is None else peak / 1e9,
    }


def compare(timings: Sequence[Timing]) -> Iterator[Row]:
    """Yield a row for each published time and each measurement that it can be compared with."""
    for anchor in ANCHORS:
        for timing in timings:
            if timing.label == anchor.work:
                here = timing.extrapolate(anchor.passes, whole=anchor.whole)
                yield {
                    "work": anchor.work,
                    "published by": f"{anchor.system}{f' ({anchor.note})' if anchor.note else ''}",
                    "passes": str(anchor.passes),
                    "published (s)": anchor.seconds,
                    "variant here": timing.variant,
                    "here (s), extrapolated": here,
                    "here / published": here / anchor.seconds,
                }


def measure_gpu(kinds: Sequence[str]) -> Report:
    """Measure the models of some kinds on the GPU; all if none is named.

    Raises:
        ConfigError: a kind is unknown, or there is no GPU.
    """
    known = dict.fromkeys(subject.kind for subject in SUBJECTS)
    unknown = [kind for kind in kinds if kind not in known]
    if unknown:
        raise ConfigError(f"MODEL: must be one of {', '.join(known)}, got {', '.join(unknown)}")
    return measure(kinds, Bench(find_device("cuda")), SUBJECTS)


def _name_device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
