"""The console of a server, and the log of the libraries in its process."""

import os
import subprocess
import sys
from pathlib import Path

from composition.server.console import is_locked

ROOT = Path(__file__).parents[3]
TALKS = """
import logging, os, pathlib, subprocess, sys
from composition.server.console import open_console
with open_console(pathlib.Path("home")) as said:
    said.print_status("ready")
    said.print_message(f"logs: {said.logs}")
    print("a library prints")
    logging.getLogger("ray").warning("a library warns")
    os.write(2, b"a C++ library writes\\n")
    subprocess.run([sys.executable, "-c", "import sys; print('a child prints'); print('and errs', file=sys.stderr)"])
    %s
print("after it")
print("and after it", file=sys.stderr)
"""


def talk(folder: Path, end: str = "") -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", TALKS % end]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_libraries_write_to_a_file_and_the_server_to_the_terminal(tmp_path: Path) -> None:
    done = talk(tmp_path)
    (logs,) = (tmp_path / "home" / "logs").iterdir()
    assert (done.returncode, done.stdout.splitlines()) == (0, ["ready", "after it"])
    assert done.stderr.splitlines() == [f"logs: {logs.relative_to(tmp_path)}", "and after it"]
    said = set((logs / "server.log").read_text().splitlines())
    prints = {"a library prints", "a child prints", "and errs"}
    assert said == prints | {"a library warns", "a C++ library writes"}


def test_a_server_that_was_refused_leaves_no_log(tmp_path: Path) -> None:
    code = "import pathlib, composition.server.console as c\nwith c.open_console(pathlib.Path('home')): pass"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    assert list((tmp_path / "home" / "logs").iterdir()) == []


def test_an_error_is_told_at_the_terminal(tmp_path: Path) -> None:
    done = talk(tmp_path, "raise ZeroDivisionError('by nought')")
    assert done.returncode == 1
    assert done.stderr.endswith("ZeroDivisionError: by nought\n")


def test_the_newest_ten_logs_are_kept_and_those_in_use(tmp_path: Path) -> None:
    logs = tmp_path / "home" / "logs"
    for day in range(10, 25):
        (logs / f"2025-11-{day}_10-00-00_1").mkdir(parents=True)
        (logs / f"2025-11-{day}_10-00-00_1" / "server.log").touch()
    (logs / "mine").mkdir()
    code = "import fcntl, sys; file = open(sys.argv[1]); fcntl.flock(file, 1); print('held', flush=True); input()"
    oldest = logs / "2025-11-10_10-00-00_1" / "server.log"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(oldest)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == "held\n"
        assert is_locked(oldest)
        assert talk(tmp_path).returncode == 0
        other.communicate("\n")
    kept = sorted(path.name for path in logs.iterdir())
    assert kept[0] == "2025-11-10_10-00-00_1"
    assert [name[8:10] for name in kept[1:10]] == [str(day) for day in range(16, 25)]
    assert len(kept) == 1 + 9 + 1 + 1
    assert not is_locked(oldest)
