"""Tiny checkpoints with random weights, for tests and benchmarks of everything but the weights.

Each module writes one model's checkpoint: real classes and layout, a few MB. The output is noise.
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
"""Writes the checkpoint of a form into an existing, empty folder. Raises ValueError for an unknown form."""


def written(model: str, form: str, home: Path) -> Weights:
    """Return the random weights of a model, and write them below `home` unless they exist.

    Args:
        model: one of `MODELS`.
        form: one of the forms of the model's `write`.
        home: the checkpoint is written below `home/miniatures`, which becomes an absolute path.

    Raises:
        ValueError: unknown model or form.
    """
    return Weights(path=once(writer_of(model), form, home.absolute() / "miniatures"))


def writer_of(model: str) -> Writer:
    """Return a model's `write`. Raises ValueError for an unknown model."""
    if model not in MODELS:
        raise ValueError(f"model: must be one of {', '.join(MODELS)}, got {model!r}")
    return import_module(f"miniatures.random.{model}").write


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
