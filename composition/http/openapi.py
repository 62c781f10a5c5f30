"""OpenAPI schemas of request bodies, which FastAPI cannot derive because the routes parse the bodies themselves."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic import BaseModel

from composition.graphs.request import GraphRequest
from composition.http.bodies import REFERENCE_NAME, VideoBody
from composition.http.descriptions import describe_fields, find_classes, wire_name
from composition.media.limits import MediaKind


def file_body() -> dict[str, Any]:
    """Return the OpenAPI description of the body of an upload."""
    file = {"type": "string", "format": "binary"}
    schema = {"type": "object", "required": ["file"], "properties": {"file": file, "purpose": {"type": "string"}}}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def video_body(schemas: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the OpenAPI description of the body of a request for a video: one of the schemas from `video_schema`."""
    return _accept_json_and_forms({"oneOf": list(schemas)})


def video_schema(name: str, request_type: type[GraphRequest], schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a request for a video by one graph, or by a model alone.

    Args:
        name: name of the graph, or id of the model.
        request_type: the class of its requests.
        schema: the schema of that class, from `inline_schema`.
    """
    kinds: dict[str, MediaKind] = {
        field: kind for field, kind in request_type.MEDIA.items() if field in schema["properties"]
    }
    if request_type.REFERENCE in kinds:
        kinds[REFERENCE_NAME] = kinds[request_type.REFERENCE]
    shared: dict[str, Any] = inline_schema(VideoBody)["properties"]
    properties = {"model": {**shared["model"], "enum": [name]}, **schema["properties"]}
    if request_type.takes_seconds():
        properties["seconds"] = shared["seconds"]
    properties |= {
        field: _media_schema(kind, {**shared, **schema["properties"]}[field]) for field, kind in kinds.items()
    }
    required = [field for field in schema.get("required", []) if field != request_type.REFERENCE]
    return {**schema, "properties": properties, "required": ["model", *required]}


def picture_body(request_type: type[BaseModel], schema: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the OpenAPI description of the body of a request that is answered without a job.

    Args:
        request_type: the class of the requests, with `MEDIA`.
        schema: the schema of its fields; by default that of the class.
    """
    schema = schema or inline_schema(request_type)
    kinds = cast("Mapping[str, MediaKind]", getattr(request_type, "MEDIA"))  # noqa: B009
    media = {name: _media_schema(kind, schema["properties"][name]) for name, kind in kinds.items()}
    return _accept_json_and_forms({**schema, "properties": {**schema["properties"], **media}})


def _accept_json_and_forms(schema: dict[str, Any]) -> dict[str, Any]:
    content = {kind: {"schema": schema} for kind in ("application/json", "multipart/form-data")}
    return {"requestBody": {"required": True, "content": content}}


def inline_schema(request_type: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON schema of a class, with a description of each field and without references.

    References are replaced by the schemas that they refer to, because they are relative to the root of a document.
    """
    schema = request_type.model_json_schema()
    parts: dict[str, Any] = schema.pop("$defs", {})
    for kind in find_classes(request_type):
        part: dict[str, Any] = schema if kind is request_type else parts.get(kind.__name__, {})
        texts = describe_fields(kind)
        for name, field in kind.model_fields.items():
            if name in texts and (described := part.get("properties", {}).get(wire_name(name, field))) is not None:
                described["description"] = texts[name]

    def replace_references(node: Any) -> Any:
        if isinstance(node, list):
            return [replace_references(each) for each in cast("list[Any]", node)]
        if not isinstance(node, dict):
            return node
        given = cast("dict[str, Any]", node)
        reference = str(given.get("$ref", ""))
        rest = {name: replace_references(value) for name, value in given.items() if name != "$ref"}
        return {**replace_references(parts[reference.rpartition("/")[2]]), **rest} if reference else rest

    return replace_references(schema)


def _media_schema(kind: MediaKind, described: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a media field, with the title and description in `described`."""
    accepted = "A file id, a data: URL, or a file of the form."
    one = {"type": "string", "description": accepted}
    more = {name: described[name] for name in ("title",) if name in described}
    if kind != "pictures":
        return {**more, **one, "description": f"{described['description']} {accepted}"}
    several = "A zip archive of pictures, or several pictures: a JSON array, or a repeated name in a form."
    text = f"{described['description']} {several}"
    return {**more, "anyOf": [one, {"type": "array", "items": one}], "description": text}
