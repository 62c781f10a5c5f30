"""Faults injected into running jobs, and the table of their results, which `make matrix` writes."""

import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from sqlite3 import connect
from typing import Any

import pytest

from benchmarks.report import Report, Row, write
from tests.cluster.server import Server

METHOD = """\
A job runs once undisturbed. Then the same job runs again, and at the named stage a process is killed (SIGKILL): of two
replicas the busy one, for V2V both. The job must complete without intervention, and all its results must be identical
byte for byte beneath their marks. Random weights, small requests, one machine, leases of 3 s. *runners*: how many times
a runner claimed the job, including after the loss of the previous runner."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a job with an injected fault that completed with identical bytes."""

    graph: str
    killed: str
    """Name of the deployment that lost a process."""
    stage: str
    """Stage of the job at the fault."""
    runners: int
    """Number of times a runner claimed the job."""
    undisturbed_s: int
    """Duration without the fault, from creation to completion."""
    disturbed_s: int
    """Duration with the fault."""


def compare_outcomes(
    server: Server, killed: str, stage: str, video: Mapping[str, Any], undisturbed: Mapping[str, Any]
) -> Outcome:
    """Compare a job that survived a fault with the undisturbed one."""
    took_s, took_undisturbed_s = (each["completed_at"] - each["created_at"] for each in (video, undisturbed))
    runners = count_runners(server, video["id"])
    return Outcome(video["model"], killed, stage, runners, took_undisturbed_s, took_s)


def count_runners(server: Server, video_id: str) -> int:
    """Return how many times a runner has claimed the job."""
    database = server.home / "reelgraph.db"
    with closing(connect(f"file:{database}?mode=ro", uri=True)) as connection:
        (attempts,) = connection.execute("select attempts from jobs where id = ?", (video_id,)).fetchone()
    return attempts


class FaultTable:
    """A pytest plugin that collects the outcomes of fault tests, and writes them if all tests have passed."""

    def __init__(self) -> None:
        self._load_before = os.getloadavg()[0]
        self._outcomes: list[Outcome] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect the outcome that a test has recorded."""
        if report.when == "call" and report.passed:
            self._outcomes += [value for _, value in report.user_properties if isinstance(value, Outcome)]

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Write the table."""
        if exitstatus == pytest.ExitCode.OK:
            write("faults", report_on(self._outcomes), self._load_before)


def report_on(outcomes: list[Outcome]) -> Report:
    """Return the table, with a row for each outcome."""
    rows: list[Row] = [
        {
            "graph": outcome.graph,
            "killed": outcome.killed,
            "at": outcome.stage,
            "result": "identical",
            "runners": outcome.runners,
            "undisturbed, s": outcome.undisturbed_s,
            "with the fault, s": outcome.disturbed_s,
        }
        for outcome in outcomes
    ]
    samples = {name: [asdict(outcome)[name] for outcome in outcomes] for name in ("undisturbed_s", "disturbed_s")}
    return Report("Faults", METHOD, rows, [], samples, ("ray", "torch", "diffusers"))
