"""What is sent over the lifeline of a decoder, between its owner and its prepared process.

The owner sends commands of one byte, and shuts the lifeline down to kill the decoder. The prepared process sends one
status when the decoder has ended.
"""

import os
import signal
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SUSPEND, RESUME = b"s", b"r"
"""Commands: stop the decoder, which has low priority from then on; let it continue."""
LOW_PRIORITY = 10
"""Nice value of decoders that have been suspended: a tenth of the weight of other processes."""
STATUS = struct.Struct("<iQd")


@dataclass(frozen=True)
class Status:
    """How a decoder has ended, and what it has used."""

    code: int
    """Exit status, negative if a signal ended it."""
    peak_bytes: int = 0
    """Largest resident memory, including what is shared with the prepared process."""
    cpu_s: float = 0.0
    """Processor time in seconds."""

    def encode(self) -> bytes:
        """Return the message."""
        return STATUS.pack(self.code, self.peak_bytes, self.cpu_s)

    @classmethod
    def parse(cls, message: bytes) -> "Status":
        """Return the status that a message says."""
        return cls(*STATUS.unpack(message))


def obey(commands: bytes, pid: int) -> bool:
    """Obey commands for a child that was not reaped. Return whether its group of processes has yet to be lowered."""
    is_pending = False
    for command in commands:
        if command == SUSPEND[0]:
            os.kill(pid, signal.SIGSTOP)
            is_pending = not lower_priority(pid)
        elif command == RESUME[0]:
            os.kill(pid, signal.SIGCONT)
    return is_pending


def lower_priority(pid: int) -> bool:
    """Lower the priority of all threads of a process, and of its session.

    Linux shares the processor between sessions first (`autogroup` in sched(7)), and uses the nice values of processes
    only within one. Where that is switched off, or control groups share the processor, it uses them alone.

    Returns:
        Whether the session was lowered: without privileges Linux does it ten times a second at most.
    """
    with suppress(OSError):  # it has ended
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(thread.name), LOW_PRIORITY)
    return lower_session(pid)


def lower_session(pid: int) -> bool:
    """Lower the priority of the session of a process, if it has one. Return False if it must be tried again."""
    try:
        Path(f"/proc/{pid}/autogroup").write_text(str(LOW_PRIORITY))
    except BlockingIOError:
        return False
    except OSError:  # the process has ended, or Linux knows no priority of sessions
        return True
    return True
