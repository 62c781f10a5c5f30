"""The blocks of a configuration file: each is an application, and says what one deployment hosts."""

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
from services.limits import shown
from services.settings import root_paths

BUILDERS: Mapping[str, type[StateSettings]] = {
    "composition.app.models": ModelsSettings,
    "composition.app.graphs": GraphsSettings,
    "composition.app.jobs": JobsSettings,
    "composition.app.front": FrontSettings,
}
"""Import path of a builder → what its `args` are."""
LEGACY_BUILDER = "composition.app.build"
FIXED_NAMES = {JobsSettings: "jobs", FrontSettings: "front"}
"""What applications are called that host one thing that is always the same."""


@dataclass(frozen=True, eq=False)
class Block:
    """One application of a file."""

    raw: Mapping[str, Any]
    """As it is written."""
    settings: StateSettings | None
    """What its `args` say; None where it is not an application of this project."""

    @property
    def name(self) -> str:
        return str(self.raw.get("name", "default"))

    @property
    def deployment(self) -> str:
        """The name of its deployment, which its own name must be too. Raises ConfigError where it is not decided."""
        if isinstance(self.settings, ModelsSettings | GraphsSettings):
            return self.settings.name
        return next((name for shape, name in FIXED_NAMES.items() if isinstance(self.settings, shape)), self.name)

    @property
    def models(self) -> Mapping[str, ModelEntry]:
        """Id → the model, where it hosts models."""
        return self.settings.models if isinstance(self.settings, ModelsSettings) else {}

    @property
    def graphs(self) -> Mapping[str, GraphEntry]:
        """Name → the graph, where it hosts graphs."""
        return self.settings.graphs if isinstance(self.settings, GraphsSettings) else {}

    def replace_args(self, args: Mapping[str, Any]) -> "Block":
        """Return the block with other `args`."""
        settings = None if self.settings is None else type(self.settings).model_validate(args)
        return Block({**self.raw, "args": args}, settings)


def parse_block(raw: Mapping[str, Any], folder: Path) -> Block:
    """Read an application of a file that Ray's schema has passed. Raises ConfigError.

    Args:
        raw: as it is written.
        folder: where relative paths in its `args` begin, absolute.
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
    """Say what is wrong in which field, a line for each, after `before`."""
    lines: list[str] = []
    for found in error.errors(include_url=False):
        place = ".".join(str(part) for part in found["loc"] if part != "[key]")
        words = found["msg"].removeprefix("Value error, ")
        if found["type"] == "extra_forbidden":
            words = "there is no such field"
        elif found["type"] == "missing":
            words = "field required"
        elif found["type"] != "value_error":
            words = f"{words[:1].lower()}{words[1:]}, got {shown(found['input'])}"
        lines.append(f"{before}{place}: {words}")
    return "\n".join(lines)
