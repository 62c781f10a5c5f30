"""What the checkpoint of a deployment determines: the roles that it can take, its default values and its frame rate.

A known repository is recognised by its name, another folder by the form of its files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from services.checkpoint import Checkpoint
from services.levers import CheckpointSettings, ModelSettings
from services.model import Form, Model, Role
from services.weights.local import find_folder


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
