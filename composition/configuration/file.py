"""Reading a configuration file: Ray Serve's own form, of which every part is checked before anything is started."""

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
from composition.configuration.served import Snapshot, build_snapshot, describe_graph, describe_model
from composition.configuration.settings import FrontSettings, GraphEntry, ModelEntry, StateSettings
from composition.graphs.single import NAME as SINGLE
from services.errors import ConfigError
from services.limits import shown

LOCAL_CONFIG = Path(__file__).resolve().parents[2] / "serve_config.local.yaml"
CONFIGURED = "CONFIGURED"
"""The state of what has not been started."""


@dataclass(frozen=True, eq=False)
class Configuration:
    """A whole file."""

    raw: Mapping[str, Any]
    """All but the applications, as it is written."""
    blocks: tuple[Block, ...]

    @property
    def models(self) -> dict[str, ModelEntry]:
        """Id → the model, of all applications, in their order."""
        return {name: entry for block in self.blocks for name, entry in block.models.items()}

    @property
    def graphs(self) -> dict[str, GraphEntry]:
        """Name → the graph, of all applications, in their order."""
        return {name: entry for block in self.blocks for name, entry in block.graphs.items()}

    @property
    def state(self) -> StateSettings:
        """Where all state lies. Raises ConfigError where no application is this project's."""
        for block in self.blocks:
            if block.settings is not None:
                return block.settings
        raise ConfigError("applications: none of them is of composition.app", param="applications")

    @cached_property
    def snapshot(self) -> Snapshot:
        """What would be served."""
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
        """What a file of it would hold."""
        return {**self.raw, "applications": [dict(block.raw) for block in self.blocks]}


def read_configuration(
    path: Path, host: str | None = None, port: int | None = None, only: Sequence[str] = ()
) -> ServeDeploySchema:
    """Read a configuration file for Ray. Raises ConfigError.

    Args:
        path: the file. Relative paths in it begin at its folder.
        host, port: others than it says.
        only: graphs or models; what none of them needs is left out.
    """
    configuration = load_configuration(path)
    document = (narrow(configuration, only) if only else configuration).document
    config = ServeDeploySchema.model_validate(document)
    overrides = {"host": host, "port": port}
    http = config.http_options.model_copy(update={k: v for k, v in overrides.items() if v is not None})
    return config.model_copy(update={"http_options": http})


def load_configuration(path: Path = LOCAL_CONFIG) -> Configuration:
    """Read and check a configuration file, whose relative paths begin at its folder. Raises ConfigError."""
    try:
        return parse_configuration(yaml.safe_load(path.read_text()), path.absolute().parent)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", param=error.param) from error


def parse_configuration(raw: Any, folder: Path) -> Configuration:
    """Check what a configuration file holds, and take relative paths in it from `folder`. Raises ConfigError."""
    try:
        ServeDeploySchema.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(format_errors(error)) from error
    except (ImportError, AttributeError) as error:  # of a policy's function, which Ray imports
        raise ConfigError(f"applications: {error}", param="applications") from error
    unknown = _find_unknown(raw, ServeDeploySchema)
    if unknown:
        raise ConfigError("\n".join(f"{place}: there is no such field" for place in unknown), param=unknown[0])
    if not raw["applications"]:
        raise ConfigError("applications: there are none", param="applications")
    blocks = tuple(parse_block(each, folder) for each in raw["applications"])
    check_blocks(blocks)
    return Configuration({name: value for name, value in raw.items() if name != "applications"}, blocks)


def narrow(configuration: Configuration, only: Sequence[str]) -> Configuration:
    """Leave out the models that none of `only` can use, and what cannot be served without them. Raises ConfigError.

    Args:
        configuration: all that there is.
        only: names of graphs, ids of models, or other names that jobs of a model go by.
    """
    there = configuration.snapshot
    kept: set[str] = set()
    for name in only:
        model = there.find_model(name)
        if name in there.graphs and name in there.list_names():
            needs = there.graphs[name].graph.roles
            kept |= {served.id for need in needs for served in there.list_candidates(need)}
        elif model is not None:
            kept.add(model.id)
        else:
            known = ", ".join(dict.fromkeys((*there.list_names(), *there.models)))
            raise ConfigError(f"only: there is no {shown(name)}; there are {known}", param="only")
    blocks = tuple(_remove_roles(block, kept) for block in _filter_blocks(configuration.blocks, "models", kept))
    graphs = {*Configuration({}, blocks).snapshot.list_names(), SINGLE}
    return Configuration(configuration.raw, _filter_blocks(blocks, "graphs", graphs))


def _filter_blocks(blocks: Sequence[Block], field: str, names: set[str]) -> tuple[Block, ...]:
    """Return the blocks with only `names` in a field of their `args`, and without those that then have none."""
    found: list[Block] = []
    for block in blocks:
        hosted = getattr(block, field)
        left = {name: raw for name, raw in block.raw["args"][field].items() if name in names} if hosted else {}
        if left:
            found.append(block.replace_args({**block.raw["args"], field: left}))
        elif not hosted:
            found.append(block)
    return tuple(found)


def _remove_roles(block: Block, models: set[str]) -> Block:
    """Return a block without roles of models that are left out."""

    def bound(entry: Mapping[str, Any] | None) -> dict[str, Any]:
        fields = dict(entry or {})
        if "roles" in fields:
            fields["roles"] = {role: name for role, name in fields["roles"].items() if name in models}
        return fields

    if isinstance(block.settings, FrontSettings):
        return block.replace_args(bound(block.raw.get("args")))
    if not block.graphs:
        return block
    args = block.raw["args"]
    return block.replace_args({**args, "graphs": {name: bound(entry) for name, entry in args["graphs"].items()}})


def _find_unknown(raw: Any, schema: type[BaseModel], place: str = "") -> list[str]:
    """Return the keys that Ray would pass over in silence, by their places."""
    if not isinstance(raw, Mapping):
        return []
    unknown: list[str] = []
    for key, value in cast("Mapping[str, Any]", raw).items():
        at = f"{place}.{key}" if place else str(key)
        if key not in schema.model_fields:
            unknown.append(at)
            continue
        shapes = _list_models(schema.model_fields[key].annotation)
        parts = [(at, value)] if not isinstance(value, list) else _name_items(at, cast("list[Any]", value))
        unknown += [each for shape in shapes for where, part in parts for each in _find_unknown(part, shape, where)]
    return unknown


def _name_items(at: str, parts: list[Any]) -> list[tuple[str, Any]]:
    """Return each part with its place; an application or deployment is known by its name."""
    return [
        (f"{at}.{part['name'] if isinstance(part, Mapping) and 'name' in part else index}", part)
        for index, part in enumerate(parts)
    ]


def _list_models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _list_models(part)]
