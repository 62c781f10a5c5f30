"""Measures the memory that Python allocates in a block of a test."""

import gc
import tracemalloc
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class TracedMemory:
    """The memory allocated since the start of a block, in bytes."""

    peak: int = 0
    """Largest value within the block; set at its end."""

    def read(self) -> int:
        """Return the value now, within the block."""
        return tracemalloc.get_traced_memory()[0]


@contextmanager
def trace_memory() -> Generator[TracedMemory]:
    """Trace what all threads allocate in the block.

    Garbage of earlier tests is collected first: its finalizers would allocate within the block, e.g. for warnings.
    """
    traced = TracedMemory()
    gc.collect()
    tracemalloc.start()
    try:
        yield traced
        traced.peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
