"""What can be asked for by name, as `GET /v1/models` and the OpenAPI document tell it, and which part of a list."""

import contextlib
from collections.abc import Mapping
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field

from composition.configuration.served import HEALTHY, Assignment, ServedModel
from composition.configuration.snapshot import GRAPH, Snapshot
from composition.graphs.graph import Need
from composition.graphs.request import GraphRequest
from composition.graphs.single import NAME as SINGLE
from composition.graphs.single import SINGLES
from composition.http.faces import FaceRequest
from composition.http.image_edit import ImageEditRequest
from composition.http.image_generation import ImageGenerationRequest
from composition.http.openapi import inline_schema, picture_body, video_body, video_schema
from composition.http.schemas import ModelObject
from composition.records.store import Order, Page
from services.errors import NotFound
from services.flux.request import FluxRequest
from services.model import Role
from services.qwen_edit.request import EditRequest

ANSWERED_AT_ONCE: Mapping[str, tuple[Need, type[BaseModel]]] = {
    "/v1/images/generations": (Need("text-to-image", FluxRequest), ImageGenerationRequest),
    "/v1/images/edits": (Need("guided-edit", EditRequest), ImageEditRequest),
    "/v1/faces": (Need("face"), FaceRequest),
}
"""Path of requests that a model answers at once → the role that it takes, and the class of their bodies."""
MAX_PAGE = 100
"""Entries of a part of a list."""
HIDDEN = ("models",)
"""Fields of a job of a model alone that choose nothing."""


class Paging(BaseModel):
    """The query of a list."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 20
    """How many at most."""
    after: str | None = None
    """The id of the last one seen."""
    order: Order = "desc"
    """By the time of creation."""

    def page(self) -> Page:
        return Page(self.limit, self.after, self.order)


def list_models(snapshot: Snapshot, created: int) -> list[ModelObject]:
    """Return the graphs that can be asked for, then the models, at last other names that models go by.

    Args:
        snapshot: what is served.
        created: when the server was started, in Unix seconds.
    """
    graphs = [_graph_object(snapshot, name, created) for name in snapshot.list_names() if name in snapshot.graphs]
    there = {**snapshot.models, **snapshot.aliases}
    return [*graphs, *(_model_object(snapshot, name, served, created) for name, served in there.items())]


def find_request(name: str, snapshot: Snapshot) -> type[GraphRequest] | None:
    """Return the class of the requests for a graph or a model alone; None where neither is served."""
    if name in snapshot.graphs and name != SINGLE:
        return snapshot.graphs[name].graph.request
    served = snapshot.find_model(name)
    graph = SINGLES.get(served.model.kind) if served else None
    return graph.request if graph else None


def _graph_object(snapshot: Snapshot, name: str, created: int) -> ModelObject:
    served = snapshot.graphs[name]
    assignment = snapshot.assign_models(name, {})
    needed = [assignment.models[need.role].state for need in served.graph.needs]
    return ModelObject(
        id=name,
        created=created,
        kind=GRAPH,
        roles=[need.role for need in served.graph.roles],
        ready=all(state == HEALTHY for state in (served.state, *needed)),
        state=served.state,
        fields=describe_request(assignment)["properties"],
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
    if served.id in snapshot.list_names():
        fields = describe_request(snapshot.assign_models(served.id, {}))["properties"]
        return {name: schema for name, schema in fields.items() if name not in HIDDEN}
    asked_with = served.model.offers[0].request
    return {} if asked_with is None else describe_answered(asked_with, served)["properties"]


def describe_bodies(snapshot: Snapshot, roles: Mapping[Role, str]) -> dict[str, dict[str, Any]]:
    """Return path → the body that is posted to it, with the defaults and limits of what is served.

    Args:
        snapshot: what is served.
        roles: role → id of the model that answers at once, where the configuration names one.
    """
    assignments = [snapshot.assign_models(name, {}) for name in (*snapshot.list_names(), *snapshot.aliases)]
    schemas = [video_schema(each.name, each.request, describe_request(each)) for each in assignments]
    bodies = {"/v1/videos": video_body(schemas)}
    for path, (need, request_type) in ANSWERED_AT_ONCE.items():
        with contextlib.suppress(NotFound):  # none is served, and the class's own limits are told
            served = snapshot.choose_model(need, None, roles.get(need.role))
            bodies[path] = picture_body(request_type, describe_answered(request_type, served))
    return bodies


def describe_request(assignment: Assignment) -> dict[str, Any]:
    """Return the JSON schema of a request, with the defaults and limits of what is served in place of its class's own.

    The fields of its stages are described also where the stage is off by default.
    """
    stages = {need.at: True for need in assignment.graph.roles if need.at}
    defaults, inside = assignment.complete_fields({}), assignment.complete_fields(stages)
    return _overlay_all(inline_schema(assignment.request), defaults, inside, assignment.limits)


def describe_answered(request: type[BaseModel], served: ServedModel) -> dict[str, Any]:
    """Return the JSON schema of a request that a model answers at once, with the defaults and limits of that model."""
    return _overlay_all(inline_schema(request), served.defaults, served.defaults, served.limits)


def _overlay_all(
    schema: dict[str, Any], defaults: Mapping[str, Any], inside: Mapping[str, Any], limits: Mapping[str, float]
) -> dict[str, Any]:
    """Put the defaults and limits that hold here in place of the request class's.

    Args:
        schema: of the class.
        defaults: field → its default.
        inside: field that is an object → the defaults of its fields.
        limits: field, or `field.field` → the largest value.
    """
    found: dict[str, dict[str, Any]] = schema["properties"]
    _overlay(found, defaults, limits)
    if "required" in schema:
        schema["required"] = [name for name in schema["required"] if name not in defaults]
    for name, described in found.items():
        behind = inside.get(name)
        given: Mapping[str, Any] = cast("Mapping[str, Any]", behind) if isinstance(behind, Mapping) else {}
        most = {path.partition(".")[2]: limit for path, limit in limits.items() if path.startswith(f"{name}.")}
        for option in cast("list[dict[str, Any]]", described.get("anyOf", [described])):
            _overlay(option.get("properties", {}), given, most)
    return schema


def _overlay(properties: dict[str, Any], defaults: Mapping[str, Any], limits: Mapping[str, float]) -> None:
    for name in properties.keys() & defaults.keys():
        properties[name]["default"] = defaults[name]
    for name in properties.keys() & limits.keys():
        properties[name]["maximum"] = min(limits[name], properties[name].get("maximum", limits[name]))
