"""The prepared process that decoders are forked from: `python -m composition.media.decoding.fork_server FD`.

It has imported the decoding libraries, opened no file and started no thread. For each decoder, its owner sends one byte
and three file descriptors over the socket FD: the decoder's lifeline, its link and its standard error. The child keeps
the link and decodes a file (`composition.media.decoding.worker`). This process keeps the lifeline, over which the owner
sends commands (`composition.media.decoding.lifeline`): when the owner shuts it down, the child is killed; when the
child has ended, its status is sent over it, and it is closed. This process ends when its owner ends, and the kernel
kills its children when it ends for any reason.

decord is imported only by the children that use it: it would take 43 MiB of every decoder's address space
(`memory_bytes`), and save 10 ms when a short video is sampled.
"""

import contextlib
import gc
import os
import selectors
import signal
import socket
import sys
from pathlib import Path

from composition.media.confinement.libc import end_with_parent
from composition.media.decoding.lifeline import Status, lower_session, obey
from composition.media.decoding.preloading import preload_modules
from composition.media.decoding.worker import run_decoder

FILE_COUNT = 3
"""File descriptors sent with each request."""
LOWER_AGAIN_S = 0.1
"""Interval in seconds at which sessions are lowered whose turn was not granted by Linux."""


class ForkServer:
    """Forks a decoder for each request. Must run in the only thread of the process.

    Args:
        control: socket for requests of the owner.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._pid = os.getpid()
        self._lifelines: dict[int, socket.socket] = {}
        """Process id → lifeline of each child that was not reaped yet."""
        self._unlowered: set[int] = set()
        """Process ids of the children whose sessions have yet to get low priority."""
        self._wakeup, self._wakeup_writer = socket.socketpair()
        self._selector = selectors.PollSelector()
        for source in (self._control, self._wakeup):
            self._selector.register(source, selectors.EVENT_READ)
            source.setblocking(False)
        self._wakeup_writer.setblocking(False)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the mask is inherited from the owner's thread
        signal.signal(signal.SIGXCPU, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(self._wakeup_writer.fileno())

    def serve(self) -> socket.socket | None:
        """Fork decoders until the owner has ended. Returns the link in each child, and None in this process."""
        while True:
            events = self._selector.select(LOWER_AGAIN_S if self._unlowered else None)
            ready = [(key.fileobj, key.data) for key, _ in events]
            for _, pid in ready:
                if pid is not None:
                    self._obey(pid)
            self._unlowered = {pid for pid in self._unlowered if not lower_session(pid)}
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

    def _obey(self, pid: int) -> None:
        """Do what the owner of a child says. The child was not reaped, so its pid was not reused."""
        lifeline = self._lifelines[pid]
        commands = lifeline.recv(64)
        if not commands:
            self._selector.unregister(lifeline)
            os.kill(pid, signal.SIGKILL)
        elif obey(commands, pid):
            self._unlowered.add(pid)

    def _fork(self, files: list[int]) -> socket.socket | None:
        """Fork a child. Returns the link in the child, None in this process. Reports exit status 1 if it fails."""
        try:
            pid = (
                self._fork_process() if len(files) == FILE_COUNT else -1
            )  # fewer come when this process has no room for more
        except OSError:
            pid = -1
        if pid < 0:
            return self._refuse(files)
        lifeline = socket.socket(fileno=files[0])
        if pid == 0:
            lifeline.close()
            return self._become_decoder(*files[1:])
        for file in files[1:]:
            os.close(file)
        lifeline.setblocking(False)
        self._lifelines[pid] = lifeline
        self._selector.register(lifeline, selectors.EVENT_READ, pid)
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
            with socket.socket(fileno=files[0]) as lifeline:
                _send_status(lifeline, Status(1))

    def _become_decoder(self, link: int, stderr: int) -> socket.socket:
        """In the child: bind its life to this process, and close all files but its own. Returns the link.

        The child has a session of its own, because Linux shares the processor between sessions.
        """
        end_with_parent(self._pid)
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._selector.close()
        for inherited in (self._control, self._wakeup, self._wakeup_writer, *self._lifelines.values()):
            inherited.close()
        os.dup2(stderr, sys.stderr.fileno())
        os.close(stderr)
        return socket.socket(fileno=link)

    def _reap(self) -> None:
        """Reap the children that have ended, and send their exit statuses to the owner."""
        with contextlib.suppress(ChildProcessError):  # there are no children
            while True:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
                if pid == 0:
                    return
                self._unlowered.discard(pid)
                with self._lifelines.pop(pid) as lifeline:
                    with contextlib.suppress(KeyError):  # unregistered when the child was killed
                        self._selector.unregister(lifeline)
                    cpu_s = usage.ru_utime + usage.ru_stime
                    _send_status(lifeline, Status(os.waitstatus_to_exitcode(status), usage.ru_maxrss << 10, cpu_s))


def _send_status(lifeline: socket.socket, status: Status) -> None:
    with contextlib.suppress(OSError):  # the owner has closed it
        lifeline.send(status.encode())


def main() -> None:
    preload_modules()
    server = ForkServer(socket.socket(fileno=int(sys.argv[1])))
    gc.collect()
    gc.freeze()  # keeps the current objects shared with the children
    link = server.serve()
    if link is not None:
        run_decoder(link)
    os._exit(0)  # skips the interpreter's clean-up, which is not needed


if __name__ == "__main__":
    main()
