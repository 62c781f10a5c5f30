"""Starts the server: in place of this process, or as a child process for one command."""

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
"""Maximum time for starting, in seconds; it includes loading the models."""
_STOP_S = 60.0
"""Maximum time for stopping, in seconds: replicas finish their current step."""
_LOG_LINES = 20
"""Number of log lines in an error message."""


def require_server() -> None:
    """Raise LocalServerFailed if the server's code or its packages are not installed."""
    if not has_server():
        raise LocalServerFailed(
            f"{MISSING}, and `.venv/bin/reel serve` starts it. Give its URL to this client with --url or REELGRAPH_URL"
        )
    if importlib.util.find_spec("ray") is None:
        raise LocalServerFailed(
            f"the server's packages are not installed: run `make setup` in {CHECKOUT}, or "
            f"pip install --editable '{CHECKOUT}[server]'"
        )


def make_command(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs a module of the server with this Python.

    `-P` excludes the working folder from the import path, because it may have packages with the same names.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def make_environment() -> dict[str, str]:
    """Return the environment of this process, with the server's code first in PYTHONPATH."""
    path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


def exec_module(module: str, *arguments: str) -> NoReturn:
    """Replace this process by a module of the server, which then gets its signals and sets its exit status."""
    require_server()
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, make_command(module, *arguments), make_environment())  # noqa: S606 (no shell)


def run_module(module: str, *arguments: str) -> str:
    """Run a module of the server until it ends, and return its output.

    Raises LocalServerFailed with its stderr if it fails.
    """
    ended = subprocess.run(
        make_command(module, *arguments), env=make_environment(), capture_output=True, text=True, check=False
    )
    if ended.returncode:
        raise LocalServerFailed(f"{module} ended with status {ended.returncode}; stderr:\n{ended.stderr.strip()}")
    return ended.stdout


@contextmanager
def local_server(
    display: Display, serve: Sequence[str] | None = None, *, only: Sequence[str] = (), stop_s: float = _STOP_S
) -> Generator[str]:
    """Start a server on a free local port, yield its URL when it is ready, and stop it at the end.

    Args:
        display: shows that the server is starting or stopping.
        serve: the command that serves; it must print its URL and then `ready`, each on a separate line.
        only: the graphs and models to serve; by default all.
        stop_s: maximum time for stopping before the server is killed, in seconds.

    Raises:
        LocalServerFailed: the server is not installed, has ended, or was not ready in time.
    """
    if serve is None:
        require_server()
        only_options = [word for name in only for word in ("--only", name)]
        local_options = ("--address", "local", "--host", "127.0.0.1", "--port", str(_free_port()))
        serve = make_command("composition", "serve", *local_options, *only_options)
    with tempfile.TemporaryFile("a+", encoding="utf-8", errors="replace") as log:
        process = _start(serve, log)
        try:
            with display.show_wait("starting a server on this machine"):
                url = _wait_until_ready(process, log)
            yield url
        except (ConnectionLost, ServerUnreachable) as error:
            if process.poll() is None:
                raise
            raise LocalServerFailed(_append_log(f"the server ended with status {process.returncode}", log)) from error
        finally:
            with display.show_wait("stopping the server"):
                _stop(process, stop_s)


def _start(serve: Sequence[str], log: TextIO) -> "subprocess.Popen[str]":
    """Start the server in a separate session, so that Ctrl-C cancels the job before the server is stopped."""
    return subprocess.Popen(
        serve,
        env=make_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        start_new_session=True,
    )


def _wait_until_ready(process: subprocess.Popen[str], log: TextIO) -> str:
    """Return the URL that the server prints before `ready`. Raises LocalServerFailed."""
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
        raise LocalServerFailed(_append_log(f"the server was not ready within {_START_S:g} s", log)) from None
    raise LocalServerFailed(_append_log("the server ended before it was ready", log))


def _drain(stdout: IO[str], lines: "queue.Queue[str | None]") -> None:
    """Put all lines into the queue, until the end: a full pipe would block the server."""
    with stdout:
        for line in stdout:
            lines.put(line.strip())
    lines.put(None)


def _append_log(message: str, log: TextIO) -> str:
    """Return the message with the last lines of the log, if it has any."""
    log.seek(0)
    lines = log.read().splitlines()[-_LOG_LINES:]
    return "\n".join([f"{message}; last lines of its log:", *lines]) if lines else message


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
