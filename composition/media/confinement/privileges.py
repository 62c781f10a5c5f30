"""Giving up what a process of root may do."""

import ctypes
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from composition.media.confinement.libc import LIBC, end_with_parent, raise_errno

CAPABILITY_VERSION = 0x20080522
"""`_LINUX_CAPABILITY_VERSION_3`; see capset(2)."""
DAC_OVERRIDE, DAC_READ_SEARCH = 1 << 1, 1 << 2
"""Capabilities to read what other users own."""
CHOWN, KILL, SETGID, SETUID = 1 << 0, 1 << 5, 1 << 6, 1 << 7
NEEDED = CHOWN | KILL | SETGID | SETUID
"""Capabilities to hand a file over to another user, to become that user, and to end its processes."""
NOBODY = 65534
"""User and group that own no files."""


class CapabilityHeader(ctypes.Structure):
    """`struct __user_cap_header_struct`."""

    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class CapabilityData(ctypes.Structure):
    """`struct __user_cap_data_struct`: the lower or the upper 32 capabilities."""

    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def drop_capabilities(paths: Sequence[str]) -> None:
    """Give up all capabilities, except the one that reads what others own if a path cannot be read without it.

    Raises OSError.
    """
    header, data = _read_capabilities()
    permitted = int(data[0].permitted)
    for half in data:
        half.effective = half.inheritable = 0
    _check(LIBC.capset(ctypes.byref(header), data))
    kept = 0 if all(map(_can_open, paths)) else permitted & DAC_READ_SEARCH or permitted & DAC_OVERRIDE
    data[0].permitted = data[0].effective = kept
    data[1].permitted = 0
    _check(LIBC.capset(ctypes.byref(header), data))


def can_become_nobody() -> bool:
    """Whether processes of root may become `NOBODY`: containers may lack the capabilities, or the user."""
    _, data = _read_capabilities()
    tables = (Path(f"/proc/self/{name}_map").read_text() for name in ("uid", "gid"))
    return os.geteuid() == 0 and int(data[0].effective) & NEEDED == NEEDED and all(map(maps_nobody, tables))


def maps_nobody(table: str) -> bool:
    """Whether a table of user or group ids has `NOBODY`; see user_namespaces(7)."""
    rows = [[int(value) for value in line.split()] for line in table.splitlines()]
    return any(first <= NOBODY < first + count for first, _, count in rows)


def become_nobody() -> None:
    """Change to a user who owns nothing. The process must be root's. Raises OSError.

    The kernel then forgets that the process is to be killed when its parent ends. It is told again: otherwise a decoder
    that is suspended would stay so for ever.
    """
    parent = os.getppid()
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    end_with_parent(parent)


def hand_over(path: str) -> str:
    """Copy a file into one without a name that nobody else can read, and return the path under which this process, and
    later `NOBODY`, opens it. Raises OSError.
    """
    with Path(path).open("rb") as source, tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(source, copy, 1 << 20)
        copy.flush()
        os.fchown(copy.fileno(), NOBODY, NOBODY)
        return f"/proc/self/fd/{os.dup(copy.fileno())}"


def _read_capabilities() -> tuple[CapabilityHeader, "ctypes.Array[CapabilityData]"]:
    """Return the capabilities of this process. Raises OSError."""
    header, data = CapabilityHeader(CAPABILITY_VERSION), (CapabilityData * 2)()
    _check(LIBC.capget(ctypes.byref(header), data))
    return header, data


def _can_open(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except PermissionError:
        return False
    except OSError:  # for other reasons than permissions
        return True
    return True


def _check(result: int) -> None:
    if result:
        raise_errno()
