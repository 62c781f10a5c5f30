"""How many processors this process may use."""

import math
import os
from pathlib import Path


def count_processors(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the number of processors that this process may use.

    That is how many it may run on, or fewer if its control group limits their time, as containers do.

    Args:
        groups: where control groups are mounted.
    """
    count = len(os.sched_getaffinity(0))
    limit = _read_limit(groups)
    return count if limit is None else max(1, min(count, math.ceil(limit)))


def _read_limit(groups: Path) -> float | None:
    """Return the processor time per time that the control group may use; None if it is not limited."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):  # version 2 and version 1
        try:
            quota, period = " ".join((groups / name).read_text() for name in names).split()
        except OSError:
            continue
        return int(quota) / int(period) if quota.isdigit() else None  # `max` or -1: no limit
    return None
