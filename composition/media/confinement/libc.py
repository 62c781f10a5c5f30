"""System calls that Python does not offer, through the C library."""

import ctypes
import os
import signal
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38
"""See prctl(2)."""


def call_system(number: int, *arguments: Any) -> int:
    """Make a system call by its number and return its result. Raises OSError."""
    words = [each if isinstance(each, ctypes.c_void_p) else ctypes.c_long(each) for each in arguments]
    result = int(LIBC.syscall(ctypes.c_long(number), *words))
    if result < 0:
        raise_errno()
    return result


def set_attribute(option: int, value: int) -> None:
    """Set an attribute of this process by prctl(2). Raises OSError."""
    if LIBC.prctl(option, *(ctypes.c_ulong(each) for each in (value, 0, 0, 0))):
        raise_errno()


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, and end it if that has ended already. Raises OSError.

    Args:
        parent: process id.
    """
    set_attribute(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def raise_errno() -> None:
    """Raise OSError for the error of the last call."""
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))
