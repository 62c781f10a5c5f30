"""Run the benchmarks, all of them or those that are named, and write what they found to `benchmarks/results/`."""

import argparse
import importlib
import os
import sys

from benchmarks.report import Report, write

# Each is a module here with `measure() -> Report`.
BENCHMARKS = (
    "frames_stream",
    "overlap",
    "job_call",
    "memory",
    "cancel",
    "ttlg",
    "memory_edit",
)


def main() -> int:
    """The entry point. Returns 1 when a goal was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all by default")
    names = parser.parse_args().names or BENCHMARKS
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"no such benchmark: {', '.join(unknown)}")
    missed = False
    for name in names:
        load_before = os.getloadavg()[0]
        report: Report = importlib.import_module(f"benchmarks.{name}").measure()
        path = write(name, report, load_before)
        print(path.read_text())
        missed = missed or not all(goal.met for goal in report.goals)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
