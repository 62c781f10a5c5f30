"""The graphs and models that requests can name, as in `GET /v1/models` and the OpenAPI document; pages of lists."""

import contextlib
from collections.abc import Mapping
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field

from composition.configuration.served import HEALTHY, Assignment, ServedModel
from composition.configuration.snapshot import GRAPH, Snapshot
from composition.graphs.graph import Graph, Need
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
"""Path of a request that is answered without a job → the role of the model, and the class of the body."""
NO_DEFAULTS: Mapping[str, Any] = {}
MAX_PAGE = 100
"""Maximum number of entries in a page of a list."""
HIDDEN = ("models",)
"""Fields that have no effect in a job of a model alone."""


class PageQuery(BaseModel):
    """The query parameters of a list."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 20
    """Maximum number of entries."""
    after: str | None = None
    """Id of the last entry of the previous page."""
    order: Order = "desc"
    """Order by time of creation."""

    @property
    def page(self) -> Page:
        return Page(self.limit, self.after, self.order)


def list_models(snapshot: Snapshot, created: int, defaults: Mapping[str, Any] = NO_DEFAULTS) -> list[ModelObject]:
    """Return the graphs, then the models, then the aliases of models.

    Args:
        snapshot: the served graphs and models.
        created: time when the server was started, in seconds since 1970, UTC.
        defaults: default values of fields of all graphs and models.
    """
    graphs = [
        _graph_object(snapshot, name, created, defaults) for name in snapshot.list_names() if name in snapshot.graphs
    ]
    models = {**snapshot.models, **snapshot.aliases}
    return [*graphs, *(_model_object(snapshot, name, served, created, defaults) for name, served in models.items())]


def find_graph(name: str, snapshot: Snapshot) -> Graph | None:
    """Return the graph with this name, or the graph that runs a model alone, or None if neither is served."""
    if name in snapshot.graphs and name != SINGLE:
        return snapshot.graphs[name].graph
    served = snapshot.find_model(name)
    return SINGLES.get(served.model.kind) if served else None


def _graph_object(snapshot: Snapshot, name: str, created: int, defaults: Mapping[str, Any]) -> ModelObject:
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
        fields=describe_request(assignment.add_defaults(defaults))["properties"],
    )


def _model_object(
    snapshot: Snapshot, name: str, served: ServedModel, created: int, defaults: Mapping[str, Any]
) -> ModelObject:
    return ModelObject(
        id=name,
        created=created,
        kind=served.model.kind,
        roles=list(served.offered),
        ready=served.state == HEALTHY,
        state=served.state,
        fields=_model_fields(snapshot, served, defaults),
    )


def _model_fields(snapshot: Snapshot, served: ServedModel, defaults: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    if served.id in snapshot.list_names():
        fields = describe_request(snapshot.assign_models(served.id, {}).add_defaults(defaults))["properties"]
        return {name: schema for name, schema in fields.items() if name not in HIDDEN}
    request_type = served.model.offers[0].request
    return {} if request_type is None else describe_model_request(request_type, served)["properties"]


def describe_bodies(
    snapshot: Snapshot, roles: Mapping[Role, str], defaults: Mapping[str, Any] = NO_DEFAULTS
) -> dict[str, dict[str, Any]]:
    """Return path → the OpenAPI description of its body, with the defaults and limits of the served models.

    Args:
        snapshot: the served graphs and models.
        roles: role → id of the configured model for requests that are answered without a job.
        defaults: default values of fields of all requests for videos.
    """
    assignments = [
        snapshot.assign_models(name, {}).add_defaults(defaults) for name in (*snapshot.list_names(), *snapshot.aliases)
    ]
    schemas = [video_schema(each.name, each.request, describe_request(each)) for each in assignments]
    bodies = {"/v1/videos": video_body(schemas)}
    for path, (need, request_type) in ANSWERED_AT_ONCE.items():
        with contextlib.suppress(NotFound):  # no such model is served: the description has the limits of the class
            served = snapshot.choose_model(need, None, roles.get(need.role))
            bodies[path] = picture_body(request_type, describe_model_request(request_type, served))
    return bodies


def describe_request(assignment: Assignment) -> dict[str, Any]:
    """Return the JSON schema of a request, with the defaults and limits of the served models instead of the class's.

    It includes the fields of stages that are off by default, and leaves out those that these models cannot use.
    """
    stages = {need.at: True for need in assignment.graph.roles if need.at}
    defaults, nested_defaults = assignment.complete_fields({}), assignment.complete_fields(stages)
    schema = inline_schema(assignment.request)
    for name in assignment.request.list_unused(assignment.models):
        schema["properties"].pop(name, None)
    return _replace_defaults_and_limits(schema, defaults, nested_defaults, assignment.limits)


def describe_model_request(request: type[BaseModel], served: ServedModel) -> dict[str, Any]:
    """Return the JSON schema of a request that is answered without a job, with the defaults and limits of its model."""
    return _replace_defaults_and_limits(inline_schema(request), served.defaults, served.defaults, served.limits)


def _replace_defaults_and_limits(
    schema: dict[str, Any], defaults: Mapping[str, Any], nested_defaults: Mapping[str, Any], limits: Mapping[str, float]
) -> dict[str, Any]:
    """Replace the defaults and limits in a schema, and return it.

    Args:
        schema: the schema of a class of requests; it is changed.
        defaults: field → default.
        nested_defaults: field that is an object → the defaults of its fields.
        limits: field, or `field.field` → the largest allowed value.
    """
    properties: dict[str, dict[str, Any]] = schema["properties"]
    _replace_values(properties, defaults, limits)
    if "required" in schema:
        schema["required"] = [name for name in schema["required"] if name not in defaults]
    for name, described in properties.items():
        value = nested_defaults.get(name)
        nested: Mapping[str, Any] = cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}
        nested_limits = {path.partition(".")[2]: limit for path, limit in limits.items() if path.startswith(f"{name}.")}
        for option in cast("list[dict[str, Any]]", described.get("anyOf", [described])):
            _replace_values(option.get("properties", {}), nested, nested_limits)
    return schema


def _replace_values(properties: dict[str, Any], defaults: Mapping[str, Any], limits: Mapping[str, float]) -> None:
    for name in properties.keys() & defaults.keys():
        properties[name]["default"] = defaults[name]
    for name in properties.keys() & limits.keys():
        properties[name]["maximum"] = min(limits[name], properties[name].get("maximum", limits[name]))
