"""The console of a server. The output of libraries in its process goes to a log file instead."""

import fcntl
import os
import shutil
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

_MAX_LOG_FOLDERS = 10
"""Number of log folders that are kept."""


@dataclass(frozen=True, slots=True)
class Console:
    """The console of a server.

    stdout has the URL, then `ready`, and nothing else: the process that started the server reads it.
    """

    out: TextIO
    err: TextIO
    logs: Path
    """The folder of this server's logs."""

    def print_status(self, line: str) -> None:
        """Print the URL or `ready` on stdout."""
        print(line, file=self.out, flush=True)

    def print_message(self, line: str) -> None:
        """Print a message for people on stderr."""
        print(line, file=self.err, flush=True)


@contextmanager
def open_console(home: Path) -> Generator[Console]:
    """Redirect the output of this process and its children to `HOME/logs/…/server.log`, and yield the old console.

    File descriptors 1 and 2 are redirected, so that the output of C++ libraries is included. All these processes share
    a lock on the log file; while it is locked, the folder is in use.
    """
    logs = _create_log_folder(home / "logs")
    with ExitStack() as stack:
        stack.callback(_remove_empty, logs)
        log = stack.enter_context((logs / "server.log").open("a", encoding="utf-8"))
        fcntl.flock(log, fcntl.LOCK_SH)
        out, err = (stack.enter_context(_redirect(number, log)) for number in (1, 2))
        yield Console(out, err, logs)


def _remove_empty(logs: Path) -> None:
    """Remove the log folder if nothing was logged, because the server did not start."""
    if [path.name for path in logs.iterdir()] == ["server.log"] and not (logs / "server.log").stat().st_size:
        shutil.rmtree(logs)


@contextmanager
def _redirect(number: int, target: TextIO) -> Generator[TextIO]:
    """Redirect a file descriptor to another file, and yield the original file."""
    stream = sys.stdout if number == 1 else sys.stderr
    stream.flush()
    with os.fdopen(os.dup(number), "w", encoding="utf-8", errors="backslashreplace") as before:
        os.dup2(target.fileno(), number)
        try:
            yield before
        finally:
            stream.flush()
            before.flush()
            os.dup2(before.fileno(), number)


def _create_log_folder(parent: Path) -> Path:
    """Create the log folder of a server, and remove the oldest ones that are not in use."""
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for old in sorted(parent.glob("[0-9]*_*_[0-9]*"))[: 1 - _MAX_LOG_FOLDERS]:
        if not is_locked(old / "server.log"):
            shutil.rmtree(old, ignore_errors=True)
    folder = parent / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{os.getpid()}"
    folder.mkdir(mode=0o700)
    return folder


def is_locked(path: Path) -> bool:
    """Whether a running process has a lock on the file."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
