"""The description of a kind of model, which its folder exports as `MODEL`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, get_args

from pydantic import BaseModel

from services.checkpoint import Checkpoint
from services.cost import Cost, Job, Jobs
from services.levers import ModelSettings
from services.weights.licences import Licence

if TYPE_CHECKING:  # it imports numpy, which the definitions of requests do not need
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
"""A task for which a graph needs a model."""
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True)
class Offer:
    """A role that a kind of model offers."""

    role: Role
    """The service implements the interface of this role in `services.roles`."""
    request: type[BaseModel] | None = None
    """Request class of the role's method; None if the method takes only frames."""
    pictures: Mapping[str, str] = field(default_factory=dict[str, str])
    """Optional pictures that this kind supports: argument of the role's method → description."""


@dataclass(frozen=True)
class Form:
    """What the files of a folder of weights say about their checkpoint."""

    like: str = ""
    """Repository of the known checkpoint that has this form; empty if none has."""
    roles: tuple[Role, ...] = ()
    """Roles that it can take; empty if they are those of `like`, or not known."""


@dataclass(frozen=True, eq=False)
class Costs(Generic[Settings]):
    """How the cost of requests to a kind of model is computed, without torch."""

    estimate: Callable[[Checkpoint, Settings, Job[Any]], Cost]
    """Returns the cost of a request."""
    list_jobs: Callable[[Checkpoint, Settings, Mapping[str, Any]], Jobs[Any]]
    """Returns the default and the largest request of a deployment, given the default values of request fields."""
    included: Checkpoint | None = None
    """Facts of the weights that are included in the project."""


@dataclass(frozen=True, eq=False)
class Model(Generic[Settings]):
    """A kind of model and how it is served."""

    kind: str
    """Name of the kind in a configuration, e.g. `wan`."""
    settings: type[Settings]
    """Settings of a replica."""
    service: str
    """Service class, as `module:class`. It is imported only in the process that loads the model, because it imports
    torch."""
    offers: tuple[Offer, ...]
    rate: Callable[[Settings], Fraction | None] | None = None
    """Settings → frames per second of the videos, if the model determines it, not the request; the function returns
    None if it depends on the checkpoint."""
    prepare: Callable[[Settings, Path], Settings] = lambda settings, _home: settings
    """Completes the settings that depend on `home`."""
    checkpoints: tuple[Checkpoint, ...] = ()
    """Known checkpoints of this kind, with their published facts."""
    recognise: Callable[[Path], Form] = lambda _folder: Form()
    """Folder of weights → form of its checkpoint, from its configuration files."""
    paired: Mapping[str, str] = field(default_factory=dict[str, str])
    """Request field → the field that it refines: its default does not apply if only the other one is given."""
    costs: Costs[Settings] | None = None
    """None if its requests cost next to nothing."""
    licences: Mapping[str, Licence] = field(default_factory=dict[str, Licence])
    """Repository, or name of a model pack → licence of its weights."""
    aliases: Mapping[str, Role] = field(default_factory=dict[str, Role])
    """Another name that requests may use → the role of the models that it stands for."""
    command: str = ""
    """Name of the command-line command; empty if it is the same as the kind."""
    role_commands: Mapping[str, Role] = field(default_factory=dict[str, Role])
    """Name of a further command → the role that it is for, with only the fields of this role."""

    def load(self, settings: Settings, home: Path, replica: Callable[[], str]) -> "Service[Settings, Any]":
        """Load the weights and return the service.

        Args:
            settings: settings from the configuration.
            home: REELGRAPH_HOME, the folder of downloads.
            replica: returns the name of this replica and its devices.

        Raises:
            ConfigError: weights, the device or another setting are not available.
        """
        module, name = self.service.split(":")
        return getattr(import_module(module), name)(self.prepare(settings, home), home, replica)

    def find_offer(self, role: str, request: type[BaseModel] | None) -> Offer | None:
        """Return the offer with this role and request class, or None if there is no match."""
        for offer in self.offers:
            if offer.role == role and offer.request is request:
                return offer
        return None
