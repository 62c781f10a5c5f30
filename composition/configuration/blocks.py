"""The blocks of a configuration file. Each is a Serve application with one deployment."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from composition.configuration.settings import (
    LEGACY_MESSAGE,
    FrontSettings,
    GraphEntry,
    GraphsSettings,
    JobsSettings,
    ModelEntry,
    ModelsSettings,
    StateSettings,
)
from services.errors import ConfigError
from services.limits import shorten
from services.settings import root_paths

BUILDERS: Mapping[str, type[StateSettings]] = {
    "composition.app.models": ModelsSettings,
    "composition.app.graphs": GraphsSettings,
    "composition.app.jobs": JobsSettings,
    "composition.app.front": FrontSettings,
}
"""Import path of a builder → class of its `args`."""
LEGACY_BUILDER = "composition.app.build"
FIXED_NAMES = {JobsSettings: "jobs", FrontSettings: "front"}
"""Names of the applications that cannot be named in the file."""


@dataclass(frozen=True, eq=False)
class Block:
    """One application of a configuration file."""

    raw: Mapping[str, Any]
    """The block as written in the file."""
    settings: StateSettings | None
    """The parsed `args`; None if the application does not belong to this project."""

    @property
    def name(self) -> str:
        return str(self.raw.get("name", "default"))

    @property
    def deployment(self) -> str:
        """Name of the deployment, which must also be the application's name. Raises ConfigError if it is ambiguous."""
        if isinstance(self.settings, ModelsSettings | GraphsSettings):
            return self.settings.name
        return next((name for shape, name in FIXED_NAMES.items() if isinstance(self.settings, shape)), self.name)

    @property
    def models(self) -> Mapping[str, ModelEntry]:
        """Id → model; empty if the application hosts no models."""
        return self.settings.models if isinstance(self.settings, ModelsSettings) else {}

    @property
    def graphs(self) -> Mapping[str, GraphEntry]:
        """Name → graph; empty if the application hosts no graphs."""
        return self.settings.graphs if isinstance(self.settings, GraphsSettings) else {}

    def replace_args(self, args: Mapping[str, Any]) -> "Block":
        """Return a copy of the block with other `args`."""
        settings = None if self.settings is None else type(self.settings).model_validate(args)
        return Block({**self.raw, "args": args}, settings)


def parse_block(raw: Mapping[str, Any], folder: Path) -> Block:
    """Parse an application that Ray's schema has accepted. Raises ConfigError.

    Args:
        raw: the block as written in the file.
        folder: absolute path of the folder that relative paths in `args` refer to.
    """
    builder = str(raw["import_path"]).replace(":", ".")
    if builder == LEGACY_BUILDER:
        raise ConfigError(LEGACY_MESSAGE, param="import_path")
    shape = BUILDERS.get(builder)
    if shape is None:
        return Block(raw, None)
    args: Mapping[str, Any] = raw.get("args") or {}
    try:
        settings = shape.model_validate(args)
        return Block(raw, settings).replace_args(root_paths(args, settings, folder))
    except ValidationError as error:
        raise ConfigError(format_errors(error, f"application {raw.get('name')}: args.")) from error


def format_errors(error: ValidationError, before: str = "") -> str:
    """Return one line `field: problem` for each validation error, with `before` in front of the field."""
    lines: list[str] = []
    for detail in error.errors(include_url=False):
        field = ".".join(str(part) for part in detail["loc"] if part != "[key]")
        problem = detail["msg"].removeprefix("Value error, ")
        if detail["type"] == "extra_forbidden":
            problem = "there is no such field"
        elif detail["type"] == "missing":
            problem = "field required"
        elif detail["type"] != "value_error":
            problem = f"{problem[:1].lower()}{problem[1:]}, got {shorten(detail['input'])}"
        lines.append(f"{before}{field}: {problem}")
    return "\n".join(lines)
