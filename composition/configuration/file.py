"""Reading a configuration file in Ray Serve's format. All of it is checked before anything is started."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast, get_args

import yaml
from pydantic import BaseModel, ValidationError
from ray.serve.schema import ServeDeploySchema

from composition.configuration.blocks import Block, format_errors, parse_block
from composition.configuration.consistency import check_blocks
from composition.configuration.settings import FrontSettings, GraphEntry, ModelEntry, StateSettings
from composition.configuration.snapshot import Snapshot, build_snapshot, describe_graph, describe_model
from composition.graphs.single import NAME as SINGLE
from services.errors import ConfigError
from services.limits import shorten

LOCAL_CONFIG = Path(__file__).resolve().parents[2] / "serve_config.local.yaml"
CONFIGURED = "CONFIGURED"
"""The state of applications that have not been started."""


@dataclass(frozen=True, eq=False)
class Configuration:
    """The content of a configuration file."""

    raw: Mapping[str, Any]
    """The file without its applications."""
    blocks: tuple[Block, ...]
    """The applications."""

    @property
    def models(self) -> dict[str, ModelEntry]:
        """Id → model, for all applications in order."""
        return {name: entry for block in self.blocks for name, entry in block.models.items()}

    @property
    def graphs(self) -> dict[str, GraphEntry]:
        """Name → graph, for all applications in order."""
        return {name: entry for block in self.blocks for name, entry in block.graphs.items()}

    @property
    def state(self) -> StateSettings:
        """The state settings, equal for all applications. Raises ConfigError if no application belongs to reelgraph."""
        for block in self.blocks:
            if block.settings is not None:
                return block.settings
        raise ConfigError("applications: must have an application of composition.app, got none", param="applications")

    @cached_property
    def snapshot(self) -> Snapshot:
        """The models and graphs that this configuration serves."""
        rows = [
            row
            for block in self.blocks
            for row in (
                *(describe_model(block.name, 0, name, entry) for name, entry in block.models.items()),
                *(describe_graph(block.name, 0, name, entry) for name, entry in block.graphs.items()),
            )
        ]
        return build_snapshot(rows, {block.name: CONFIGURED for block in self.blocks})

    @property
    def document(self) -> dict[str, Any]:
        """The configuration as the content of a file."""
        return {**self.raw, "applications": [dict(block.raw) for block in self.blocks]}


def read_configuration(
    path: Path, host: str | None = None, port: int | None = None, only: Sequence[str] = ()
) -> ServeDeploySchema:
    """Read and check a configuration file, and return it in Ray's schema. Raises ConfigError.

    Args:
        path: the file. Relative paths in it refer to its folder.
        host, port: values that override those of the file.
        only: names of the graphs or models to serve; models that none of them needs are removed.
    """
    configuration = load_configuration(path)
    document = (select_models(configuration, only) if only else configuration).document
    config = ServeDeploySchema.model_validate(document)
    overrides = {"host": host, "port": port}
    http = config.http_options.model_copy(update={k: v for k, v in overrides.items() if v is not None})
    return config.model_copy(update={"http_options": http})


def load_configuration(path: Path = LOCAL_CONFIG) -> Configuration:
    """Read and check a configuration file. Relative paths in it refer to its folder. Raises ConfigError."""
    try:
        return parse_configuration(yaml.safe_load(path.read_text()), path.absolute().parent)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", param=error.param) from error


def parse_configuration(raw: Any, folder: Path) -> Configuration:
    """Check and parse the content of a configuration file. Raises ConfigError.

    Args:
        raw: the content of the YAML file.
        folder: absolute path of the folder that relative paths refer to.
    """
    try:
        ServeDeploySchema.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(format_errors(error)) from error
    except (ImportError, AttributeError) as error:  # Ray imports the function of a policy
        raise ConfigError(f"applications: {error}", param="applications") from error
    unknown = _find_unknown(raw, ServeDeploySchema)
    if unknown:
        raise ConfigError("\n".join(f"{place}: there is no such field" for place in unknown), param=unknown[0])
    if not raw["applications"]:
        raise ConfigError("applications: must have at least 1 application, got 0", param="applications")
    blocks = tuple(parse_block(each, folder) for each in raw["applications"])
    check_blocks(blocks)
    return Configuration({name: value for name, value in raw.items() if name != "applications"}, blocks)


def select_models(configuration: Configuration, only: Sequence[str]) -> Configuration:
    """Remove the models that none of `only` can use, and the graphs that need one of these. Raises ConfigError.

    Args:
        configuration: the whole configuration.
        only: names of graphs, ids of models, or aliases of models.
    """
    snapshot = configuration.snapshot
    models: set[str] = set()
    for name in only:
        model = snapshot.find_model(name)
        if name in snapshot.graphs and name in snapshot.list_names():
            needs = snapshot.graphs[name].graph.roles
            models |= {served.id for need in needs for served in snapshot.list_candidates(need)}
        elif model is not None:
            models.add(model.id)
        else:
            known = ", ".join(dict.fromkeys((*snapshot.list_names(), *snapshot.models)))
            raise ConfigError(f"only: must be one of {known}, got {shorten(name)}", param="only")
    blocks = tuple(_remove_roles(block, models) for block in _filter_blocks(configuration.blocks, "models", models))
    graphs = {*Configuration({}, blocks).snapshot.list_names(), SINGLE}
    return Configuration(configuration.raw, _filter_blocks(blocks, "graphs", graphs))


def _filter_blocks(blocks: Sequence[Block], field: str, names: set[str]) -> tuple[Block, ...]:
    """Keep only `names` in a field of the blocks' `args`, and remove the blocks whose field becomes empty."""
    result: list[Block] = []
    for block in blocks:
        hosted = getattr(block, field)
        kept = {name: raw for name, raw in block.raw["args"][field].items() if name in names} if hosted else {}
        if kept:
            result.append(block.replace_args({**block.raw["args"], field: kept}))
        elif not hosted:
            result.append(block)
    return tuple(result)


def _remove_roles(block: Block, models: set[str]) -> Block:
    """Remove from a block the roles that are bound to a model that is not in `models`."""

    def filter_roles(entry: Mapping[str, Any] | None) -> dict[str, Any]:
        fields = dict(entry or {})
        if "roles" in fields:
            fields["roles"] = {role: name for role, name in fields["roles"].items() if name in models}
        return fields

    if isinstance(block.settings, FrontSettings):
        return block.replace_args(filter_roles(block.raw.get("args")))
    if not block.graphs:
        return block
    args = block.raw["args"]
    graphs = {name: filter_roles(entry) for name, entry in args["graphs"].items()}
    return block.replace_args({**args, "graphs": graphs})


def _find_unknown(raw: Any, schema: type[BaseModel], place: str = "") -> list[str]:
    """Return the paths of the keys that are not in Ray's schema, which Ray would silently ignore."""
    if not isinstance(raw, Mapping):
        return []
    unknown: list[str] = []
    for key, value in cast("Mapping[str, Any]", raw).items():
        path = f"{place}.{key}" if place else str(key)
        if key not in schema.model_fields:
            unknown.append(path)
            continue
        schemas = _list_models(schema.model_fields[key].annotation)
        items = [(path, value)] if not isinstance(value, list) else _name_items(path, cast("list[Any]", value))
        unknown += [each for one in schemas for where, item in items for each in _find_unknown(item, one, where)]
    return unknown


def _name_items(path: str, items: list[Any]) -> list[tuple[str, Any]]:
    """Return the path of each item of a list, by its `name` if it has one, and the item."""
    return [
        (f"{path}.{item['name'] if isinstance(item, Mapping) and 'name' in item else index}", item)
        for index, item in enumerate(items)
    ]


def _list_models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _list_models(part)]
