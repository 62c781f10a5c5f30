"""Starts the processes that decode, each forked from a prepared one (`composition.media.decoding.fork_server`).

An interpreter that imports numpy and PyAV takes ten times the processor time of the fork. There is one prepared process
for each process that asks, started when the first file is opened. multiprocessing's own fork server is not used: it
imports its owner's main module into every child, is one for whatever else in the owner forks, keeps the owner's
environment, and leaves the children of an owner that was killed.
"""

import atexit
import contextlib
import logging
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger(__name__)

KILL_S = 30.0
"""How long killing a decoder may take, on a machine that is busy."""
LOST = "the process that decoders are forked from died"
HUNG = "the process that decoders are forked from did not answer, and was killed"
ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),
    "PATH": "/usr/bin:/bin",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
}
"""All that decoders are told of their surroundings. decord asks for PATH; the rest keeps their threads and memory few.
With more than one thread of OpenBLAS, the prepared process could not be forked."""


class PreparedProcess:
    """A process that has imported what decodes, has opened nothing, and forks a decoder whenever it is asked.

    It ends when its owner does, and its decoders end with it.

    Args:
        kill_s: how long it may take to kill a decoder.
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
        """Have a decoder forked that has these files: its leash, its link, its standard error.

        Returns at once. Raises OSError: BrokenPipeError or ConnectionResetError when the process is gone.
        """
        with self._lock:
            if self._stderr.closed:
                raise BrokenPipeError
            socket.send_fds(self._control, [b"\0"], files)

    def end(self, reason: str | None = None) -> None:
        """Kill the process, and with it all of its decoders, and wait until it is gone.

        Args:
            reason: logged with what the process said, the first time; None where its end is no fault.
        """
        with self._lock:
            if self._stderr.closed:
                return
            self._process.kill()
            code = self._process.wait()
            self._stderr.seek(0)
            said = self._stderr.read().decode(errors="replace")
            self.release()
        if reason is not None:
            log.warning(reason, extra={"exit": code, "said": said[-2000:]})

    def await_end(self) -> None:
        """Do this for a process that is ending by itself."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(self.kill_s)
            self.end(LOST)

    def release(self) -> None:
        """Let go of the process. It ends by itself when nobody holds on to it."""
        self._control.close()
        self._stderr.close()


class DecoderProcess:
    """A process that decodes one file. Made by `DecoderProcesses.start`."""

    def __init__(self, prepared: PreparedProcess) -> None:
        self._prepared = prepared
        self._lock = threading.Lock()
        self._ended = False
        self._code: int | None = None
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self.link, link = socket.socketpair()
        """What the process is asked over. Does not block."""
        self._lifeline, leash = socket.socketpair()
        self.link.setblocking(False)
        self._lifeline.settimeout(prepared.kill_s)
        with link, leash:
            try:
                prepared.fork_decoder((leash.fileno(), link.fileno(), self._stderr.fileno()))
            except OSError:
                self._release()
                raise

    def kill(self) -> None:
        """Have it killed. Returns at once."""
        with contextlib.suppress(OSError):  # it is gone already
            self._lifeline.shutdown(socket.SHUT_WR)

    def end(self) -> int | None:
        """Kill it and wait until it is gone. Blocks.

        Returns its exit status, negative if a signal ended it; None when it was lost with the process that it was
        forked from.
        """
        with self._lock:
            if not self._ended:
                self.kill()
                self._code = self._receive_status()
                self._ended = True
        return self._code

    def _receive_status(self) -> int | None:
        try:
            status = self._lifeline.recv(4)
        except TimeoutError:
            self._prepared.end(HUNG)
            status = self._lifeline.recv(4)
        if not status:
            self._prepared.await_end()
            return None
        (code,) = struct.unpack("<i", status)
        return code

    @property
    def stderr_text(self) -> str:
        """What libraries said on its standard error."""
        self._stderr.seek(0)
        return self._stderr.read().decode(errors="replace")

    def close(self) -> None:
        """Kill it, wait until it is gone, and let go of what is left of it. Blocks."""
        self.end()
        self._release()

    def _release(self) -> None:
        self.link.close()
        self._lifeline.close()
        self._stderr.close()


class DecoderProcesses:
    """Starts processes that decode, from any thread. A prepared process that was lost is replaced at the next start.

    Args:
        kill_s: how long a prepared process may take to kill a decoder before it is killed itself.
    """

    def __init__(self, kill_s: float = KILL_S) -> None:
        self._kill_s = kill_s
        self._lock = threading.Lock()
        self._prepared: PreparedProcess | None = None

    def start(self) -> DecoderProcess:
        """Start one. Returns at once, when it is not there yet. Raises OSError."""
        with self._lock:
            if self._prepared is not None:
                try:
                    return DecoderProcess(self._prepared)
                except (BrokenPipeError, ConnectionResetError):
                    self._prepared.end(LOST)
            self._prepared = PreparedProcess(self._kill_s)
            return DecoderProcess(self._prepared)

    def close(self) -> None:
        """End them all."""
        with self._lock:
            if self._prepared is not None:
                self._prepared.end()
                self._prepared = None

    def release_after_fork(self) -> None:
        """Let go of the prepared process in a fork of its owner, whose it is not and would outlive the owner by it."""
        self._lock = threading.Lock()
        if self._prepared is not None:
            self._prepared.release()
            self._prepared = None


decoder_processes = DecoderProcesses()
"""Those of this process."""
atexit.register(decoder_processes.close)
os.register_at_fork(after_in_child=decoder_processes.release_after_fork)
