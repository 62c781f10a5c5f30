"""Run benchmarks, all by default, and write the results to `benchmarks/results/`.

`gpu [MODEL ...]` measures models at full size on a GPU; it is not one of all.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from benchmarks.report import Report, write
from services.errors import ConfigError

# Each is a module of this package with `measure() -> Report`.
BENCHMARKS = (
    "frames_stream",
    "overlap",
    "job_call",
    "decoder_start",
    "encode",
    "signals",
    "decoding",
    "decoder_turns",
    "marks",
    "memory",
    "cancel",
    "ttlg",
    "gate",
    "memory_edit",
    "upscale",
    "pipeline",
    "startup",
)
ON_DEVICES = ("upscale", "pipeline")
"""Benchmarks with `measure(device: str) -> Report`."""


def main() -> int:
    """Run the command line and return its exit status, 1 if a goal was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help=f"for {', '.join(ON_DEVICES)}")
    given = parser.parse_args()
    if given.names[:1] == ["gpu"]:
        return run_gpu(parser, given.names[1:])
    names = given.names or BENCHMARKS
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"NAME: must be one of {', '.join(BENCHMARKS)}, got {', '.join(unknown)}")
    elsewhere = sorted(set(names) - set(ON_DEVICES)) if given.device != "cpu" else []
    if elsewhere:
        parser.error(f"--device: {', '.join(elsewhere)} can only run on the CPU, got {given.device}")
    missed = False
    for name in names:
        load_before = os.getloadavg()[0]
        measure = importlib.import_module(f"benchmarks.{name}").measure
        report: Report = measure(given.device) if name in ON_DEVICES else measure()
        path = write(name if given.device == "cpu" else f"{name}_{given.device}", report, load_before)
        print(path.read_text())
        missed = missed or not all(goal.met for goal in report.goals)
    return int(missed)


def run_gpu(parser: argparse.ArgumentParser, kinds: Sequence[str]) -> int:
    """Measure the models of some kinds, or all, on the GPU, and return the exit status, 1 if one was not measured."""
    load_before = os.getloadavg()[0]
    try:
        report = importlib.import_module("benchmarks.gpu").measure_gpu(kinds)
    except ConfigError as error:
        parser.error(error.message)
    path = write("_".join(["gpu", *kinds]), report, load_before)
    print(path.read_text())
    return int(not all(goal.met for goal in report.goals))


if __name__ == "__main__":
    sys.exit(main())
