"""What can be asked for by name, as `GET /v1/models` tells it."""

from collections.abc import Mapping
from typing import Any, cast

from pydantic import BaseModel

from composition.configuration.served import GRAPH, HEALTHY, Assignment, ServedModel, Snapshot
from composition.graphs.graph import Graph
from composition.graphs.single import NAME as SINGLE
from composition.graphs.single import SINGLES
from composition.http.openapi import inline_schema
from composition.http.schemas import ModelObject

HIDDEN = ("models",)
"""Fields of a job of a model alone that choose nothing."""


def list_models(snapshot: Snapshot, created: int) -> list[ModelObject]:
    """Return the graphs that can be asked for, then the models, at last other names that models go by.

    Args:
        snapshot: what is served.
        created: when the server was started, in Unix seconds.
    """
    graphs = [_graph_object(snapshot, name, created) for name in snapshot.names() if name in snapshot.graphs]
    there = {**snapshot.models, **snapshot.aliases}
    return [*graphs, *(_model_object(snapshot, name, served, created) for name, served in there.items())]


def find_graph(name: str, snapshot: Snapshot) -> Graph | None:
    """Return the graph of that name, or the graph that runs a model alone; None if neither is served."""
    if name in snapshot.graphs and name != SINGLE:
        return snapshot.graphs[name].graph
    served = snapshot.find_model(name)
    return SINGLES.get(served.model.kind) if served else None


def _graph_object(snapshot: Snapshot, name: str, created: int) -> ModelObject:
    served = snapshot.graphs[name]
    assignment = snapshot.assign(name, {})
    needed = [assignment.models[need.role].state for need in served.graph.needs]
    return ModelObject(
        id=name,
        created=created,
        kind=GRAPH,
        roles=[need.role for need in served.graph.roles],
        ready=all(state == HEALTHY for state in (served.state, *needed)),
        state=served.state,
        fields=_describe_assignment(assignment),
    )


def _model_object(snapshot: Snapshot, name: str, served: ServedModel, created: int) -> ModelObject:
    return ModelObject(
        id=name,
        created=created,
        kind=served.model.kind,
        roles=[offer.role for offer in served.model.offers],
        ready=served.state == HEALTHY,
        state=served.state,
        fields=_model_fields(snapshot, served),
    )


def _model_fields(snapshot: Snapshot, served: ServedModel) -> dict[str, dict[str, Any]]:
    if served.id in snapshot.names():
        fields = _describe_assignment(snapshot.assign(served.id, {}))
        return {name: schema for name, schema in fields.items() if name not in HIDDEN}
    asked_with = served.model.offers[0].request
    return {} if asked_with is None else _describe_fields(asked_with, served.defaults, served.defaults, served.limits)


def _describe_assignment(assignment: Assignment) -> dict[str, dict[str, Any]]:
    """Describe the fields of a request, those of its stages also where the stage is off by default."""
    stages = {need.at: True for need in assignment.graph.roles if need.at}
    defaults, inside = assignment.complete({}), assignment.complete(stages)
    return _describe_fields(assignment.request, defaults, inside, assignment.limits)


def _describe_fields(
    request: type[BaseModel], defaults: Mapping[str, Any], inside: Mapping[str, Any], limits: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """Return each field's JSON schema, with the defaults and limits that hold here in place of the request class's.

    Args:
        request: the class.
        defaults: field → its default.
        inside: field that is an object → the defaults of its fields.
        limits: field, or `field.field` → the largest value.
    """
    found: dict[str, dict[str, Any]] = inline_schema(request)["properties"]
    _overlay(found, defaults, limits)
    for name, schema in found.items():
        behind = inside.get(name)
        given: Mapping[str, Any] = cast("Mapping[str, Any]", behind) if isinstance(behind, Mapping) else {}
        most = {path.partition(".")[2]: limit for path, limit in limits.items() if path.startswith(f"{name}.")}
        for option in cast("list[dict[str, Any]]", schema.get("anyOf", [schema])):
            _overlay(option.get("properties", {}), given, most)
    return found


def _overlay(properties: dict[str, Any], defaults: Mapping[str, Any], limits: Mapping[str, float]) -> None:
    for name in properties.keys() & defaults.keys():
        properties[name]["default"] = defaults[name]
    for name in properties.keys() & limits.keys():
        properties[name]["maximum"] = min(limits[name], properties[name].get("maximum", limits[name]))
