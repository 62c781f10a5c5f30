"""Run benchmarks, all by default, and write the results to `benchmarks/results/`."""

import argparse
import importlib
import os
import sys

from benchmarks.report import Report, write

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


if __name__ == "__main__":
    sys.exit(main())
