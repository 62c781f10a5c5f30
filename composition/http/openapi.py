"""The bodies of requests as the OpenAPI document describes them: they are read by hand, unseen by FastAPI."""

from collections.abc import Mapping
from typing import Any, cast

from pydantic import BaseModel

from composition.graphs.request import GraphRequest
from composition.http.bodies import REFERENCE_NAME
from composition.media.limits import MediaKind


def file_body() -> dict[str, Any]:
    """Describe an upload."""
    file = {"type": "string", "format": "binary"}
    schema = {"type": "object", "required": ["file"], "properties": {"file": file, "purpose": {"type": "string"}}}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def video_body(requests: Mapping[str, type[GraphRequest]]) -> dict[str, Any]:
    """Describe the bodies that a video is asked for with: one schema for each graph, and each model alone."""
    schemas: list[dict[str, Any]] = []
    for model, request_type in requests.items():
        schema = inline_schema(request_type)
        named = {"type": "string", "enum": [model]}
        kinds: dict[str, MediaKind] = dict(request_type.MEDIA)
        if request_type.REFERENCE:
            kinds[REFERENCE_NAME] = kinds[request_type.REFERENCE]
        media = {name: _media_schema(kind) for name, kind in kinds.items()}
        schema["properties"] = {"model": named, **schema["properties"], **media}
        schema["required"] = ["model"]
        schemas.append(schema)
    return _either({"oneOf": schemas})


def picture_body(request_type: type[BaseModel], media: Mapping[str, MediaKind], *required: str) -> dict[str, Any]:
    """Describe the body of a request that is answered at once.

    Args:
        request_type: its fields.
        media: the media fields beside them, with what each holds.
        required: the fields that must be there.
    """
    schema = inline_schema(request_type)
    schema["properties"] |= {name: _media_schema(kind) for name, kind in media.items()}
    schema["required"] = list(required)
    return _either(schema)


def _either(schema: dict[str, Any]) -> dict[str, Any]:
    content = {kind: {"schema": schema} for kind in ("application/json", "multipart/form-data")}
    return {"requestBody": {"required": True, "content": content}}


def inline_schema(request_type: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON schema with what it refers to in place: its references would point to the root of a document."""
    schema = request_type.model_json_schema()
    parts: dict[str, Any] = schema.pop("$defs", {})

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


def _media_schema(kind: MediaKind) -> dict[str, Any]:
    one = {"type": "string", "description": "A file id, a data: URL, or in a form the file itself."}
    if kind != "pictures":
        return one
    several = "Of pictures, a zip archive or several: a JSON array, or in a form the same name several times."
    return {"anyOf": [one, {"type": "array", "items": one}], "description": several}
