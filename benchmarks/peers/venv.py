"""The separate virtual environment of the peers, whose dependencies conflict with Ray's."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
VENV = ROOT / ".venv-peers"
PYTHON = VENV / "bin" / "python"
REQUIREMENTS = ROOT / "benchmarks" / "requirements-peers.txt"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
POLL_S = 0.1


def prepare() -> dict[str, str]:
    """Create or update the environment, and return the versions of the peers."""
    uv = str(Path(sys.prefix, "bin", "uv"))
    if not PYTHON.exists():
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, VENV], check=True)
    install = [uv, "pip", "install", "--quiet", "--python", PYTHON, "--require-hashes", "-r", REQUIREMENTS]
    subprocess.run(install, check=True)
    listed = subprocess.run(
        [uv, "pip", "list", "--python", PYTHON, "--format", "json"], check=True, capture_output=True
    )
    installed = {package["name"]: package["version"] for package in json.loads(listed.stdout)}
    return {name: installed[name] for name in ("bentoml", "litserve")}


@contextmanager
def served(command: list[str], ready: str) -> Iterator[None]:
    """Run a server from the environment inside the `with` block.

    Args:
        command: command line of the server.
        ready: URL that answers 200 when the server is ready.

    Raises:
        RuntimeError: the server ended or was not ready in time.
    """
    program = [VENV / "bin" / command[0], *command[1:]]
    with tempfile.TemporaryFile() as log:
        # Its own session, so that all its workers can be ended together.
        server = subprocess.Popen(program, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        try:
            if not _is_up(server, ready):
                log.seek(0)
                raise RuntimeError(f"{command} did not start:\n{log.read().decode(errors='replace')}")
            yield
        finally:
            _end(server)


def _is_up(server: subprocess.Popen[bytes], ready: str) -> bool:
    until = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until and server.poll() is None:
        try:
            with urllib.request.urlopen(ready, timeout=1):  # noqa: S310 - an address we made
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(POLL_S)
    return False


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(STOP_TIMEOUT_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)  # remaining workers, if any
        server.wait()
