"""The prepared process that decoders are forked from: `python -m composition.media.decoding.fork_server FD`.

It has imported what decodes, and has opened no file and started no thread. Its owner asks over the socket: one byte
and three files come, which are the leash of a new decoder, its link, and its standard error. The child keeps the link
and decodes what it is asked for (`composition.media.decoding.worker`). This process keeps the leash: when the owner
shuts it down, the child is killed, and when the child is gone, its exit status (4 bytes, little endian) comes over it,
before it is closed. When the owner is gone, this process ends; when this process ends, however that happens, the kernel
kills its children.

decord is left to the children that use it: it would take 43 MiB of the address space of each (`memory_bytes`) and save
10 ms of those that sample a short video.
"""

import contextlib
import ctypes
import gc
import importlib
import os
import selectors
import signal
import socket
import struct
import sys
from pathlib import Path

from composition.media.decoding.worker import run_decoder

FILE_COUNT = 3
"""That come with each request."""
PR_SET_PDEATHSIG = 1
"""See prctl(2)."""


class ForkServer:
    """Forks a decoder for each request. Needs to be the only thread.

    Args:
        control: where the owner asks.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._pid = os.getpid()
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._lifelines: dict[int, socket.socket] = {}
        """Process id → leash, of every child that was not reaped yet."""
        self._wakeup, self._wakeup_writer = socket.socketpair()
        self._selector = selectors.PollSelector()
        for source in (self._control, self._wakeup):
            self._selector.register(source, selectors.EVENT_READ)
            source.setblocking(False)
        self._wakeup_writer.setblocking(False)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the owner's thread may have blocked some, which is inherited
        signal.signal(signal.SIGXCPU, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(self._wakeup_writer.fileno())

    def serve(self) -> socket.socket | None:
        """Fork until the owner is gone. Returns its link in each child, None in this process."""
        while True:
            ready = [(key.fileobj, key.data) for key, _ in self._selector.select()]
            for source, pid in ready:
                if pid is not None:
                    self._selector.unregister(source)
                    os.kill(pid, signal.SIGKILL)  # not reaped yet, so the number is still its own
            if any(source is self._wakeup for source, _ in ready):
                self._wakeup.recv(4096)
                self._reap()
            if any(source is self._control for source, _ in ready):
                message, files, _, _ = socket.recv_fds(self._control, 1, FILE_COUNT)
                if not message:
                    return None
                link = self._fork(files)
                if link is not None:
                    return link

    def _fork(self, files: list[int]) -> socket.socket | None:
        """Fork a child; return its link in the child. Where that is impossible, it is said to have failed."""
        try:
            pid = (
                self._fork_process() if len(files) == FILE_COUNT else -1
            )  # fewer come when this process has no room for more
        except OSError:
            pid = -1
        if pid < 0:
            return self._refuse(files)
        leash = socket.socket(fileno=files[0])
        if pid == 0:
            leash.close()
            return self._become_decoder(*files[1:])
        for file in files[1:]:
            os.close(file)
        leash.setblocking(False)
        self._lifelines[pid] = leash
        self._selector.register(leash, selectors.EVENT_READ, pid)
        return None

    def _fork_process(self) -> int:
        threads = len(list(Path("/proc/self/task").iterdir()))
        if threads != 1:
            raise RuntimeError(f"the prepared process has {threads} threads; it can be forked only while it has one")
        return os.fork()

    def _refuse(self, files: list[int]) -> None:
        for file in files[1:]:
            os.close(file)
        if files:
            with socket.socket(fileno=files[0]) as leash:
                _send_status(leash, 1)

    def _become_decoder(self, link: int, said: int) -> socket.socket:
        """In the child: let go of what is not its own."""
        if self._libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) or os.getppid() != self._pid:
            os._exit(1)  # it could not be bound to its parent, or had lost it before that
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._selector.close()
        for held in (self._control, self._wakeup, self._wakeup_writer, *self._lifelines.values()):
            held.close()
        os.dup2(said, sys.stderr.fileno())
        os.close(said)
        return socket.socket(fileno=link)

    def _reap(self) -> None:
        """Tell the owner of every child that is gone."""
        with contextlib.suppress(ChildProcessError):  # there are none
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                with self._lifelines.pop(pid) as leash:
                    with contextlib.suppress(KeyError):  # it was killed, and has been left out then
                        self._selector.unregister(leash)
                    _send_status(leash, os.waitstatus_to_exitcode(status))


def _send_status(leash: socket.socket, code: int) -> None:
    with contextlib.suppress(OSError):  # the owner does not want to know
        leash.send(struct.pack("<i", code))


def main() -> None:
    importlib.import_module("av.subtitles.stream")  # PyAV does when it opens a file
    server = ForkServer(socket.socket(fileno=int(sys.argv[1])))
    gc.collect()
    gc.freeze()  # what is here now stays shared with the children
    link = server.serve()
    if link is not None:
        run_decoder(link)
    os._exit(0)  # there is nothing to tidy up


if __name__ == "__main__":
    main()
