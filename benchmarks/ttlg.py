"""Measures guidance at test time: its effect on a rolling edit, its cost, and cheaper gradients."""

import tempfile
from pathlib import Path

from benchmarks import ttlg_cost, ttlg_direction, ttlg_quality
from benchmarks.report import RESULTS, Report
from benchmarks.ttlg_cases import load_service

METHOD = """\
A small Qwen-Image-Edit with random weights, on the CPU, in one process without a server."""


def measure() -> Report:
    """Measure quality, cost and direction, and draw the losses. Takes a quarter of an hour on two cores."""
    with tempfile.TemporaryDirectory() as home:
        edit = load_service(Path(home))
        quality = ttlg_quality.measure(edit)
        direction = ttlg_direction.measure(edit)
    cost, goals, samples = ttlg_cost.measure()
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "ttlg.csv").write_text(quality.csv())
    (RESULTS / "ttlg.svg").write_text(quality.svg())
    return Report(
        "Guidance at test time",
        METHOD,
        rows=(),
        goals=[*quality.goals(), *goals],
        samples=samples,
        packages=("torch", "diffusers"),
        sections=[quality.section(), cost, *direction],
    )
