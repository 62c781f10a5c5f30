"""Measures the start of a server on a laptop: all miniatures in one process, against one process per model."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.local_ray import free_port
from benchmarks.report import Goal, Report, Row, find_spread, measure_alternately, ratio
from composition.configuration.file import LOCAL_CONFIG
from miniatures.random.served import host_apart

ROUNDS = 1
READY_S = 600.0
STOP_S = 120.0
TOGETHER, APART = "as the local configuration has it", "a process for each model and graph"

METHOD = f"""\
`python -m composition serve` with the trained miniatures, from its start to `ready`. *{TOGETHER}*: eight models in one
process and five graphs in another. *{APART}*: the same models and graphs, each in its own application. CPU seconds are
the user and system time of all processes of the server, including Ray's; memory is their total proportional set size at
`ready`. One round after a warm-up round."""


@dataclass(frozen=True, slots=True)
class Start:
    """Cost of one start."""

    cpu_s: float
    wall_s: float
    pss_gib: float
    processes: int


def measure() -> Report:
    """Start the server in both forms alternately."""
    starts: dict[str, list[Start]] = {TOGETHER: [], APART: []}

    def measure_form(name: str) -> float:
        starts[name].append(_start(_configuration(apart=name == APART)))
        return starts[name][-1].cpu_s

    cpu = measure_alternately({name: lambda name=name: measure_form(name) for name in starts}, ROUNDS)
    counted = {name: found[-ROUNDS:] for name, found in starts.items()}
    pss = {name: [start.pss_gib for start in found] for name, found in counted.items()}
    rows: list[Row] = [
        {
            "form": name,
            "CPU s": str(find_spread(cpu[name])),
            "PSS GiB": str(find_spread(pss[name])),
            "seconds": str(find_spread([start.wall_s for start in found])),
            "processes": float(found[-1].processes),
        }
        for name, found in counted.items()
    ]
    goals = [
        Goal("CPU seconds to ready", ratio(cpu, TOGETHER, APART).median, 0.45, at_most=True),
        Goal("memory (PSS) at ready", ratio(pss, TOGETHER, APART).median, 0.35, at_most=True),
    ]
    samples = {f"{name}, CPU s": values for name, values in cpu.items()}
    samples |= {f"{name}, PSS GiB": values for name, values in pss.items()}
    return Report("Start of a server on a laptop", METHOD, rows, goals, samples, ("ray", "torch"))


def _configuration(*, apart: bool) -> dict[str, Any]:
    """Return the local configuration, in the form that is measured."""
    raw = yaml.safe_load(LOCAL_CONFIG.read_text())
    return host_apart(raw) if apart else raw


def _start(raw: dict[str, Any]) -> Start:
    """Start a server in a temporary home, measure it, and stop it."""
    with tempfile.TemporaryDirectory(prefix="reelgraph-start-") as home:
        for application in raw["applications"]:
            application["args"]["home"] = home
        config = LOCAL_CONFIG.parent / f".{Path(home).name}.yaml"  # beside the original: relative paths start there
        config.write_text(yaml.safe_dump(raw))
        try:
            with _server(config) as (server, began):
                wall_s = time.monotonic() - began
                return _sum([server, *server.children(recursive=True)], wall_s)
        finally:
            config.unlink()


@contextmanager
def _server(config: Path) -> Iterator[tuple[psutil.Process, float]]:
    """Yield a ready server process, and the time at which its start began."""
    command = [sys.executable, "-m", "composition", "serve", "--config", str(config), "--port", str(free_port())]
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout
        try:
            for line in process.stdout:
                if line.strip() == "ready":
                    break
                if time.monotonic() - began > READY_S:
                    raise TimeoutError(f"the server was not ready within {READY_S:g} s")
            else:
                raise RuntimeError("the server ended before it was ready")
            yield psutil.Process(process.pid), began
        finally:
            process.terminate()
            process.wait(STOP_S)


def _sum(processes: list[psutil.Process], wall_s: float) -> Start:
    """Add up the use of processes and of their ended children."""
    cpu_s, pss, count = 0.0, 0, 0
    for process in processes:
        try:
            times, memory = process.cpu_times(), process.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
        cpu_s += times.user + times.system + times.children_user + times.children_system
        pss += memory
        count += 1
    return Start(cpu_s, wall_s, pss / 2**30, count)
