"""Tiny checkpoints with random weights, for tests and benchmarks of everything round the weights.

Each file writes one model's: the real classes and layout, a few MB. What they make is noise.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from inspect import getfile
from pathlib import Path

from services.weights.downloads import alone
from services.weights.weights import Weights

MODELS = (
    "flux",
    "hunyuan_dit",
    "instantid",
    "internvl",
    "qwen_edit",
    "realesrgan",
    "svd",
    "text_to_video",
    "wan",
)
"""Each has a file here with `write(form, folder)`."""

Writer = Callable[[str, Path], None]
"""Writes the checkpoint of a form into a folder that exists and is empty. Raises ValueError: there is no such form."""


def written(model: str, form: str, home: Path) -> Weights:
    """Return the random weights of a model, which are written under `home` where they are not there yet.

    Args:
        model: one of `MODELS`.
        form: one of those that the model's `write` names.
        home: the checkpoint comes to lie in `home/miniatures`, absolute.

    Raises:
        ValueError: there is no such model, or no such form of it.
    """
    return Weights(path=once(writer_of(model), form, home.absolute() / "miniatures"))


def writer_of(model: str) -> Writer:
    """Return a model's `write`. Raises ValueError where there is no such model."""
    if model not in MODELS:
        raise ValueError(f"random weights are there for {', '.join(MODELS)}, got {model!r}")
    return import_module(f"miniatures.random.{model}").write


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
