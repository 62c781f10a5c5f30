"""What pyright says of a program that is written for a test."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
ERROR = re.compile(r":(\d+):\d+ - error: (.*)")


def check_types(program: str, folder: Path) -> list[tuple[int, str]]:
    """Return the errors in a program that can import the project, by line: (line, first line of the message)."""
    (folder / "program.py").write_text(program)
    (folder / "pyrightconfig.json").write_text(f'{{"extraPaths": ["{ROOT}"], "typeCheckingMode": "standard"}}')
    command = [sys.executable, "-m", "pyright", "--project", str(folder), "--pythonpath", sys.executable]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder)
    return [(int(found[1]), found[2]) for line in ended.stdout.splitlines() if (found := ERROR.search(line))]
