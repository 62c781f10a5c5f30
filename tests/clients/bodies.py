"""What the server of the client's tests is asked, read by our server's own classes."""

from collections.abc import Mapping
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile

from composition.graphs.catalogue import BY_NAME
from composition.graphs.request import GraphRequest
from composition.graphs.single import SINGLES
from composition.http.bodies import PENDING, REFERENCE_NAME
from composition.http.validation import parse_fields
from services.catalogue import MODELS
from services.errors import InvalidParameter

REQUESTS: dict[str, type[GraphRequest]] = {
    **{name: graph.request for name, graph in BY_NAME.items()},
    **{kind: graph.request for kind, graph in SINGLES.items()},
    **{alias: SINGLES[model.kind].request for model in MODELS for alias in model.aliases},
}
"""What may be asked for by name → the class of its requests. Any other name is the id of a model of some kind."""


async def read_body(request: Request) -> tuple[dict[str, Any], list[tuple[str, bytes]]]:
    """The fields of a body, as they came, and the files of a form."""
    if request.headers["content-type"] == "application/json":
        return await request.json(), []
    fields: dict[str, Any] = {}
    files: list[tuple[str, bytes]] = []
    async with request.form() as form:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                files.append((name, await value.read()))
            else:
                add_text(fields, name, value)
    return fields, files


def add_text(fields: dict[str, Any], name: str, value: str) -> None:
    """A name that comes again makes a list."""
    fields[name] = [*_as_list(fields[name]), value] if name in fields else value


def check_video(fields: Mapping[str, Any]) -> None:
    """Read a request for a video as the server does. Raises InvalidParameter."""
    name = fields["model"]
    if name in REQUESTS:
        _parse_video(REQUESTS[name], fields)
        return
    refused: list[InvalidParameter] = []
    for graph in SINGLES.values():
        try:
            _parse_video(graph.request, fields)
        except InvalidParameter as error:
            refused.append(error)
        else:
            return
    raise refused[0]


def _parse_video(request: type[GraphRequest], fields: Mapping[str, Any]) -> None:
    given = {name: value for name, value in fields.items() if name not in ("model", "seconds", REFERENCE_NAME)}
    media = request.MEDIA.keys() & given.keys() | ({request.REFERENCE} if REFERENCE_NAME in fields else set())
    if "branch_from" in fields:  # what is not given is the older job's
        media |= {request.REFERENCE, "edge_frames"} - ({"edge_frames"} if "edge_video" in fields else set())
    parse_fields(request, {**given, **dict.fromkeys(media, PENDING)}, {})


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
