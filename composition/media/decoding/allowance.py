"""The memory and the processor time that a decoder process may take.

It begins with little, enough to read headers. When the cost of the file is known, it asks its owner, who reserves the
memory in the budget of the machine, and only then raises its limit. `RLIMIT_DATA` counts what a process can write to:
heap, mappings and stacks of threads. `RLIMIT_AS` would count the libraries, too, and the address space that the
allocator sets aside for threads.
"""

import resource
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from composition.media.cost import HEADER_BYTES, MIB, Cost
from composition.media.decoding.headers import Limits

HEADER_CPU_S = 15
"""Processor time for reading headers and the index of frames, in seconds, before the cost is known."""
ADDRESS_SPACE_BYTES = 1 << 30
"""Address space beyond the memory: for libraries that are loaded later and for what the allocator sets aside."""
MAX_OPEN_FILES = 64
MAX_WRITTEN_BYTES = 1 << 16
"""Maximum size of a file that the process writes: the messages of libraries on standard error."""
FIRST_TO_KILL = 1000
"""Badness by which the kernel takes a process before all others when memory runs out; see proc_pid_oom_score_adj(5)."""


class Allowance:
    """Sets the limits of this process.

    Args:
        limits: of the file.
        ask: tells the owner the cost of the file and the memory that was used so far, in bytes; returns when the
            memory of the cost is reserved.
    """

    def __init__(self, limits: Limits, ask: Callable[[Cost, int], None]) -> None:
        self._limits = limits
        self._ask = ask
        self._base = measure_base()
        self._granted = 0
        """Memory that was reserved for the cost of the file; 0 if that is not known yet."""
        self._limit_memory(HEADER_BYTES)

    def begin_operation(self) -> None:
        """Allow the processor time of one operation."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        left = self._limits.cpu_s if self._granted else min(HEADER_CPU_S, self._limits.cpu_s)
        soft = int(usage.ru_utime + usage.ru_stime + left) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))

    def require(self, cost: Cost) -> None:
        """Return when memory for a cost is reserved. Does nothing if more was reserved before."""
        if cost.memory_bytes <= self._granted:
            return
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self._ask(cost, max(0, peak - self._base.resident))
        is_first = not self._granted
        self._granted = cost.memory_bytes
        self._limit_memory(self._granted)
        if is_first:
            self.begin_operation()

    def describe_memory(self) -> str:
        """Return the memory that this process may take, for messages."""
        if not self._granted:
            return f"reading the headers needs more than {HEADER_BYTES // MIB} MiB of memory"
        return (
            f"decoding needs more memory than the {self._granted // MIB} MiB that the headers let expect; "
            f"the limit is {self._limits.memory_bytes // MIB} MiB (memory_bytes)"
        )

    def _limit_memory(self, size: int) -> None:
        hard = self._limits.memory_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (min(self._base.data + size, hard), hard))


def limit_resources(limits: Limits) -> None:
    """Set the limits of this process that do not depend on the file, and let the kernel take it first.

    It writes no files: Python's caches would be cut at the limit.
    """
    sys.dont_write_bytecode = True
    Path("/proc/self/oom_score_adj").write_text(str(FIRST_TO_KILL))
    address_space = measure_base().address_space + limits.memory_bytes + ADDRESS_SPACE_BYTES
    for kind, limit in (
        (resource.RLIMIT_AS, address_space),
        (resource.RLIMIT_NOFILE, MAX_OPEN_FILES),
        (resource.RLIMIT_FSIZE, MAX_WRITTEN_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))


class BaseMemory(NamedTuple):
    """What this process took before it opened its file, in bytes: mostly libraries."""

    address_space: int
    resident: int
    data: int
    """What `RLIMIT_DATA` counts."""


@cache
def measure_base() -> BaseMemory:
    """Measure the memory of this process at the first call; a confined process cannot read the file that tells it."""
    pages = [int(value) for value in Path("/proc/self/statm").read_text().split()]
    page = resource.getpagesize()
    return BaseMemory(pages[0] * page, pages[1] * page, pages[5] * page)
