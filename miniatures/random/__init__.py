"""Tiny checkpoints with random weights, for tests and benchmarks of everything but the weights.

Each module writes the checkpoint of one kind: real classes and layout, a few MB. The output is noise. Modules
are named after their kinds.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import version
from inspect import getfile
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast

from services.catalogue import KINDS
from services.weights.downloads import alone
from services.weights.weights import Weights

Writer = Callable[[str, Path], None]
"""Writes the checkpoint of a form into an existing, empty folder. Raises ValueError for an unknown form."""
WriteForm = Callable[[str], Mapping[str, str]]
"""Writes the checkpoint of a form unless it exists, and returns the `weights` of a configuration."""
Fields: TypeAlias = Mapping[str, Any]
"""Fields of a request."""
Block: TypeAlias = dict[str, Any]
"""The entry of a model in a configuration, without its kind."""


class RandomModel(Protocol):
    """The module of a kind, `miniatures/random/KIND.py` with `_` instead of `-`."""

    SHORT: Fields
    """A request that takes a second; empty if the request has no such fields."""
    LONG: Fields
    """Changes that make the request long enough to be cancelled."""

    def write(self, form: str, folder: Path) -> None:
        """Write the checkpoint of a form into an existing, empty folder. Raises ValueError for an unknown form."""
        ...

    def serve(self, weights: WriteForm) -> Block:
        """Return the entry of the model in tests, with small requests as its defaults."""
        ...


def find_random_model(kind: str) -> RandomModel:
    """Return the module of a kind. Raises ValueError if the kind is unknown or has no module."""
    if kind not in KINDS:
        raise ValueError(f"kind: must be one of {', '.join(KINDS)}, got {kind!r}")
    name = kind.replace("-", "_")
    if not (Path(__file__).parent / f"{name}.py").exists():
        raise ValueError(f"{kind} has no random weights: miniatures/random/{name}.py is missing (see RandomModel)")
    return cast("RandomModel", import_module(f"miniatures.random.{name}"))


def written(kind: str, form: str, home: Path) -> Weights:
    """Return the random weights of a kind, and write them below `home` unless they exist.

    Args:
        kind: kind of the model.
        form: one of the forms of the kind's `write`.
        home: the checkpoint is written below `home/miniatures`, which becomes an absolute path.

    Raises:
        ValueError: unknown kind or form.
    """
    return Weights(path=once(find_random_model(kind).write, form, home.absolute() / "miniatures"))


def random_block(kind: str, home: Path) -> Block:
    """Return the entry of a kind in a configuration, with random weights written below `home`."""

    def write_form(form: str) -> Mapping[str, str]:
        return {"path": str(written(kind, form, home).path)}

    return {"kind": kind, **find_random_model(kind).serve(write_form)}


def once(write: Writer, form: str, folder: Path) -> Path:
    """Write a checkpoint into its own folder below `folder` unless it exists, and return that folder.

    Concurrent processes never see a partly written checkpoint. Another version of the writer or of its libraries uses
    another folder.
    """
    made_by = Path(getfile(write))
    stamp = made_by.read_bytes() + version("diffusers").encode() + version("transformers").encode()
    target = folder / f"{made_by.stem}-{form}-{hashlib.sha256(stamp).hexdigest()[:12]}"
    with alone(folder / f"{target.name}.lock"):
        if not target.is_dir():
            draft = Path(tempfile.mkdtemp(dir=folder, prefix=".draft-"))
            try:
                write(form, draft)
                draft.replace(target)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    return target
