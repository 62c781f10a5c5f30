"""Tiny checkpoints with random weights, for tests and benchmarks of everything round the weights.

Each file writes one kind's: the real classes and layout, a few MB. What they make is noise. A file is found by the
kind's name.
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
"""Writes the checkpoint of a form into a folder that exists and is empty. Raises ValueError: there is no such form."""
WriteForm = Callable[[str], Mapping[str, str]]
"""Writes the checkpoint of a form where it is not there yet, and returns `weights` as a configuration has it."""
Fields: TypeAlias = Mapping[str, Any]
"""Fields of a request."""
Block: TypeAlias = dict[str, Any]
"""A model as a configuration has it, without its kind."""


class RandomModel(Protocol):
    """What the file of a kind has, `miniatures/random/KIND.py` with `_` for `-`."""

    SHORT: Fields
    """A request that takes a second. Empty where nothing can be chosen."""
    LONG: Fields
    """What makes it take long enough to be cancelled."""

    def write(self, form: str, folder: Path) -> None:
        """Write the checkpoint of a form into a folder that exists and is empty. Raises ValueError."""
        ...

    def serve(self, weights: WriteForm) -> Block:
        """Return how the model is served in tests, with small requests as its defaults."""
        ...


def find_random_model(kind: str) -> RandomModel:
    """Return the file of a kind. Raises ValueError: there is no such kind, or it has no file here."""
    if kind not in KINDS:
        raise ValueError(f"random weights are there for {', '.join(KINDS)}, got {kind!r}")
    name = kind.replace("-", "_")
    if not (Path(__file__).parent / f"{name}.py").exists():
        raise ValueError(f"{kind} has no random weights: miniatures/random/{name}.py is missing (see RandomModel)")
    return cast("RandomModel", import_module(f"miniatures.random.{name}"))


def written(kind: str, form: str, home: Path) -> Weights:
    """Return the random weights of a kind, which are written under `home` where they are not there yet.

    Args:
        kind: of model.
        form: one of those that the kind's `write` names.
        home: the checkpoint comes to lie in `home/miniatures`, absolute.

    Raises:
        ValueError: there is no such kind, or no such form of it.
    """
    return Weights(path=once(find_random_model(kind).write, form, home.absolute() / "miniatures"))


def random_block(kind: str, home: Path) -> Block:
    """Return a kind as a configuration has it, with random weights that are written under `home`."""

    def write_form(form: str) -> Mapping[str, str]:
        return {"path": str(written(kind, form, home).path)}

    return {"kind": kind, **find_random_model(kind).serve(write_form)}


def once(write: Writer, form: str, folder: Path) -> Path:
    """Write a checkpoint into a folder of its own in `folder`, unless it is there, and return that one.

    Several processes may ask together, and none sees it half-written. Another version of the writer, or of the
    libraries it writes with, has another folder.
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
