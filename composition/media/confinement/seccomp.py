"""A filter of system calls (seccomp, Linux 3.17 and later), which holds for all threads of a process.

See seccomp(2) and https://docs.kernel.org/userspace-api/seccomp_filter.html.
"""

import ctypes
import errno
import os
import struct
from functools import cache

from composition.media.confinement.libc import call_system
from composition.media.confinement.system_calls import (
    AARCH64,
    DENIED,
    FIRST_RECENT,
    NUMBERS,
    UNKNOWN,
    X86_64,
    Condition,
    list_conditions,
)

MACHINES = {"x86_64": (X86_64, 0xC000003E, 317), "aarch64": (AARCH64, 0xC00000B7, 277)}
"""Machine → column of its numbers, its AUDIT_ARCH, number of seccomp(2)."""
X32_BIT = 0x40000000
"""Bit of the numbers of x32, which are another set of system calls of x86_64."""
SET_MODE_FILTER, GET_ACTION_AVAIL = 1, 2
TSYNC = 1
ALLOW, KILL_PROCESS, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
"""Actions of a filter."""
LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_ANY_BIT, AND, RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
"""Instructions: `BPF_LD | BPF_W | BPF_ABS`, `BPF_JMP | BPF_JEQ`, `… | BPF_JGE`, `… | BPF_JSET`, `BPF_ALU | BPF_AND`,
`BPF_RET`."""
NUMBER_AT, ARCHITECTURE_AT, ARGUMENTS_AT = 0, 4, 16
"""Offsets in `struct seccomp_data`; an argument takes 8 bytes, the lower half first."""

Instruction = tuple[int, int, int, int]
"""Code, instructions to skip if true and if false, operand."""


class Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


@cache
def is_available() -> bool:
    """Whether this process can have a filter: the machine is a known one, and the kernel does not refuse."""
    machine = MACHINES.get(os.uname().machine)
    if machine is None or ctypes.sizeof(ctypes.c_void_p) != 8:
        return False
    action = ctypes.c_uint32(KILL_PROCESS)
    try:
        call_system(machine[2], GET_ACTION_AVAIL, 0, ctypes.c_void_p(ctypes.addressof(action)))
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM):
            return False
        raise
    return True


def restrict_calls() -> None:
    """Deny all system calls that a decoder does not need, to all threads. The process must have no new privileges.

    Raises:
        OSError: the kernel refuses.
    """
    machine = os.uname().machine
    instructions = write_filter(machine, os.getpid())
    data = b"".join(struct.pack("<HBBI", *each) for each in instructions)
    program = Program(len(instructions), data)
    thread = call_system(MACHINES[machine][2], SET_MODE_FILTER, TSYNC, ctypes.c_void_p(ctypes.addressof(program)))
    if thread:
        raise OSError(errno.EAGAIN, f"thread {thread} has another filter")


def write_filter(machine: str, pid: int) -> list[Instruction]:
    """Return the filter for the process `pid` on a machine: one of MACHINES."""
    column, architecture, _ = MACHINES[machine]
    conditions = list_conditions(pid)
    program: list[Instruction] = [
        (LOAD, 0, 0, ARCHITECTURE_AT),
        (JUMP_EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, KILL_PROCESS),
        (LOAD, 0, 0, NUMBER_AT),
    ]
    if column == X86_64:
        program += [(JUMP_AT_LEAST, 0, 1, X32_BIT), (RETURN, 0, 0, KILL_PROCESS)]
    for name, numbers in NUMBERS.items():
        number = numbers[column]
        if number is not None:
            block = _check_argument(conditions[name]) if name in conditions else [(RETURN, 0, 0, ALLOW)]
            program += [(JUMP_EQUAL, 0, len(block), number), *block]
    program += [
        (JUMP_AT_LEAST, 0, 1, FIRST_RECENT),
        (RETURN, 0, 0, ERRNO | UNKNOWN),
        (RETURN, 0, 0, ERRNO | DENIED),
    ]
    return program


def _check_argument(condition: Condition) -> list[Instruction]:
    """Return instructions that allow the call if an argument is as it must be, or else deny it."""
    load = (LOAD, 0, 0, ARGUMENTS_AT + 8 * condition.argument)
    allow, deny = (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, ERRNO | DENIED)
    match condition.kind:
        case "one_of":
            count = len(condition.values)
            tests = [(JUMP_EQUAL, count - place, 0, value) for place, value in enumerate(condition.values)]
            return [load, *tests, deny, allow]
        case "has":
            (bits,) = condition.values
            return [load, (AND, 0, 0, bits), (JUMP_EQUAL, 1, 0, bits), deny, allow]
        case "lacks":
            return [load, (JUMP_ANY_BIT, 0, 1, condition.values[0]), deny, allow]
