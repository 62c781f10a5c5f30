"""A kind of model as the other rooms see it: one value, which its folder exports as `MODEL`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, get_args

from pydantic import BaseModel

from services.levers import ModelSettings
from services.weights.licences import Licence

if TYPE_CHECKING:  # it brings numpy, and what may be asked of a model is read without
    from services.service import Service

Settings = TypeVar("Settings", bound=ModelSettings)

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
    """A role that a kind offers."""

    role: Role
    """Its service has the method of the role's interface, see `services.roles`."""
    request: type[BaseModel] | None = None
    """What that method is asked with, beside frames; None where nothing can be chosen."""
    pictures: Mapping[str, str] = field(default_factory=dict[str, str])
    """Optional pictures of the role's method that this kind can use: the method's argument → what it is for."""


@dataclass(frozen=True, eq=False)
class Model(Generic[Settings]):
    """A kind of checkpoint and how it is served."""

    kind: str
    """Its name in a configuration, e.g. `wan`."""
    settings: type[Settings]
    """Settings of a replica."""
    service: str
    """Its service class, as `module:class`. It is imported where the model is loaded, because it brings torch."""
    offers: tuple[Offer, ...]
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

    def load(self, settings: Settings, home: Path, replica: Callable[[], str]) -> "Service[Settings, Any]":
        """Load the weights, and return the service.

        Args:
            settings: what the configuration says.
            home: REELGRAPH_HOME, where downloads lie.
            replica: returns the name of this replica and its devices.

        Raises:
            ConfigError: weights, the device or another setting cannot be had.
        """
        module, name = self.service.split(":")
        return getattr(import_module(module), name)(self.prepare(settings, home), home, replica)

    def find_offer(self, role: str, request: type[BaseModel] | None) -> Offer | None:
        """Return the offer of a role that is asked with `request`; None where there is none."""
        for offer in self.offers:
            if offer.role == role and offer.request is request:
                return offer
        return None
