"""What a model is to everybody else: one value, which its folder exports as `MODEL`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, get_args

from pydantic import BaseModel

from services.licences import Licence

Settings = TypeVar("Settings", bound=BaseModel)

Role = Literal[
    "describe",
    "face",
    "guided-edit",
    "image-to-video",
    "restyle",
    "text-to-image",
    "text-to-video",
    "upscale",
]
"""What a graph needs a model for."""
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True)
class Offer:
    """A role that a model can take."""

    role: Role
    method: str
    """The method of its service."""
    request: type[BaseModel] | None = None
    """What that method is asked with, beside frames; None where nothing can be chosen."""
    pictures: Mapping[str, str] = field(default_factory=dict[str, str])
    """Pictures that may be given beside those that every model of this role takes: the method's argument → what it is
    for."""


@dataclass(frozen=True, eq=False)
class Model(Generic[Settings]):
    """A kind of checkpoint and how it is served."""

    kind: str
    """Its name in a configuration, e.g. `wan`."""
    settings: type[Settings]
    """What a replica is started with."""
    service: Callable[[Settings, Path, Callable[[], str]], Any]
    """Loads the weights: `service(settings, home, name_replica)`."""
    offers: tuple[Offer, ...]
    limits: Callable[[Settings], Mapping[str, float]] = lambda _settings: {}
    """Settings → field of its request → the largest value that this deployment takes."""
    rate: Callable[[Settings], Fraction | None] | None = None
    """Settings → frames per second of its videos, where the model and not the request decides; None where only the
    loaded checkpoint knows."""
    prepare: Callable[[Settings, Path], Settings] = lambda settings, _home: settings
    """Completes settings that depend on `home`."""
    licences: Mapping[str, Licence] = field(default_factory=dict[str, Licence])
    """Repository, or name of a pack → the terms of its weights."""
    aliases: tuple[str, ...] = ()
    """Names by which older clients ask for a job of a model of this kind."""
    command: str = ""
    """Name of the command for a job of a model of this kind; empty where it is the kind."""

    def find_offer(self, role: str, request: type[BaseModel] | None) -> Offer | None:
        """Return the offer of a role that is asked with `request`; None where there is none."""
        for offer in self.offers:
            if offer.role == role and offer.request is request:
                return offer
        return None
