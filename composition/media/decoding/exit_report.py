"""What the prepared process tells the owner of a decoder that has ended."""

import struct
from typing import NamedTuple

_FORM = struct.Struct("<idq")
REPORT_BYTES = _FORM.size
"""Size of a report."""


class ExitReport(NamedTuple):
    """The end of a decoder process."""

    code: int
    """Exit status, negative if a signal ended it."""
    cpu_s: float = 0
    """Processor time that it used, in seconds."""
    memory_bytes: int = 0
    """Its largest resident memory, in bytes."""

    def encode(self) -> bytes:
        """Return the report as bytes."""
        return _FORM.pack(*self)


def parse_report(data: bytes) -> ExitReport:
    """Return the report in `REPORT_BYTES` bytes."""
    code, cpu_s, memory_bytes = _FORM.unpack(data)
    return ExitReport(code, cpu_s, memory_bytes)
