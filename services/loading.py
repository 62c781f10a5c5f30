"""Which models a server is loading, as small files: a process that loads one writes, whoever waits for it reads.

`HOME/loading/MODEL.json` holds `{"model", "state", "detail", "at"}`; `at` is in seconds since the epoch. A model is its
id in the configuration. The last state that was written counts, whichever replica wrote it.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import quote

from services.private import write_private

State = Literal["loading", "ready", "failed"]
_STATES = get_args(State)


@dataclass(frozen=True, slots=True)
class Loading:
    """How far a model is."""

    model: str
    state: State
    detail: str = ""
    """What is being done, e.g. `fetching 3 of 12 GB`, or what went wrong."""
    at: float = field(default_factory=time.time)
    """When that was written: seconds since the epoch."""


def write_loading(home: Path, loading: Loading) -> None:
    """Say how far a model is. Raises OSError."""
    folder = home / "loading"
    folder.mkdir(mode=0o700, exist_ok=True)
    write_private(folder / f"{quote(loading.model, safe='')}.json", json.dumps(asdict(loading)))


def list_loading(home: Path, since: float = 0.0) -> list[Loading]:
    """What was written at `since` or later, by model. A file that says something else is left out."""
    return sorted(
        (one for one in _read(home / "loading") if one.at >= since),
        key=lambda one: one.model,
    )


def _read(folder: Path) -> Iterator[Loading]:
    for path in folder.glob("*.json"):
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            found = Loading(str(said["model"]), said["state"], str(said.get("detail", "")), float(said["at"]))
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            continue
        if found.state in _STATES:
            yield found
