"""The system calls that a decoder process makes: decoding in threads, and reading files that it may open.

All others are denied, among them those that open sockets, run programs, start processes, read or signal other
processes, change files, mount, and load code into the kernel.
"""

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

X86_64, AARCH64 = 0, 1
"""Columns of NUMBERS."""

NUMBERS: Mapping[str, tuple[int | None, int | None]] = {
    "access": (21, None),
    "arch_prctl": (158, None),
    "brk": (12, 214),
    "clock_getres": (229, 114),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "clone": (56, 220),
    "close": (3, 57),
    "close_range": (436, 436),
    "dup": (32, 23),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "fadvise64": (221, 223),
    "fcntl": (72, 25),
    "flock": (73, 32),
    "fstat": (5, 80),
    "fstatfs": (138, 44),
    "futex": (202, 98),
    "get_mempolicy": (239, 236),
    "get_robust_list": (274, 100),
    "getcpu": (309, 168),
    "getcwd": (79, 17),
    "getdents64": (217, 61),
    "getegid": (108, 177),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "getpriority": (140, 141),
    "getrandom": (318, 278),
    "getrlimit": (97, 163),
    "getrusage": (98, 165),
    "gettid": (186, 178),
    "gettimeofday": (96, 169),
    "getuid": (102, 174),
    "ioctl": (16, 29),
    "kill": (62, 129),
    "lseek": (8, 62),
    "lstat": (6, None),
    "madvise": (28, 233),
    "mbind": (237, 235),
    "membarrier": (324, 283),
    "mincore": (27, 232),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "msync": (26, 227),
    "munmap": (11, 215),
    "nanosleep": (35, 101),
    "newfstatat": (262, 79),
    "open": (2, None),
    "openat": (257, 56),
    "pause": (34, None),
    "poll": (7, None),
    "ppoll": (271, 73),
    "prctl": (157, 167),
    "pread64": (17, 67),
    "preadv": (295, 69),
    "preadv2": (327, 286),
    "prlimit64": (302, 261),
    "pselect6": (270, 72),
    "read": (0, 63),
    "readahead": (187, 213),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "readv": (19, 65),
    "recvfrom": (45, 207),
    "restart_syscall": (219, 128),
    "rseq": (334, 293),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sched_get_priority_max": (146, 125),
    "sched_get_priority_min": (147, 126),
    "sched_getaffinity": (204, 123),
    "sched_getparam": (143, 121),
    "sched_getscheduler": (145, 120),
    "sched_yield": (24, 124),
    "select": (23, None),
    "sendto": (44, 206),
    "set_robust_list": (273, 99),
    "set_tid_address": (218, 96),
    "setrlimit": (160, 164),
    "shutdown": (48, 210),
    "sigaltstack": (131, 132),
    "stat": (4, None),
    "statfs": (137, 43),
    "statx": (332, 291),
    "sysinfo": (99, 179),
    "tgkill": (234, 131),
    "time": (201, None),
    "times": (100, 153),
    "uname": (63, 160),
    "write": (1, 64),
    "writev": (20, 66),
}
"""System call → its numbers on x86_64 and aarch64; None if there is none. Those of sockets serve the link."""

FIRST_RECENT = 424
"""Number from which on the numbers are the same on all architectures. Libraries expect ENOSYS for those that a kernel
lacks, and then use an older one; `clone3` is among them, whose flags a filter cannot see."""


@dataclass(frozen=True)
class Condition:
    """What an argument of a system call must be."""

    argument: int
    """Position of the argument; its lower 32 bits are compared."""
    kind: Literal["one_of", "has", "lacks"]
    """Whether it must be one of the values, or have or lack all bits of the first one."""
    values: tuple[int, ...]


CLONE_THREAD = 0x10000
WRITING = 0x243
"""Flags of open(2): O_WRONLY, O_RDWR, O_CREAT, O_TRUNC."""
NAMING = (15, 16, 0x53564D41)
"""Options of prctl(2) that name threads and memory: PR_SET_NAME, PR_GET_NAME, PR_SET_VMA."""
FILE_REQUESTS = (0x5401, 0x5421, 0x5450, 0x5451, 0x541B)
"""Requests of ioctl(2): TCGETS, which tells that a file is no terminal, FIONBIO, FIONCLEX, FIOCLEX, FIONREAD."""
DESCRIPTOR_COMMANDS = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030)
"""Commands of fcntl(2): duplicates, flags and locks, but not F_SETOWN, which makes the kernel send signals."""


def list_conditions(pid: int) -> Mapping[str, Condition]:
    """Return the condition under which a system call is allowed in the process `pid`."""
    return {
        "clone": Condition(0, "has", (CLONE_THREAD,)),
        "open": Condition(1, "lacks", (WRITING,)),
        "openat": Condition(2, "lacks", (WRITING,)),
        "prctl": Condition(0, "one_of", NAMING),
        "ioctl": Condition(1, "one_of", FILE_REQUESTS),
        "fcntl": Condition(1, "one_of", DESCRIPTOR_COMMANDS),
        "kill": Condition(0, "one_of", (pid,)),
        "tgkill": Condition(0, "one_of", (pid,)),
        "prlimit64": Condition(0, "one_of", (0, pid)),
    }


DENIED = errno.EPERM
"""Error of a system call that is not allowed."""
UNKNOWN = errno.ENOSYS
"""Error of a recent system call that is not allowed."""
