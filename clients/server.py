"""Starting a server: in place of this process, or beside it for as long as a call needs one."""

import importlib.util
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, NoReturn, TextIO

from reelgraph.checkout import CHECKOUT, MISSING, has_server
from reelgraph.errors import ConnectionLost, LocalServerFailed, ServerUnreachable
from reelgraph.progress import Display

_START_S = 600.0
"""Models load."""
_STOP_S = 60.0
"""Replicas finish the step that they are at."""
_TOLD = 20
"""Lines of what a server said last that an error repeats."""


def require_server() -> None:
    """Raise LocalServerFailed where only the client is installed."""
    if not has_server():
        raise LocalServerFailed(
            f"{MISSING}, `.venv/bin/reel serve` starts it, and this client finds it by --url or REELGRAPH_URL"
        )
    if importlib.util.find_spec("ray") is None:
        raise LocalServerFailed(
            f"the server's packages are not installed: run `make setup` in {CHECKOUT}, or "
            f"pip install --editable '{CHECKOUT}[server]'"
        )


def command(module: str, *arguments: str) -> list[str]:
    """The command line of a module of the server side, run by the Python that runs us.

    `-P`: the working folder, which may have packages of the same names, is not searched.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def environment() -> dict[str, str]:
    """Our environment, in which the server's code beside us is found before any other of its name."""
    path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


def become(module: str, *arguments: str) -> NoReturn:
    """Replace this process by a command of the server side, so that signals and the exit status are its own."""
    require_server()
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, command(module, *arguments), environment())  # noqa: S606 (no shell is wanted)


def finish(module: str, *arguments: str) -> None:
    """Run a command of the server side to its end. Raises LocalServerFailed with what it said, where it fails."""
    done = subprocess.run(command(module, *arguments), env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise LocalServerFailed(
            "\n".join([f"{module} ended with status {done.returncode}; it said:", done.stderr.strip()])
        )


@contextmanager
def local_server(
    display: Display, serve: Sequence[str] | None = None, *, only: Sequence[str] = (), stop_s: float = _STOP_S
) -> Generator[str]:
    """Start a server on a free port of this machine, yield its URL when it is ready, and stop it in any case.

    Args:
        display: where the waiting is shown.
        serve: the command that serves; it prints its URL and then `ready`, each on a line of its own.
        only: the graphs or models that are wanted; none is all.
        stop_s: how long it may take to stop before it is killed.

    Raises:
        LocalServerFailed: only the client is installed, or the server ended or said nothing in time.
    """
    if serve is None:
        require_server()
        wanted = [word for name in only for word in ("--only", name)]
        here = ("--address", "local", "--host", "127.0.0.1", "--port", str(_free_port()))
        serve = command("composition", "serve", *here, *wanted)
    with tempfile.TemporaryFile("a+", encoding="utf-8", errors="replace") as log:
        process = _start(serve, log)
        try:
            with display.waiting("starting a server on this machine"):
                url = _ready_url(process, log)
            yield url
        except (ConnectionLost, ServerUnreachable) as error:
            if process.poll() is None:
                raise
            raise LocalServerFailed(_last_words(f"the server ended with status {process.returncode}", log)) from error
        finally:
            with display.waiting("stopping the server"):
                _stop(process, stop_s)


def _start(serve: Sequence[str], log: TextIO) -> "subprocess.Popen[str]":
    """Start a server in a session of its own: Ctrl-C is ours, and the job is cancelled before the server is stopped."""
    return subprocess.Popen(
        serve,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        start_new_session=True,
    )


def _ready_url(process: subprocess.Popen[str], log: TextIO) -> str:
    if process.stdout is None:
        raise AssertionError("stdout is a pipe")
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_drain, args=(process.stdout, lines), daemon=True).start()
    url = ""
    try:
        while (line := lines.get(timeout=_START_S)) is not None:
            if line.startswith("http://"):
                url = line
            elif line == "ready" and url:
                return url
    except queue.Empty:
        raise LocalServerFailed(_last_words(f"the server was not ready within {_START_S:g} s", log)) from None
    raise LocalServerFailed(_last_words("the server ended before it was ready", log))


def _drain(stdout: IO[str], lines: "queue.Queue[str | None]") -> None:
    """Read to the end, also when nobody looks any more: a full pipe would stop the server."""
    with stdout:
        for line in stdout:
            lines.put(line.strip())
    lines.put(None)


def _last_words(what: str, log: TextIO) -> str:
    log.seek(0)
    said = log.read().splitlines()[-_TOLD:]
    return "\n".join([f"{what}; it said:", *said]) if said else what


def _stop(process: subprocess.Popen[str], stop_s: float) -> None:
    process.terminate()
    try:
        with suppress(subprocess.TimeoutExpired):
            process.wait(stop_s)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
