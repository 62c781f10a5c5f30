"""Starting decoder processes, each forked from a prepared process (`composition.media.decoding.fork_server`).

Starting an interpreter that imports numpy and PyAV takes ten times the processor time of a fork. Each process that
opens files has one prepared process, started with its first file. The fork server of `multiprocessing` is not used: it
imports the owner's main module into every child, is shared with all other code in the owner that forks, keeps the
owner's environment, and does not end the children of an owner that was killed.
"""

import atexit
import contextlib
import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from composition.media.decoding.lifeline import RESUME, STATUS, SUSPEND, Status

log = logging.getLogger(__name__)

KILL_S = 30.0
"""Timeout for killing a decoder, in seconds. Generous, for busy machines."""
LOST = "the prepared decoder process died"
HUNG = "the prepared decoder process did not answer and was killed"
CPUCLOCK_SCHED = 2
"""Kind of clock of a process, see `clock_getcpuclockid` in glibc."""
ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),
    "PATH": "/usr/bin:/bin",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
}
"""The whole environment of decoder processes. decord needs PATH; the other variables limit threads and memory. The
prepared process can be forked only while OpenBLAS has one thread."""


class PreparedProcess:
    """A process that has imported the decoding libraries, and forks a decoder for each request.

    It ends when its owner ends, and its decoders end with it.

    Args:
        kill_s: timeout for killing a decoder, in seconds.
    """

    def __init__(self, kill_s: float) -> None:
        self.kill_s = kill_s
        self._lock = threading.Lock()
        self._control, control = socket.socketpair()
        self._control.setblocking(False)
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        with control:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "composition.media.decoding.fork_server", str(control.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self._stderr,
                    env=ENVIRONMENT,
                    cwd="/",
                    pass_fds=(control.fileno(),),
                    start_new_session=True,
                )
            except OSError:
                self.release()
                raise

    def fork_decoder(self, files: Sequence[int]) -> None:
        """Request a decoder with these file descriptors: its lifeline, its link and its standard error.

        Returns at once. Raises OSError: BrokenPipeError or ConnectionResetError if the process has ended.
        """
        with self._lock:
            if self._stderr.closed:
                raise BrokenPipeError
            socket.send_fds(self._control, [b"\0"], files)

    def end(self, reason: str | None = None) -> None:
        """Kill the process and all of its decoders, and wait until it has ended.

        Args:
            reason: logged on the first call, with the process's standard error; None for a regular end.
        """
        with self._lock:
            if self._stderr.closed:
                return
            self._process.kill()
            code = self._process.wait()
            self._stderr.seek(0)
            output = self._stderr.read().decode(errors="replace")
            self.release()
        if reason is not None:
            log.warning(reason, extra={"exit": code, "said": output[-2000:]})

    def await_end(self) -> None:
        """Wait until the process, which is ending, has ended, and log that it was lost."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(self.kill_s)
            self.end(LOST)

    def release(self) -> None:
        """Close our end of its sockets; the process ends when no other process has them open."""
        self._control.close()
        self._stderr.close()


class DecoderProcess:
    """A process that decodes one file. Create it with `DecoderProcesses.start`."""

    def __init__(self, prepared: PreparedProcess) -> None:
        self._prepared = prepared
        self._lock = threading.Lock()
        self._ended = False
        self._status: Status | None = None
        self._pid: int | None = None
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self.link, link = socket.socketpair()
        """Non-blocking socket for requests and answers."""
        self._lifeline, leash = socket.socketpair()
        self.link.setblocking(False)
        self._lifeline.settimeout(prepared.kill_s)
        with link, leash:
            try:
                prepared.fork_decoder((leash.fileno(), link.fileno(), self._stderr.fileno()))
            except OSError:
                self._release()
                raise

    def identify(self, pid: int) -> None:
        """Note the process id, with which the process has reported that it is running."""
        self._pid = pid

    def measure_cpu(self) -> float:
        """Return the processor time that the process has used so far, in seconds; 0 if it is not running."""
        try:
            return 0.0 if self._pid is None else time.clock_gettime(~self._pid << 3 | CPUCLOCK_SCHED)
        except OSError:  # it has ended
            return 0.0

    def measure_delay(self) -> float:
        """Return for how long the threads of the process were ready to run while others had the processor, in seconds.

        This is 0 where Linux does not say it (`schedstat`, see proc(5)).
        """
        delay_ns = 0
        with contextlib.suppress(OSError):  # it has ended
            for thread in Path(f"/proc/{self._pid}/task").iterdir():
                delay_ns += int((thread / "schedstat").read_text().split()[1])
        return delay_ns / 1e9

    def suspend(self) -> None:
        """Request that the process be stopped until it is resumed, and have low priority from then on."""
        self._command(SUSPEND)

    def resume(self) -> None:
        """Request that the process continue. Returns at once."""
        self._command(RESUME)

    def _command(self, command: bytes) -> None:
        with contextlib.suppress(OSError):  # the prepared process has ended, and the decoder with it
            self._lifeline.send(command)

    def kill(self) -> None:
        """Request that the process be killed. Returns at once."""
        with contextlib.suppress(OSError):  # the prepared process has ended, and the decoder with it
            self._lifeline.shutdown(socket.SHUT_WR)

    def end(self) -> int | None:
        """Kill the process and wait until it has ended. Blocks.

        Returns:
            The exit status, negative if a signal ended it; None if it was lost with its prepared process.
        """
        with self._lock:
            if not self._ended:
                self.kill()
                self._status = self._receive_status()
                self._ended = True
        return None if self._status is None else self._status.code

    def _receive_status(self) -> Status | None:
        try:
            message = self._lifeline.recv(STATUS.size)
        except TimeoutError:
            self._prepared.end(HUNG)
            message = self._lifeline.recv(STATUS.size)
        if not message:
            self._prepared.await_end()
            return None
        return Status.parse(message)

    @property
    def status(self) -> Status | None:
        """How the process has ended and what it has used; None before, and if it was lost with its prepared process."""
        return self._status

    @property
    def stderr_text(self) -> str:
        """The output of the process on standard error."""
        self._stderr.seek(0)
        return self._stderr.read().decode(errors="replace")

    def close(self) -> None:
        """Kill the process, wait until it has ended, and close its files. Blocks."""
        self.end()
        self._release()

    def _release(self) -> None:
        self.link.close()
        self._lifeline.close()
        self._stderr.close()


class DecoderProcesses:
    """Starts decoder processes. Thread-safe. A prepared process that died is replaced at the next start.

    Args:
        kill_s: seconds that a prepared process may take to kill a decoder before it is killed itself.
    """

    def __init__(self, kill_s: float = KILL_S) -> None:
        self._kill_s = kill_s
        self._lock = threading.Lock()
        self._prepared: PreparedProcess | None = None

    def start(self) -> DecoderProcess:
        """Start a decoder process. Returns before it is running. Raises OSError."""
        with self._lock:
            if self._prepared is not None:
                try:
                    return DecoderProcess(self._prepared)
                except (BrokenPipeError, ConnectionResetError):
                    self._prepared.end(LOST)
            self._prepared = PreparedProcess(self._kill_s)
            return DecoderProcess(self._prepared)

    def close(self) -> None:
        """Kill the prepared process and all decoders."""
        with self._lock:
            if self._prepared is not None:
                self._prepared.end()
                self._prepared = None

    def release_after_fork(self) -> None:
        """Release the prepared process in a fork of its owner; otherwise it would outlive the owner."""
        self._lock = threading.Lock()
        if self._prepared is not None:
            self._prepared.release()
            self._prepared = None


decoder_processes = DecoderProcesses()
"""The decoder processes of this process."""
atexit.register(decoder_processes.close)
os.register_at_fork(after_in_child=decoder_processes.release_after_fork)
