"""`reel image` and `reel face`: generates pictures, and finds faces for them."""

import json
import sys
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any, TypedDict, cast

import typer

from reelgraph.cli_make import local_client
from reelgraph.cli_resources import Address, connect
from reelgraph.client import Client
from reelgraph.disk import AtomicFile
from reelgraph.errors import ClientError
from reelgraph.field_options import Fields
from reelgraph.fields import ImageGenerationFields
from reelgraph.objects import CompletedImage, Face, ImageProgress, ProgressEvent, StatusEvent
from reelgraph.option_groups import group_options
from reelgraph.options import (
    PICTURE_FORMATS,
    MakeOptions,
    ModelOption,
    RunOptions,
    check_either,
    check_target,
    read_format,
)
from reelgraph.progress import Display, make_display

_IMAGE_MODEL, _FACE_MODEL = "flux", "instantid"
"""Models of a local server, if no others are named."""
_KEYPOINTS = ("left eye", "right eye", "nose", "left mouth corner", "right mouth corner")
_SIDES = ("left", "top", "right", "bottom")


def _check_png(path: Path | None) -> Path | None:
    """Return the path of a picture. Raises BadParameter."""
    if path is not None and path.suffix.lower() != ".png":
        raise typer.BadParameter(f"{path} must end with .png")
    return check_target(path)


IMAGE_FIELDS = Fields(
    ImageGenerationFields,
    without=frozenset({"stream", "progress", "partial_images", "response_format", "output_format"})
    | {"quality", "background", "user", "safety_identifier"},
)
"""Without the fields for the format of the response, which the file's suffix selects, and those that only OpenAI's
server uses."""


class PictureOptions(MakeOptions):
    """Options of `reel image`."""

    out: Annotated[
        Path,
        typer.Option("-o", "--out", callback=check_target, help="File for the picture: .png, .jpg or .webp."),
    ]


class FaceResults(TypedDict, total=False):
    """Options for the results of `reel face`."""

    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", callback=_check_png, help="File for the face, cut out of the picture: .png."),
    ]
    identity_out: Annotated[
        Path | None,
        typer.Option(callback=check_target, help="File for the identity, for reel image --identity: .json."),
    ]


@group_options(fields=IMAGE_FIELDS)
def image(ctx: typer.Context, fields: dict[str, Any], which: ModelOption, how: PictureOptions) -> None:
    """Generate a picture from a prompt, optionally with a given face. Several are named NAME-1.png, NAME-2.png."""
    check_either(fields, "--face", "--identity")
    screen = make_display(sys.stderr)
    form = read_format(how["out"], PICTURE_FORMATS, "--out")
    output = {} if form == "png" else {"output_format": form}
    request = cast("ImageGenerationFields", {**fields, **which, **output, "progress": True})
    only = [which.get("model") or _IMAGE_MODEL, *([_FACE_MODEL] if "face" in fields else [])]
    with _open_client(ctx, screen, only if how["local"] else None) as client:
        pictures = _generate(client, request, how["out"], screen)
    if how["as_json"]:
        typer.echo(
            json.dumps([{**picture.model_dump(exclude={"b64_json"}), "path": str(path)} for picture, path in pictures])
        )
        return
    for name in ("notice", "lora_notice"):
        if notice := pictures[0][0].facts.get(name):
            typer.echo(f"{name}: {notice}")
    for picture, path in pictures:
        typer.echo(f"seed: {picture.seed}\n{path}")


@group_options()
def face(
    ctx: typer.Context,
    picture: Annotated[
        Path, typer.Argument(metavar="IMAGE", exists=True, dir_okay=False, readable=True, help="Picture with a face.")
    ],
    results: FaceResults,
    which: ModelOption,
    how: RunOptions,
) -> None:
    """Find the largest face in a picture, and its identity for reel image."""
    screen = make_display(sys.stderr)
    model = which.get("model")
    only = [model or _FACE_MODEL] if how["local"] else None
    with _open_client(ctx, screen, only) as client, screen.show_transfer(f"upload {picture.name}") as show:
        found = client.faces.find(picture, model=model, on_progress=show)
    if path := results.get("out"):
        _write(path, found.crop.content)
    if path := results.get("identity_out"):
        _write(path, found.identity.model_dump_json().encode())
    if how["as_json"]:
        typer.echo(found.model_dump_json(indent=2))
        return
    for name, value in _list_rows(found):
        typer.echo(f"{name:<20}{value}")


@contextmanager
def _open_client(ctx: typer.Context, screen: Display, only: Sequence[str] | None) -> Generator[Client]:
    """Yield a client of a local server with these models, or of the given server if `only` is None."""
    with connect(ctx) if only is None else local_client(screen, only, ctx.find_object(Address)) as client:
        yield client


def _generate(
    client: Client, request: ImageGenerationFields, out: Path, screen: Display
) -> list[tuple[CompletedImage, Path]]:
    """Write each picture when it is finished. If interrupted, it keeps those, and the server stops the model."""
    finished: list[tuple[CompletedImage, Path]] = []
    try:
        with screen.show_job() as show, closing(client.images.stream_generate(**request)) as events:
            for event in events:
                if isinstance(event, ImageProgress):
                    if event.done == 0:
                        show(StatusEvent(id=0, status="in_progress"))
                    show(ProgressEvent(id=0, stage=event.stage, done=event.done, total=event.total))
                elif isinstance(event, CompletedImage):
                    path = out if event.n == 1 else out.with_name(f"{out.stem}-{event.index + 1}{out.suffix}")
                    _write(path, event.content)
                    finished.append((event, path))
    except (ClientError, KeyboardInterrupt):
        for _, path in finished:
            screen.note(f"{path} is complete")
        raise
    return finished


def _write(path: Path, data: bytes) -> None:
    with AtomicFile(path) as file:
        file.write(data, 0)


def _list_rows(found: Face) -> list[tuple[str, Any]]:
    """Return the rows to print. Coordinates are fractions of the picture's width and height."""
    box = "  ".join(f"{side} {position:.3f}" for side, position in zip(_SIDES, found.identity.box, strict=True))
    points = [f"{x:.3f}  {y:.3f}" for x, y in found.identity.keypoints]
    rows = [("faces", found.faces), ("box", box), *zip(_KEYPOINTS, points, strict=True)]
    return [*rows, ("notice", found.notice)] if found.notice else rows
