"""The bodies of requests as the OpenAPI document describes them: they are read by hand, unseen by FastAPI."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic import BaseModel

from composition.graphs.request import GraphRequest
from composition.http.bodies import REFERENCE_NAME, VideoBody
from composition.http.descriptions import describe_fields, find_classes, wire_name
from composition.media.limits import MediaKind


def file_body() -> dict[str, Any]:
    """Describe an upload."""
    file = {"type": "string", "format": "binary"}
    schema = {"type": "object", "required": ["file"], "properties": {"file": file, "purpose": {"type": "string"}}}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def video_body(schemas: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Describe the bodies that a video is asked for with, by the schema of each: see `video_schema`."""
    return _either({"oneOf": list(schemas)})


def video_schema(name: str, request_type: type[GraphRequest], schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of the body that a video of one graph, or of a model alone, is asked for with.

    Args:
        name: of the graph or the model.
        request_type: the class of its requests.
        schema: of the fields, as `inline_schema` gives it.
    """
    kinds: dict[str, MediaKind] = dict(request_type.MEDIA)
    if request_type.REFERENCE:
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
    """Describe the body of a request that is answered at once.

    Args:
        request_type: the class of the requests, with `MEDIA`.
        schema: of the fields, where it is another than the class's own.
    """
    schema = schema or inline_schema(request_type)
    kinds = cast("Mapping[str, MediaKind]", getattr(request_type, "MEDIA"))  # noqa: B009
    media = {name: _media_schema(kind, schema["properties"][name]) for name, kind in kinds.items()}
    return _either({**schema, "properties": {**schema["properties"], **media}})


def _either(schema: dict[str, Any]) -> dict[str, Any]:
    content = {kind: {"schema": schema} for kind in ("application/json", "multipart/form-data")}
    return {"requestBody": {"required": True, "content": content}}


def inline_schema(request_type: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON schema with a description of each field, and with what it refers to in place.

    References would point to the root of a document.
    """
    schema = request_type.model_json_schema()
    parts: dict[str, Any] = schema.pop("$defs", {})
    for kind in find_classes(request_type):
        part: dict[str, Any] = schema if kind is request_type else parts.get(kind.__name__, {})
        texts = describe_fields(kind)
        for name, field in kind.model_fields.items():
            if name in texts and (described := part.get("properties", {}).get(wire_name(name, field))) is not None:
                described["description"] = texts[name]

    def inlined(node: Any) -> Any:
        if isinstance(node, list):
            return [inlined(each) for each in cast("list[Any]", node)]
        if not isinstance(node, dict):
            return node
        given = cast("dict[str, Any]", node)
        reference = str(given.get("$ref", ""))
        rest = {name: inlined(value) for name, value in given.items() if name != "$ref"}
        return {**inlined(parts[reference.rpartition("/")[2]]), **rest} if reference else rest

    return inlined(schema)


def _media_schema(kind: MediaKind, described: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a media field, with its description and a default that it has."""
    form = "A file id, a data: URL, or in a form the file itself."
    one = {"type": "string", "description": form}
    more = {name: described[name] for name in ("title",) if name in described}
    if kind != "pictures":
        return {**more, **one, "description": f"{described['description']} {form}"}
    several = "Of pictures, a zip archive or several: a JSON array, or in a form the same name several times."
    text = f"{described['description']} {several}"
    return {**more, "anyOf": [one, {"type": "array", "items": one}], "description": text}
