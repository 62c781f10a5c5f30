"""Landlock (Linux 5.13 and later): a process that may open no file but those named, and has no TCP.

https://docs.kernel.org/userspace-api/landlock.html. The numbers of its system calls are the same on all architectures.
"""

import ctypes
import errno
import os
import stat
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from composition.media.confinement.libc import call_system

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
CREATE_RULESET_VERSION = 1
RULE_PATH_BENEATH = 1
READ_FILE, READ_DIR = 1 << 2, 1 << 3
FILE_RIGHTS = ((1, 13), (2, 14), (3, 15), (5, 16))
"""Version of the interface → number of the rights to files that it knows, which are the lowest bits."""
NETWORK_VERSION, NETWORK_RIGHTS = 4, 0b11
"""First version that restricts TCP, and its rights: bind, connect."""
SCOPE_VERSION, SCOPES = 6, 0b11
"""First version that restricts abstract unix sockets and signals to processes that are confined together."""
ABSENT = (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)
"""Errors if the kernel has no Landlock, if it is not enabled, and if a container's filter forbids it."""


class RulesetAttributes(ctypes.Structure):
    """`struct landlock_ruleset_attr`. Kernels before 6.12 know only its beginning."""

    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class PathBeneathAttributes(ctypes.Structure):
    """`struct landlock_path_beneath_attr`."""

    _layout_ = "ms"
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


@cache
def read_version() -> int:
    """Return the version of the kernel's Landlock interface; 0 if this process cannot use it."""
    try:
        return call_system(CREATE_RULESET, ctypes.c_void_p(None), 0, CREATE_RULESET_VERSION)
    except OSError as error:
        if error.errno in ABSENT:
            return 0
        raise


def restrict_files(paths: Iterable[str]) -> None:
    """Let this thread, and those it starts, open only these paths, only to read.

    Also denies TCP, abstract unix sockets and signals, where the kernel can. The process must have no new privileges.

    Args:
        paths: files, and folders with all that is in them. Those that do not exist are left out.

    Raises:
        OSError: the kernel refuses.
    """
    version = read_version()
    ruleset = _create_ruleset(version)
    try:
        for path in paths:
            _allow_reading(ruleset, path)
        call_system(RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def list_links(folder: str) -> list[str]:
    """Return the files outside of a folder that links in it lead to."""
    root = Path(folder).resolve()
    targets = {
        Path(place, name).resolve()
        for place, folders, files in os.walk(folder)
        for name in (*folders, *files)
        if Path(place, name).is_symlink()
    }
    return sorted(str(path) for path in targets if path.is_file() and not path.is_relative_to(root))


def _create_ruleset(version: int) -> int:
    rights = max((count for since, count in FILE_RIGHTS if since <= version), default=0)
    attributes = RulesetAttributes((1 << rights) - 1)
    size = 8
    if version >= NETWORK_VERSION:
        attributes.handled_access_net, size = NETWORK_RIGHTS, 16
    if version >= SCOPE_VERSION:
        attributes.scoped, size = SCOPES, 24
    return call_system(CREATE_RULESET, ctypes.c_void_p(ctypes.addressof(attributes)), size, 0)


def _allow_reading(ruleset: int, path: str) -> None:
    try:
        file = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        rights = READ_FILE | READ_DIR if stat.S_ISDIR(os.fstat(file).st_mode) else READ_FILE
        attributes = PathBeneathAttributes(rights, file)
        call_system(ADD_RULE, ruleset, RULE_PATH_BENEATH, ctypes.c_void_p(ctypes.addressof(attributes)), 0)
    finally:
        os.close(file)
