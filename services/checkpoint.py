"""Published facts of known checkpoints: their networks, sizes, files and defaults. They are data, in JSON files.

A model's folder has one file for each checkpoint, `checkpoints/NAME.json`. The numbers are published facts, written
down by this project; no file of a repository is copied.
"""

from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue

Library = Literal["diffusers", "transformers", "reelgraph"]


class Component(BaseModel):
    """A network of a checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """Its folder in the repository, e.g. `transformer_2`; empty for the repository itself."""
    library: Library
    """Package of its class."""
    class_name: str
    """Its class, e.g. `WanTransformer3DModel`."""
    config: dict[str, JsonValue]
    """Arguments of its class or, for transformers, of its configuration class."""
    parameters: int
    """Number of parameters."""
    dtype: str
    """Data type of the published files, e.g. `float32`."""


class Checkpoint(BaseModel):
    """A known checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repository: str
    """`owner/name` on Hugging Face."""
    revision: str
    """Commit that public code pins; empty if there is none."""
    pipeline: dict[str, JsonValue]
    """Values of the pipeline's index that decide how it samples, e.g. `boundary_ratio`."""
    components: tuple[Component, ...]
    files: tuple[str, ...]
    """Patterns of the required files, as in `Weights.files`."""
    disk_bytes: int
    """Size of the required files."""
    roles: tuple[str, ...]
    """Roles that this checkpoint can take, of those that its kind offers."""
    defaults: dict[str, JsonValue]
    """Default values of request fields: the published ones."""
    rate: int | None = None
    """Frames per second of its videos, if the checkpoint determines them; None if a request does or there are none."""


@cache
def load_checkpoints(folder: Path) -> tuple[Checkpoint, ...]:
    """Return the known checkpoints of a model, from the JSON files in `folder`, sorted by file name."""
    return tuple(Checkpoint.model_validate_json(path.read_bytes()) for path in sorted(folder.glob("*.json")))
