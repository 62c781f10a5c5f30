"""Memory of this machine or container: how much there is, how much is used, and from where on Ray kills processes.

Ray's memory monitor kills workers, among them replicas, when the memory in use passes a share of all memory. It knows
nothing of decoder processes, so their budget lies within the rest, unless that is too small for a few large files.
"""

from dataclasses import dataclass
from pathlib import Path

RAY_THRESHOLD = 0.95
"""Share of memory in use from which on Ray kills workers: default of `RAY_memory_usage_threshold` in Ray 2.60."""
SMALLEST_BUDGET = 2 << 30
"""Default budget of decoders on a small machine, in bytes. An owner gets three quarters of it: enough for a job with a
4K video, which may keep its decoder for long, and for other files meanwhile."""
LARGEST_SHARE = 4
"""The default budget is at most one part of this number of all memory."""


@dataclass(frozen=True)
class NodeMemory:
    """Memory of a machine, or of the control group that limits it, in bytes."""

    total: int
    used: int
    """What cannot be freed: without the cache of files."""


@dataclass(frozen=True)
class _Group:
    """The files of a version of control groups."""

    limit: str
    used: str
    caches: tuple[str, ...]
    """Lines of `memory.stat` whose sizes are not counted as used."""


_GROUPS = (
    _Group("memory.max", "memory.current", ("inactive_file", "active_file")),
    _Group(
        "memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", ("total_inactive_file", "total_active_file")
    ),
)
"""Version 2 and version 1."""


def read_node_memory(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> NodeMemory:
    """Return the memory as Ray's monitor counts it: of the control group if that limits it, else of the machine.

    Args:
        proc: where procfs is mounted.
        groups: where control groups are mounted.
    """
    lines = _read_table(proc / "meminfo")
    total = lines["MemTotal"] * 1024
    machine = NodeMemory(total, total - lines["MemAvailable"] * 1024)
    for group in _GROUPS:
        limit = _read_number(groups / group.limit)
        used = _read_number(groups / group.used)
        if limit is not None and used is not None and limit < total:
            table = _read_table((groups / group.used).parent / "memory.stat")
            return NodeMemory(limit, max(0, used - sum(table.get(name, 0) for name in group.caches)))
    return machine


def _read_number(path: Path) -> int | None:
    """Return the number in a file; None if there is no such file, or no number in it (`max`)."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _read_table(path: Path) -> dict[str, int]:
    """Return the numbers of a file of lines `name number`, with or without a colon and a unit."""
    rows = (line.replace(":", " ").split() for line in path.read_text().splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def choose_budget(total: int, threshold: float) -> int:
    """Return the default budget of all decoders in bytes: what Ray leaves free, but room for a few large files.

    Args:
        total: all memory, in bytes.
        threshold: share of it from which on Ray kills workers.
    """
    return min(max(int(total * (1 - threshold)), SMALLEST_BUDGET), total // LARGEST_SHARE)
