"""`args` of the applications in `serve_config*.yaml`."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from composition.configuration.origins import DoorSettings
from composition.media.limits import MediaLimits
from composition.records.artifacts import ArtifactSettings
from services.allowance import MAX_JSON_BYTES
from services.catalogue import KINDS
from services.errors import ConfigError
from services.model import Role
from services.private import open_home

LEGACY_MESSAGE = (
    "this configuration is of the form before 0.2, one application with a field for each model; docs/configuration.md "
    "tells how to move it to one block for each model"
)
"""What is said of a file that names `composition.app:build`."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
"""Of a model or an application: lower-case letters, digits and dashes."""
ENTRY_FIELDS = ("kind", "defaults")
"""Of a model's block, those that are not settings of its kind."""


class StateSettings(BaseModel):
    """Where all state lies. The same for every application of a deployment."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    home: Path | None = None
    """Where all state lies; by default REELGRAPH_HOME, or `~/.reelgraph`."""
    database: str | None = None
    """SQLAlchemy URL; by default a SQLite file in `home`, which serves one machine."""
    artifacts: ArtifactSettings | None = None
    """Results and uploads; by default a directory in `home`."""
    media: MediaLimits = MediaLimits()

    @property
    def state(self) -> Path:
        """The one directory of all state, absolute, there, and closed to other users. Raises ConfigError."""
        return open_home(self.home or Path(os.environ.get("REELGRAPH_HOME", "~/.reelgraph")))

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.state / 'reelgraph.db'}"

    @property
    def artifact_store(self) -> ArtifactSettings:
        return self.artifacts or ArtifactSettings(url=str(self.state / "artifacts"))


class ModelEntry(BaseModel):
    """One model: `{kind, defaults, …}`, and beside these the settings of its kind."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    """One of the catalogue's, e.g. `wan`."""
    defaults: Mapping[str, Any] = Field(default_factory=dict[str, Any])
    """Values for the fields that a request leaves out."""
    settings: Any
    """Of that kind."""

    @model_validator(mode="before")
    @classmethod
    def _parse_settings(cls, value: Any) -> Any:
        """Read the settings by the class of their kind."""
        if not isinstance(value, dict):
            return value
        entry = cast("dict[str, Any]", value)
        model = KINDS.get(str(entry.get("kind")))
        if model is None:
            raise ValueError(f"kind: must be one of {', '.join(KINDS)}, got {str(entry.get('kind'))[:60]!r}")
        if isinstance(entry.get("settings"), BaseModel):
            return entry
        own = {name: entry[name] for name in ENTRY_FIELDS if name in entry}
        rest = {name: each for name, each in entry.items() if name not in ENTRY_FIELDS}
        return {**own, "settings": model.settings.model_validate(rest)}

    def __iter__(self) -> Iterator[tuple[str, Any]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Yield the fields as the block has them: those of the settings beside its own."""
        yield "kind", self.kind
        yield "defaults", self.defaults
        yield from cast("BaseModel", self.settings)


class HostSettings(StateSettings):
    """What an application that hosts several things is called."""

    application: Name | None = None
    """The name of the application, where it hosts more than one."""


class ModelsSettings(HostSettings):
    """`args` of `composition.app:models`."""

    models: Annotated[Mapping[Name, ModelEntry], Field(min_length=1)]
    """Id → what it is and how it is loaded. All of an application are in one process."""
    offline: bool = False
    """Never ask a hub: only weights that were fetched before."""

    @property
    def name(self) -> str:
        """Of the application and its deployment. Raises ConfigError."""
        return _choose_name(self.application, list(self.models))


class GraphEntry(BaseModel):
    """One graph, as a configuration has it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    defaults: Mapping[str, Any] = Field(default_factory=dict[str, Any])
    """Values for the fields that a request leaves out; they stand before those of the models."""
    roles: Mapping[Role, Name] = Field(default_factory=dict[Role, Name])
    """Role → the model that takes it where a request does not choose; by default the first that is served."""
    scenes_by: Literal["full-pipeline", "text-to-video"] = "full-pipeline"
    """What makes the scenes of a storyboard."""


class GraphsSettings(HostSettings):
    """`args` of `composition.app:graphs`."""

    graphs: Annotated[Mapping[Name, GraphEntry], Field(min_length=1)]
    """Name → its settings. All of an application are in one process."""

    @property
    def name(self) -> str:
        """Of the application and its deployment. Raises ConfigError."""
        return _choose_name(self.application, list(self.graphs))


class JobsSettings(StateSettings):
    """`args` of `composition.app:jobs`."""

    concurrency: int = Field(default=2, ge=1)
    """Jobs that one runner works on at a time."""
    lease_s: float = Field(default=15.0, gt=0)
    """After a runner dies, its jobs lie still for this long."""
    max_attempts: int = Field(default=5, ge=1)
    """A job whose runs were all lost this often has failed."""


class FrontSettings(StateSettings, DoorSettings):
    """`args` of `composition.app:front`."""

    auth: Literal["keys", "none"] = "keys"
    """`none` lets everybody in who reaches the server as `allowed_hosts` and `allowed_origins` say, and everybody see
    everything."""
    max_body_bytes: int = Field(default=2 << 30, ge=1)
    max_json_bytes: int = Field(default=MAX_JSON_BYTES, ge=1)
    max_queued_jobs: int = Field(default=100, ge=1)
    roles: Mapping[Role, Name] = Field(default_factory=dict[Role, Name])
    """Role → the model that answers at once (`/v1/images/…`, `/v1/faces`) where a request names none; by default the
    first that is served."""


def _choose_name(application: str | None, hosted: list[str]) -> str:
    if application is None and len(hosted) > 1:
        raise ConfigError(
            f"application: name the application that hosts {', '.join(hosted)}: one that hosts several has no name "
            "by itself",
            param="application",
        )
    return application or hosted[0]
