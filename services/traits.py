"""What the checkpoint of a deployment determines: the roles that it can take, its default values and its frame rate.

A known repository is recognised by its name, another folder by the form of its files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import JsonValue

from services.checkpoint import Checkpoint
from services.levers import CheckpointSettings, ModelSettings
from services.model import Form, Model, Role
from services.settings import DEEPER, Place, change_parts
from services.weights.local import find_folder
from services.weights.weights import Weights

Settings = TypeVar("Settings", bound=ModelSettings)


@dataclass(frozen=True)
class Traits:
    """What a checkpoint determines of requests to it."""

    roles: tuple[Role, ...]
    """Roles that it can take, of those that its kind offers, in the kind's order."""
    defaults: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    """Default values of request fields."""
    rate: float | None = None
    """Frames per second of its videos, if the checkpoint determines them."""


def find_traits(model: Model[Any], settings: ModelSettings, home: Path | None = None) -> Traits:
    """Return the traits of the checkpoint that `settings` name.

    A checkpoint that is not known, or a repository that is not known and not downloaded yet, has all roles of its kind
    and no defaults of its own.

    Args:
        model: the kind of model.
        settings: its settings.
        home: REELGRAPH_HOME, the folder of downloads; None to leave it out.
    """
    known = {checkpoint.repository: checkpoint for checkpoint in model.checkpoints}
    found = known.get(settings.source)
    if found is not None:
        return _read_traits(model, found, found.roles)
    form = _recognise_form(model, settings, home)
    return _read_traits(model, known.get(form.like), form.roles or None)


def select_files(model: Model[Any], settings: Settings) -> Settings:
    """Return the settings with `files` in the weights of known repositories that do not set it.

    Repositories often contain the same weights several times. All files remain selected if the required ones are in
    half precision (`.fp16.`) and the settings have another `variant`.
    """
    known = {checkpoint.repository: checkpoint.files for checkpoint in model.checkpoints}

    def select(_: Place, part: Any) -> Any:
        if not isinstance(part, Weights) or part.files or part.repository not in known:
            return DEEPER
        files = known[part.repository]
        halved = any(".fp16." in pattern for pattern in files)
        return (
            part
            if halved and getattr(settings, "variant", None) != "fp16"
            else part.model_copy(update={"files": files})
        )

    return change_parts(settings, select)


def _recognise_form(model: Model[Any], settings: ModelSettings, home: Path | None) -> Form:
    if not isinstance(settings, CheckpointSettings):
        return Form()
    folder = find_folder(settings.weights, home)
    return Form() if folder is None else model.recognise(folder)


def _read_traits(model: Model[Any], checkpoint: Checkpoint | None, roles: tuple[str, ...] | None) -> Traits:
    if roles is None and checkpoint is not None:
        roles = checkpoint.roles
    fitting: list[Role] = []
    for offer in model.offers:
        if offer.role not in fitting and (not roles or offer.role in roles):
            fitting.append(offer.role)
    if checkpoint is None:
        return Traits(tuple(fitting))
    return Traits(tuple(fitting), checkpoint.defaults, checkpoint.rate)
