"""The loading state of models, in small files: replicas write them, and processes that wait for a server read them.

`HOME/loading/MODEL.json` contains `{"model", "state", "detail", "at"}`; `at` is in seconds since the epoch. MODEL is
the id of the model in the configuration. All replicas of a model write the same file; the last write wins.
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
    """The loading state of a model."""

    model: str
    state: State
    detail: str = ""
    """Current step, e.g. `fetching 3 of 12 GB`, or the reason of the failure."""
    at: float = field(default_factory=time.time)
    """Time of writing, in seconds since the epoch."""


def write_loading(home: Path, loading: Loading) -> None:
    """Write the loading state of a model. Raises OSError."""
    folder = home / "loading"
    folder.mkdir(mode=0o700, exist_ok=True)
    write_private(folder / f"{quote(loading.model, safe='')}.json", json.dumps(asdict(loading)))


def list_loading(home: Path, since: float = 0.0) -> list[Loading]:
    """Return the states written at `since` (seconds since the epoch) or later, sorted by model; skip invalid files."""
    return sorted(
        (one for one in _read(home / "loading") if one.at >= since),
        key=lambda one: one.model,
    )


def _read(folder: Path) -> Iterator[Loading]:
    for path in folder.glob("*.json"):
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            found = Loading(str(fields["model"]), fields["state"], str(fields.get("detail", "")), float(fields["at"]))
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            continue
        if found.state in _STATES:
            yield found
