"""Checks across the applications of a configuration, which neither Ray nor a single application can make."""

from collections.abc import Collection, Sequence

from composition.configuration.blocks import Block
from composition.configuration.settings import FrontSettings, GraphEntry, ModelEntry, StateSettings
from composition.graphs.catalogue import BY_NAME
from composition.graphs.face_pose import POSE
from composition.graphs.graph import Graph, Need
from composition.graphs.single import NAME as SINGLE
from services.catalogue import KINDS
from services.errors import ConfigError
from services.limits import shorten
from services.traits import find_traits


def check_blocks(blocks: Sequence[Block]) -> None:
    """Raise ConfigError unless the applications of a file are consistent."""
    for block in blocks:
        if block.settings is not None:
            _check_names(block)
            _check_route(block)
    _check_state(blocks)
    _check_ids(blocks)
    for block in blocks:
        for name, entry in block.models.items():
            _check_defaults(f"models.{name}", entry.defaults, _list_model_fields(entry))
        for name, entry in block.graphs.items():
            graph = _find_graph(block, name, entry)
            _check_defaults(f"graphs.{name}", entry.defaults, graph.request.model_fields if graph else ())
    _check_roles(blocks)


def _check_names(block: Block) -> None:
    wanted = block.deployment
    if block.name != wanted:
        reason = (
            "the value of `application`"
            if getattr(block.settings, "application", None)
            else "the name of what it hosts"
        )
        raise ConfigError(f"application {block.name}: name: must be {wanted}, {reason}", param="name")
    for deployment in block.raw.get("deployments") or ():
        if deployment["name"] != wanted:
            raise ConfigError(
                f"application {block.name}: deployments: the name must be {wanted}, that of the application, got "
                f"{shorten(deployment['name'])}",
                param="deployments",
            )


def _check_route(block: Block) -> None:
    route = block.raw.get("route_prefix", "/")
    if route is not None and not isinstance(block.settings, FrontSettings):
        raise ConfigError(
            f"application {block.name}: route_prefix: must be null, because only the front door serves HTTP, got "
            f"{shorten(route)}",
            param="route_prefix",
        )


def _check_state(blocks: Sequence[Block]) -> None:
    """Raise ConfigError unless the state settings are the same in all applications."""
    ours = [(block.name, block.settings) for block in blocks if block.settings is not None]
    for field in StateSettings.model_fields:
        for name, settings in ours[1:]:
            first, other = getattr(ours[0][1], field), getattr(settings, field)
            if first != other:
                raise ConfigError(
                    f"{field}: must be the same in all applications, but differs in {ours[0][0]} and {name}; write it "
                    "once, and repeat it with a YAML anchor",
                    param=field,
                )


def _check_ids(blocks: Sequence[Block]) -> None:
    """Raise ConfigError unless the names of all models and graphs are unique."""
    owners: dict[str, str] = {}
    for block in blocks:
        hosted = [*(("model", name) for name in block.models), *(("graph", name) for name in block.graphs)]
        for kind, name in hosted:
            owner = f"{kind} of application {block.name}"
            if name in owners:
                raise ConfigError(
                    f"{kind}s.{name}: the name must be unique, but is used by the {owners[name]} and the {owner}",
                    param=f"{kind}s.{name}",
                )
            owners[name] = owner


def _check_defaults(place: str, defaults: Collection[str], fields: Collection[str]) -> None:
    for name in defaults:
        if name not in fields:
            known = ", ".join(sorted(fields)) or "none"
            raise ConfigError(
                f"{place}.defaults: requests have no field {shorten(name)}; the fields are {known}",
                param=f"{place}.defaults",
            )


def _list_model_fields(entry: ModelEntry) -> set[str]:
    """Return the fields of a model's requests, and the pose of a face, which graphs find for a text-to-image model."""
    offers = KINDS[entry.kind].offers
    fields = {name for offer in offers if offer.request is not None for name in offer.request.model_fields}
    return {*fields, POSE} if any(offer.role == "text-to-image" for offer in offers) else fields


def _find_graph(block: Block, name: str, entry: GraphEntry) -> Graph | None:
    """Return a graph; None for the graph of single-model jobs, which has no defaults or roles. Raises ConfigError."""
    if name == SINGLE:
        return None
    if name not in BY_NAME:
        known = ", ".join((*BY_NAME, SINGLE))
        raise ConfigError(
            f"application {block.name}: graphs: must be one of {known}, got {shorten(name)}", param="graphs"
        )
    graph = BY_NAME[name]
    return graph.alternatives.get(entry.scenes_by, graph)


def _check_roles(blocks: Sequence[Block]) -> None:
    """Raise ConfigError unless each role is bound to a model that can take it."""
    models = {name: entry for block in blocks for name, entry in block.models.items()}
    for block in blocks:
        if isinstance(block.settings, FrontSettings):
            for role, model in block.settings.roles.items():
                fitting = [name for name, entry in models.items() if role in _list_roles(entry)]
                _check_role(f"application {block.name}: roles.{role}", model, fitting)
        for name, entry in block.graphs.items():
            graph = _find_graph(block, name, entry)
            needs = {need.role: need for need in graph.roles} if graph else {}
            for role, model in entry.roles.items():
                place = f"graphs.{name}.roles.{role}"
                if role not in needs:
                    raise ConfigError(
                        f"{place}: {name} has no such role; its roles are {', '.join(needs) or 'none'}", param=place
                    )
                _check_role(place, model, [each for each, entry in models.items() if _can_take(entry, needs[role])])


def _check_role(place: str, model: str, fitting: Collection[str]) -> None:
    if model not in fitting:
        known = ", ".join(fitting) or "none is served"
        raise ConfigError(f"{place}: must be a model that can take the role ({known}), got {model}")


def _list_roles(entry: ModelEntry) -> set[str]:
    return set(find_traits(KINDS[entry.kind], entry.settings).roles)


def _can_take(entry: ModelEntry, need: Need) -> bool:
    return need.role in _list_roles(entry) and need.find_offer(KINDS[entry.kind]) is not None
