"""Writing of the generated files, and comparison with the files on disk."""

import difflib
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from composition.contract.definitions import Definition, list_definitions
from composition.contract.write_commands import write_commands, write_create
from composition.contract.write_docs import write_docs
from composition.contract.write_fields import write_fields
from composition.contract.write_objects import write_objects
from services.errors import ConfigError

ROOT = Path(__file__).parents[2]
CLIENT = "clients"
"""Folder of the client package."""
WRITERS: Mapping[str, Callable[[Sequence[Definition]], str]] = {
    f"{CLIENT}/fields.py": write_fields,
    f"{CLIENT}/objects.py": write_objects,
    f"{CLIENT}/commands.py": write_commands,
    f"{CLIENT}/create.py": write_create,
    "docs/requests.md": write_docs,
}
"""Path of a file in the project → function that generates its text."""


def render_files(definitions: Sequence[Definition] | None = None) -> dict[str, str]:
    """Return path → text of the generated files, formatted. Raises ConfigError if ruff is not installed.

    Args:
        definitions: definitions of requests; by default those of the catalogues.
    """
    found = list_definitions() if definitions is None else definitions
    return {name: _format(write(found), name) for name, write in WRITERS.items()}


def write_files(root: Path = ROOT) -> list[str]:
    """Write the files that are not up to date, and return their paths."""
    stale = list(compare_files(root))
    for name, text in render_files().items():
        if name in stale:
            (root / name).write_text(text, encoding="utf-8")
    return stale


def compare_files(root: Path = ROOT) -> dict[str, str]:
    """Return path → unified diff of the files that are not up to date."""
    found: dict[str, str] = {}
    for name, text in render_files().items():
        path = root / name
        current = path.read_text(encoding="utf-8") if path.exists() else ""
        if current != text:
            lines = difflib.unified_diff(
                current.splitlines(), text.splitlines(), name, f"{name} as defined", lineterm=""
            )
            found[name] = "\n".join(lines)
    return found


def _format(text: str, name: str) -> str:
    if not name.endswith(".py"):
        return text
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")
    if ruff is None:
        raise ConfigError("generate: ruff, which formats the files, is not installed; `make setup` installs it")
    command = [ruff, "format", "--config", str(ROOT / "pyproject.toml"), "--stdin-filename", str(ROOT / name), "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout
