"""Run a command without some system calls, as on an older kernel: `python lacking.py 444,445 COMMAND …`."""

import ctypes
import os
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, ENOSYS = 0x7FFF0000, 0x00050000 | 38


class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


numbers = [int(number) for number in sys.argv[1].split(",")]
lines = [(LOAD, 0, 0, 0)]
for number in numbers:
    lines += [(JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, ENOSYS)]
lines.append((RETURN, 0, 0, ALLOW))
program = Program(len(lines), b"".join(struct.pack("<HBBI", *line) for line in lines))
libc = ctypes.CDLL(None)
none = ctypes.c_ulong(0)
if libc.prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), none, none, none):
    sys.exit("no new privileges")
if libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), ctypes.byref(program), none, none):
    sys.exit("no filter")
os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606
