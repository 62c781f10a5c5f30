"""The tests of interrupts also pass in a background job, which a shell starts with SIGINT ignored."""

import subprocess
import sys
from pathlib import Path

from tests.cluster.server import ROOT

IGNORING = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); os.execv(sys.executable, sys.argv[1:])"
)
INTERRUPTED = "tests/clients/test_cli.py::test_an_interrupt_of_watching_lets_the_job_go_on"


def test_a_background_job_of_the_suite_can_send_interrupts(tmp_path: Path) -> None:
    options = ["-q", "-p", "no:cacheprovider", "--basetemp", str(tmp_path / "basetemp")]
    pytest = [sys.executable, "-m", "pytest", *options, INTERRUPTED]
    done = subprocess.run(
        [sys.executable, "-c", IGNORING, *pytest], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
