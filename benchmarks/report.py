"""Results of a benchmark and their output files: a Markdown page, and the same figures as JSON."""

import json
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TypeAlias

from rich.progress import track

RESULTS = Path(__file__).parent / "results"

Row: TypeAlias = Mapping[str, str | float]
"""One row of a table: heading → value."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A goal: `value` must be at least `limit`, or at most `limit` if `at_most`."""

    what: str
    value: float
    limit: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        return self.value <= self.limit if self.at_most else self.value >= self.limit


@dataclass(frozen=True, slots=True)
class Section:
    """One of several tables, with its own heading."""

    title: str
    method: str
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Report:
    """The results of a benchmark."""

    title: str
    method: str
    """What was measured, how, and in which units."""
    rows: Sequence[Row]
    goals: Sequence[Goal]
    samples: Mapping[str, Sequence[float]]
    """Contender → value of every repetition, behind the medians."""
    packages: Sequence[str] = ()
    """Installed packages whose versions are recorded."""
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    """Name → version of software that is not installed here."""
    sections: Sequence[Section] = ()
    """Several tables; `rows` is then empty."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and extremes of repeated measurements."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{_number(self.median)} ({_number(self.low)} to {_number(self.high)})"


def find_spread(values: Sequence[float]) -> Spread:
    """Return the median and the extremes of the values."""
    return Spread(statistics.median(values), min(values), max(values))


def ratio(samples: Mapping[str, Sequence[float]], ours: str, other: str) -> Spread:
    """Return `ours` over `other`, round by round, so that changes of the machine's load affect both."""
    return find_spread([a / b for a, b in zip(samples[ours], samples[other], strict=True)])


def measure_alternately(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Measure every contender once per round, after a warm-up round that is not counted.

    The order rotates from round to round, so that no contender always follows the same one.
    """
    names = list(contenders)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for number in track(range(rounds + 1), description=", ".join(names)):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            figure = contenders[name]()
            if number > 0:
                samples[name].append(figure)
    return samples


def write(name: str, report: Report, load_before: float) -> Path:
    """Write `results/NAME.json` and `results/NAME.md`, and return the path of the page."""
    RESULTS.mkdir(exist_ok=True)
    where = _machine() | {"load_before": round(load_before, 2), "load_after": round(os.getloadavg()[0], 2)}
    versions = {"python": platform.python_version()} | {p: version(p) for p in report.packages} | dict(report.versions)
    day = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    goals = [{"what": g.what, "value": round(g.value, 3), "limit": g.limit, "met": g.met} for g in report.goals]
    facts = {"title": report.title, "date": day, "machine": where, "versions": versions, "method": report.method}
    found: dict[str, object] = {"rows": [dict(row) for row in report.rows], "goals": goals}
    if report.sections:
        found["sections"] = {section.title: [dict(row) for row in section.rows] for section in report.sections}
    found["samples"] = dict(report.samples)
    (RESULTS / f"{name}.json").write_text(json.dumps(facts | found, indent=1, ensure_ascii=False) + "\n")
    page = RESULTS / f"{name}.md"
    page.write_text(_page(report, day, where, versions))
    return page


def _page(report: Report, day: str, where: Mapping[str, str | float], versions: Mapping[str, str]) -> str:
    goals = [
        f"- {goal.what}: {goal.value:.3f}, goal: {'at most' if goal.at_most else 'at least'} {goal.limit:g}, "
        f"{'met' if goal.met else '**missed**'}"
        for goal in report.goals
    ]
    machine = (
        f"{where['cpu']}, {where['cores']} cores, {where['memory_gib']} GiB, {where['system']}; "
        f"load average {where['load_before']} before, {where['load_after']} after"
    )
    parts = [
        f"# {report.title}",
        report.method,
        _table(report.rows),
        "\n".join(goals),
        *(
            part
            for section in report.sections
            for part in (f"## {section.title}", section.method, _table(section.rows))
        ),
        f"{day}. {machine}. {', '.join(f'{name} {number}' for name, number in versions.items())}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    headings = list(rows[0])
    table = [headings, ["---"] * len(headings), *([_cell(row[h]) for h in headings] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in table)


def _cell(value: str | float) -> str:
    return value if isinstance(value, str) else _number(value)


def _number(value: float) -> str:
    """Format a number with three digits, without an exponent."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _machine() -> dict[str, str | float]:
    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30),
        "system": f"{platform.system()} {platform.release()}",
    }
