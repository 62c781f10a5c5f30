"""What a decoder that was taken over would try: `python -m tests.composition.media.attempts FD`.

It is started as the prepared process is, forks as that does, and confines its children as decoders are confined.
Instead of decoding, a child then tries what the request names and answers with the result of each attempt: `done`, or
the name of the error.
"""

import ctypes
import errno
import mmap
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from composition.media.confinement.libc import LIBC, PR_SET_DUMPABLE, call_system, set_attribute
from composition.media.decoding.fork_server import ForkServer
from composition.media.decoding.headers import Limits
from composition.media.decoding.preloading import preload_modules
from composition.media.decoding.worker import confine_process, open_media, receive_request, run_operation, send_answer

NULL = ctypes.c_void_p(None)
NUMBERS = {
    "x86_64": {
        "ptrace": 101, "personality": 135, "mount": 165, "reboot": 169, "init_module": 175, "add_key": 248,
        "keyctl": 250, "inotify_init1": 294, "unshare": 272, "perf_event_open": 298, "fanotify_init": 300,
        "name_to_handle_at": 303,
        "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310, "finit_module": 313, "memfd_create": 319,
        "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323, "capset": 126, "sched_setaffinity": 203, "tkill": 200,
    },
    "aarch64": {
        "ptrace": 117, "personality": 92, "mount": 40, "reboot": 142, "init_module": 105, "add_key": 217, "keyctl": 219,
        "inotify_init1": 26, "unshare": 97, "perf_event_open": 241, "fanotify_init": 262, "name_to_handle_at": 264,
        "open_by_handle_at": 265, "setns": 268, "process_vm_readv": 270, "finit_module": 273, "memfd_create": 279,
        "kexec_file_load": 294, "bpf": 280, "userfaultfd": 282, "capset": 91, "sched_setaffinity": 122, "tkill": 130,
    },
}[os.uname().machine]  # fmt: skip
"""System call → number."""
RECENT = {
    "io_uring_setup": 425,
    "pidfd_open": 434,
    "clone3": 435,
    "openat2": 437,
    "pidfd_getfd": 438,
    "landlock_create": 444,
}
"""System calls whose numbers are the same on all machines, with answer ENOSYS."""
PR_GET_PDEATHSIG = 2
SIGCHLD, CLONE_NEWUSER = 17, 0x10000000


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def _clone(flags: int) -> None:
    number = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
    if call_system(number, flags | SIGCHLD, 0, 0, 0, 0) == 0:
        os._exit(0)


def _read(path: object) -> Callable[[], object]:
    def read() -> None:
        with Path(str(path)).open("rb") as file:
            file.read(1)

    return read


def list_socket_attempts() -> dict[str, Callable[[], object]]:
    """Sockets of every kind."""
    kinds = {
        "tcp": (socket.AF_INET, socket.SOCK_STREAM),
        "udp": (socket.AF_INET, socket.SOCK_DGRAM),
        "tcp6": (socket.AF_INET6, socket.SOCK_STREAM),
        "raw": (socket.AF_INET, socket.SOCK_RAW),
        "unix": (socket.AF_UNIX, socket.SOCK_STREAM),
        "netlink": (socket.AF_NETLINK, socket.SOCK_RAW),
        "packet": (socket.AF_PACKET, socket.SOCK_RAW),
        "vsock": (40, socket.SOCK_STREAM),
    }
    return {
        **{f"socket {name}": lambda kind=kind: socket.socket(*kind).close() for name, kind in kinds.items()},
        "socketpair": socket.socketpair,
        "accept": lambda: socket.socket(fileno=os.dup(0)).accept(),
    }


def list_file_attempts(path: Path, owner: int) -> dict[str, Callable[[], object]]:
    """Other files than the input, and changes of the input."""
    paths = ("/etc/passwd", "/proc/self/environ", "/proc/self/maps", "/dev/zero", "/dev/null", "/sys/kernel", __file__)
    paths = (*paths, f"/proc/{owner}/environ", f"/proc/{os.getppid()}/environ", path.with_name("other"))
    folders = ("/", "/proc/self/fd", path.parent, Path(__file__).parent)
    return {
        **{f"read {each}": _read(each) for each in paths},
        "read the input's neighbour by ..": _read(path.parent / ".." / path.parent.name / "other"),
        **{f"list {each}": lambda each=each: list(Path(each).iterdir()) for each in folders},
        "write the input": lambda: path.open("ab"),
        "truncate the input": lambda: os.truncate(path, 0),
        "create a file": lambda: path.with_name("new").open("wb"),
        "create a file without a name": lambda: os.open(path.parent, os.O_TMPFILE | os.O_RDWR),
        "create a file elsewhere": lambda: path.parent.with_name("new").open("wb"),
        "remove": path.unlink,
        "rename": lambda: path.rename(path.with_name("new")),
        "link": lambda: path.with_name("new").hardlink_to(path),
        "symlink": lambda: path.with_name("new").symlink_to(path),
        "mkdir": lambda: path.with_name("new").mkdir(),
        "mkfifo": lambda: os.mkfifo(path.with_name("new")),
        "chmod": lambda: path.chmod(0o777),
        "chown": lambda: os.chown(path, 0, 0),
        "utime": lambda: os.utime(path),
        "setxattr": lambda: os.setxattr(path, "user.x", b"x"),
        "chdir": lambda: os.chdir("/tmp"),
        "chroot": lambda: os.chroot("/"),
    }


def list_process_attempts(path: Path, owner: int) -> dict[str, Callable[[], object]]:
    """Programs, processes, and what belongs to others."""
    parent = os.getppid()
    return {
        "exec": lambda: os.execv("/bin/true", ["true"]),  # noqa: S606
        "exec the input": lambda: os.execv(path, ["input"]),  # noqa: S606
        "spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
        "run": lambda: subprocess.run(["/bin/true"], check=True),
        "fork": _fork,
        "clone": lambda: _clone(0),
        "clone in a user namespace": lambda: _clone(CLONE_NEWUSER),
        "signal the parent": lambda: os.kill(parent, 0),
        "signal the owner": lambda: os.kill(owner, 0),
        "signal all": lambda: os.kill(-1, 0),
        "limit the owner": lambda: resource.prlimit(owner, resource.RLIMIT_NOFILE),
        "renice": lambda: os.setpriority(os.PRIO_PROCESS, owner, 19),
        "become root": lambda: os.setuid(0),
        "become dumpable": lambda: _check(LIBC.prctl(4, 1, 0, 0, 0)),
        "be signalled by a socket": lambda: _control(8, owner),
        "type into a terminal": lambda: _ioctl(0x5412),
        "raise a limit": lambda: resource.setrlimit(
            resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        ),
    }


def list_call_attempts(owner: int) -> dict[str, Callable[[], object]]:
    """System calls that Python does not offer."""
    arguments = {"ptrace": (16, owner, 0, 0), "process_vm_readv": (owner, NULL, 0, NULL, 0, 0), "tkill": (owner, 0)}
    names = {**NUMBERS, **RECENT}
    return {
        name: lambda name=name, number=number: call_system(number, *arguments.get(name, (0, 0, 0, 0, 0)))
        for name, number in names.items()
    }


def _control(command: int, value: int) -> None:
    import fcntl

    fcntl.fcntl(0, command, value)


def _ioctl(request: int) -> None:
    import fcntl

    fcntl.ioctl(0, request, b"x")


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), "")


def attempt(action: Callable[[], object]) -> str:
    """Return the name of the error that an action raises, or `done`."""
    try:
        action()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    except ValueError:  # of setrlimit
        return "EPERM"
    return "done"


def use_other_calls(machine: str) -> None:
    """Make a system call of another architecture, which ends the process."""
    if machine == "x32":
        LIBC.syscall(ctypes.c_long(0x40000000 + 39))
    else:
        code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        code.write(b"\xb8\x14\0\0\0\xcd\x80\xc3")  # mov eax, 20 (getpid); int 0x80; ret
        address = ctypes.addressof(ctypes.c_char.from_buffer(code))
        ctypes.CFUNCTYPE(ctypes.c_int)(address)()


def run_thread() -> bool:
    """Whether a thread runs."""
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(1))
    thread.start()
    thread.join()
    return found == [1]


def read_death_signal() -> int:
    """Return the signal that this process gets when its parent ends; 0 if there is none."""
    found = ctypes.c_int()
    _check(LIBC.prctl(PR_GET_PDEATHSIG, ctypes.byref(found), *[ctypes.c_ulong(0)] * 3))
    return found.value


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Confine this process to the input of a request, and try what it names."""
    owner = request["owner"]
    if "user" in request:
        os.setgroups([])
        os.setresgid(*(request["user"],) * 3)
        os.setresuid(*(request["user"],) * 3)
        set_attribute(PR_SET_DUMPABLE, 1)  # as in a process that this user has started
    if request.get("free"):  # to show that the attempts would succeed
        limits, name = Limits(**request["limits"]), request["path"]
    else:
        limits, name, _ = confine_process(request)
    path = Path(request["path"])
    match request["try"]:
        case "sockets":
            actions = list_socket_attempts()
        case "files":
            actions = list_file_attempts(path, owner)
        case "processes":
            actions = list_process_attempts(path, owner)
        case "calls":
            actions = list_call_attempts(owner)
        case "media":
            media = open_media(name, limits, takes_sound=False)
            run_operation(media, {"op": "verify"})
            pixels = run_operation(media, {"op": "sample", "count": 4})
            shape = None if pixels is None else list(pixels.shape)
            return {"threads": run_thread(), "facts": media.describe(), "shape": shape, "uid": os.geteuid()}
        case "parent":
            return {"death signal": read_death_signal()}
        case others:
            use_other_calls(others)
            return {}
    return {what: attempt(action) for what, action in actions.items()}


def main() -> None:
    preload_modules()
    link = ForkServer(socket.socket(fileno=int(sys.argv[1]))).serve()
    if link is not None:
        send_answer(link, {})
        request = receive_request(link)
        send_answer(link, answer(request or {}))
    os._exit(0)


if __name__ == "__main__":
    main()
