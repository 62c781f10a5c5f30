"""What the marks of a file say: how it was made, and from what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path


@dataclass(frozen=True)
class ModelUse:
    """A model's part in making a file."""

    stage: str
    model: str
    """Kind of the model, e.g. `wan`."""
    source: str
    """Source of the weights: a repository, or `path:FOLDER`."""
    revision: str


@dataclass(frozen=True)
class Ingredient:
    """A file of the user that the result was made from."""

    field: str
    """The request field, e.g. `video`. The user's name of the file is not recorded."""
    path: Path
    """A local copy of the file."""
    is_parent: bool = False
    """Whether the result is an edited version of this file, rather than made with it as an input. If there are several,
    it is the first."""
    owner: str = ""
    """Owner of the file, among whom decoders take turns; empty if it is not known."""


@dataclass(frozen=True)
class Provenance:
    """How a file was made."""

    content_id: str
    """Unique id of the content, e.g. `video_…/video`."""
    created_at: datetime
    """When it was completed, with a time zone."""
    task: str
    """The graph or model that the request named, e.g. `v2v`."""
    models: Sequence[ModelUse] = ()
    """The models that took part, in order."""
    loras: Mapping[str, str] = field(default_factory=dict[str, str])
    """Name of each LoRA → SHA-256 of its file, in hex."""
    seed: int | None = None
    prompts: Mapping[str, str] = field(default_factory=dict[str, str])
    """Request field → prompt. Written only if `MarksSettings.prompts` is on."""
    ingredients: Sequence[Ingredient] = ()
    lost_ingredients: int = 0
    """Number of files of the user that it was made from and that were deleted since."""

    @property
    def is_composite(self) -> bool:
        """Whether files of the user are part of it."""
        return bool(self.ingredients) or self.lost_ingredients > 0
