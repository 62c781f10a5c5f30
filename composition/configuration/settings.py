"""The `args` of the applications in `serve_config*.yaml`."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from composition.configuration.origins import DoorSettings
from composition.media.encoding import Encoding, Hardware
from composition.media.limits import MAX_CONVERSION_PIXELS, MediaLimits
from composition.media.marks.settings import MarksSettings
from composition.records.artifacts import ArtifactSettings
from services.allowance import MAX_JSON_BYTES
from services.catalogue import KINDS
from services.errors import ConfigError
from services.model import Role
from services.private import open_home
from services.traits import select_files

LEGACY_MESSAGE = (
    "import_path: composition.app:build is the format before 0.2, one application with a field for each model; "
    "docs/configuration.md explains how to convert it to one block for each model"
)
"""Error message for a file that names `composition.app:build`."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
"""Name of a model, graph or application: lower-case letters, digits and dashes."""
ENTRY_FIELDS = ("kind", "defaults")
"""The fields of a model's block that are not settings of its kind."""


class StateSettings(BaseModel):
    """Location of all state. Must be the same for all applications of a configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    home: Path | None = None
    """Folder of all state; by default REELGRAPH_HOME, else `~/.reelgraph`."""
    database: str | None = None
    """SQLAlchemy URL; by default a SQLite file in `home`, which serves one machine."""
    artifacts: ArtifactSettings | None = None
    """Store of results and uploads; by default a directory in `home`."""
    media: MediaLimits = MediaLimits()
    marks: MarksSettings = MarksSettings()
    """What finished files say about how they were made."""

    @property
    def state(self) -> Path:
        """The absolute path of the state folder, which is created and made private. Raises ConfigError."""
        return open_home(self.home or Path(os.environ.get("REELGRAPH_HOME", "~/.reelgraph")))

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.state / 'reelgraph.db'}"

    @property
    def artifact_store(self) -> ArtifactSettings:
        return self.artifacts or ArtifactSettings(url=str(self.state / "artifacts"))


class ModelEntry(BaseModel):
    """A model: `kind`, `defaults` and the settings of its kind."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    """Kind of the model, as in the catalogue, e.g. `wan`."""
    defaults: Mapping[str, Any] = Field(default_factory=dict[str, Any])
    """Default values of request fields."""
    settings: Any
    """Settings of the kind."""

    @model_validator(mode="before")
    @classmethod
    def _parse_settings(cls, value: Any) -> Any:
        """Parse the settings with the settings class of the kind."""
        if not isinstance(value, dict):
            return value
        entry = cast("dict[str, Any]", value)
        model = KINDS.get(str(entry.get("kind")))
        if model is None:
            raise ValueError(f"kind: must be one of {', '.join(KINDS)}, got {str(entry.get('kind'))[:60]!r}")
        if isinstance(entry.get("settings"), BaseModel):
            return entry
        fields = {name: entry[name] for name in ENTRY_FIELDS if name in entry}
        settings = {name: each for name, each in entry.items() if name not in ENTRY_FIELDS}
        return {**fields, "settings": select_files(model, model.settings.model_validate(settings))}

    def __iter__(self) -> Iterator[tuple[str, Any]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Yield the fields as in the configuration file, where the settings are at the same level."""
        yield "kind", self.kind
        yield "defaults", self.defaults
        yield from cast("BaseModel", self.settings)


class HostSettings(StateSettings):
    """Settings of an application that can host several models or graphs."""

    application: Name | None = None
    """Name of the application; required if it hosts more than one model or graph."""


class ModelsSettings(HostSettings):
    """`args` of `composition.app:models`."""

    models: Annotated[Mapping[Name, ModelEntry], Field(min_length=1)]
    """Id → model. All models of an application run in one process."""
    offline: bool = False
    """Whether to use only weights that were fetched before, and never contact a hub."""

    @property
    def name(self) -> str:
        """Name of the application and its deployment. Raises ConfigError."""
        return _choose_name(self.application, list(self.models))


class GraphEntry(BaseModel):
    """A graph in a configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    defaults: Mapping[str, Any] = Field(default_factory=dict[str, Any])
    """Default values of request fields, which take precedence over the models' defaults."""
    roles: Mapping[Role, Name] = Field(default_factory=dict[Role, Name])
    """Role → id of the model that takes it unless a request chooses another; by default the first suitable one."""
    scenes_by: Literal["full-pipeline", "text-to-video"] = "full-pipeline"
    """The graph or model that generates the scenes of a storyboard."""


class GraphsSettings(HostSettings):
    """`args` of `composition.app:graphs`."""

    graphs: Annotated[Mapping[Name, GraphEntry], Field(min_length=1)]
    """Name → graph. All graphs of an application run in one process."""

    @property
    def name(self) -> str:
        """Name of the application and its deployment. Raises ConfigError."""
        return _choose_name(self.application, list(self.graphs))


class JobsSettings(StateSettings):
    """`args` of `composition.app:jobs`."""

    concurrency: int = Field(default=2, ge=1)
    """Number of jobs that a runner works on at the same time."""
    lease_s: float = Field(default=15.0, gt=0)
    """Duration of a job's lease in seconds: the time until another runner resumes the jobs of a runner that died."""
    max_attempts: int = Field(default=5, ge=1)
    """Number of lost attempts after which a job fails."""
    hardware: Hardware = "never"
    """`auto` encodes videos on a GPU of the runner (NVENC) where there is one that can."""


class FrontSettings(StateSettings, DoorSettings):
    """`args` of `composition.app:front`."""

    auth: Literal["keys", "none"] = "keys"
    """`keys` requires an API key. `none` allows all requests that `allowed_hosts` and `allowed_origins` permit, and
    shows everything to everyone."""
    max_body_bytes: int = Field(default=2 << 30, ge=1)
    """Maximum size of a request body."""
    max_json_bytes: int = Field(default=MAX_JSON_BYTES, ge=1)
    """Maximum size of a JSON body."""
    max_queued_jobs: int = Field(default=100, ge=1)
    """Maximum number of queued jobs; further requests are answered with 429."""
    encoding: Encoding = Encoding()
    """Default of the field `encoding` of requests."""
    max_conversion_pixels: int = Field(default=MAX_CONVERSION_PIXELS, ge=1)
    """Maximum number of pixels, frames × width × height, of a video that is converted to GIF, WebP or PNG files."""
    roles: Mapping[Role, Name] = Field(default_factory=dict[Role, Name])
    """Role → id of the model for requests without a job (`/v1/images/…`, `/v1/faces`) that name no model; by default
    the first suitable one."""


def _choose_name(application: str | None, hosted: list[str]) -> str:
    if application is None and len(hosted) > 1:
        raise ConfigError(
            "application: a name is required for an application that hosts several models or graphs, "
            f"got {', '.join(hosted)}",
            param="application",
        )
    return application or hosted[0]
