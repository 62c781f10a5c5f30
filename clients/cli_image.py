"""`reel image` and `reel face`: pictures that are painted, and the faces that they are painted with."""

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
from reelgraph.disk import Landing
from reelgraph.errors import ClientError
from reelgraph.field_options import Fields
from reelgraph.fields import ImageGenerationFields
from reelgraph.grouped import grouped
from reelgraph.objects import CompletedImage, Face, ImageProgress, ProgressEvent, StatusEvent
from reelgraph.options import MakeOptions, ModelOption, RunOptions, check_either, target
from reelgraph.progress import Display, display

_PAINTS, _FINDS_FACES = "flux", "instantid"
"""The models that a server for one call has, where no other is named."""
_KEYPOINTS = ("left eye", "right eye", "nose", "left mouth corner", "right mouth corner")
_SIDES = ("left", "top", "right", "bottom")


def _png(path: Path | None) -> Path | None:
    if path is not None and path.suffix.lower() != ".png":
        raise typer.BadParameter(f"{path} must end with .png")
    return target(path)


PAINTING = Fields(
    ImageGenerationFields,
    without=frozenset({"stream", "progress", "partial_images", "response_format", "output_format"})
    | {"quality", "background", "user", "safety_identifier"},
)
"""Without what says how the answer is sent, and what only OpenAI's server reads."""


class PictureOptions(MakeOptions):
    """Where the pictures go."""

    out: Annotated[Path, typer.Option("-o", "--out", callback=_png, help="Where the picture goes: a .png file.")]


class FaceResults(TypedDict, total=False):
    """What is wanted, and where it goes."""

    out: Annotated[
        Path | None, typer.Option("-o", "--out", callback=_png, help="Where the face alone goes: a .png file.")
    ]
    identity_out: Annotated[
        Path | None, typer.Option(callback=target, help="Where the identity goes, for reel image --identity.")
    ]


@grouped(fields=PAINTING)
def image(ctx: typer.Context, fields: dict[str, Any], which: ModelOption, how: PictureOptions) -> None:
    """Paint a picture of a prompt, with a face in it if one is given. Several are called NAME-1.png and so on."""
    check_either(fields, "--face", "--identity")
    screen = display(sys.stderr)
    asked = cast("ImageGenerationFields", {**fields, **which, "progress": True})
    only = [which.get("model") or _PAINTS, *([_FINDS_FACES] if "face" in fields else [])]
    with _server(ctx, screen, only if how["local"] else None) as client:
        made = _paint(client, asked, how["out"], screen)
    if how["as_json"]:
        typer.echo(json.dumps([{**picture.model_dump(exclude={"b64_json"}), "path": str(to)} for picture, to in made]))
        return
    if notice := made[0][0].facts.get("notice"):
        typer.echo(f"notice: {notice}")
    for picture, to in made:
        typer.echo(f"seed: {picture.seed}\n{to}")


@grouped()
def face(
    ctx: typer.Context,
    picture: Annotated[
        Path, typer.Argument(metavar="IMAGE", exists=True, dir_okay=False, readable=True, help="A picture of a face.")
    ],
    results: FaceResults,
    which: ModelOption,
    how: RunOptions,
) -> None:
    """Find the largest face in a picture: where it is, and whose it is, in numbers."""
    screen = display(sys.stderr)
    model = which.get("model")
    only = [model or _FINDS_FACES] if how["local"] else None
    with _server(ctx, screen, only) as client, screen.transfer(f"upload {picture.name}") as show:
        found = client.faces.find(picture, model=model, on_progress=show)
    if path := results.get("out"):
        _write(path, found.crop.content)
    if path := results.get("identity_out"):
        _write(path, found.identity.model_dump_json().encode())
    if how["as_json"]:
        typer.echo(found.model_dump_json(indent=2))
        return
    for name, value in _told(found):
        typer.echo(f"{name:<20}{value}")


@contextmanager
def _server(ctx: typer.Context, screen: Display, only: Sequence[str] | None) -> Generator[Client]:
    """A client of a server of these models that lives as long as the block, or of the one that is there."""
    with connect(ctx) if only is None else local_client(screen, only, ctx.find_object(Address)) as client:
        yield client


def _paint(
    client: Client, asked: ImageGenerationFields, out: Path, screen: Display
) -> list[tuple[CompletedImage, Path]]:
    """Write each picture when it is there. Interrupted, it leaves those, and the server stops."""
    made: list[tuple[CompletedImage, Path]] = []
    try:
        with screen.watching() as show, closing(client.images.stream_generate(**asked)) as events:
            for event in events:
                if isinstance(event, ImageProgress):
                    if event.done == 0:
                        show(StatusEvent(id=0, status="in_progress"))
                    show(ProgressEvent(id=0, stage=event.stage, done=event.done, total=event.total))
                elif isinstance(event, CompletedImage):
                    to = out if event.n == 1 else out.with_name(f"{out.stem}-{event.index + 1}{out.suffix}")
                    _write(to, event.content)
                    made.append((event, to))
    except (ClientError, KeyboardInterrupt):
        for _, to in made:
            screen.note(f"{to} is there")
        raise
    return made


def _write(to: Path, data: bytes) -> None:
    with Landing(to) as landing:
        landing.write(data, 0)


def _told(found: Face) -> list[tuple[str, Any]]:
    """What a person wants to know, in rows. Places are fractions of the picture's width and height."""
    box = "  ".join(f"{side} {place:.3f}" for side, place in zip(_SIDES, found.identity.box, strict=True))
    points = [f"{x:.3f}  {y:.3f}" for x, y in found.identity.keypoints]
    rows = [("faces", found.faces), ("box", box), *zip(_KEYPOINTS, points, strict=True)]
    return [*rows, ("notice", found.notice)] if found.notice else rows
