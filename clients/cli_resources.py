"""`reel jobs`, `reel files` and `reel models`: what lies on a server."""

import shutil
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from pydantic import BaseModel

from reelgraph.client import Client
from reelgraph.field_options import Fields
from reelgraph.fields import ContentOptions
from reelgraph.grouped import grouped
from reelgraph.objects import Model
from reelgraph.options import After, AsJson, Limit, OutputFile
from reelgraph.order import Result, fetch, watch
from reelgraph.order import upload as send
from reelgraph.progress import display
from reelgraph.server import become

Id = Annotated[str, typer.Argument(metavar="ID")]

_GAP = "  "
_LEAST_ROLES = 20
"""Columns for roles, however narrow the terminal is."""
_HEALTHY = "HEALTHY"
"""The state of a deployment that answers. A graph that has it and is not ready lacks a model."""

jobs_app = typer.Typer(no_args_is_help=True, help="Jobs, and the videos that they make.")
files_app = typer.Typer(no_args_is_help=True, help="Uploaded files.")
models_app = typer.Typer(help="What a server can be asked for, and the weights that it needs.")


@dataclass(frozen=True)
class Address:
    """Which server, and the key to it."""

    url: str
    api_key: str | None


def connect(ctx: typer.Context) -> Client:
    """Return a client of the server that the command line names."""
    address = ctx.find_object(Address)
    if address is None:
        raise AssertionError("the first callback sets it")
    try:
        return Client(address.url, api_key=address.api_key)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--url") from error


@jobs_app.command("list")
def list_jobs(ctx: typer.Context, limit: Limit = 20, after: After = None, as_json: AsJson = False) -> None:
    """The newest jobs first."""
    with connect(ctx) as client:
        page = client.videos.list(limit=limit, after=after)
    rows = [(job.id, job.status, f"{job.progress}%", job.model, _when(job.created_at)) for job in page.data]
    _show(page, rows, as_json=as_json)


@jobs_app.command("show")
def show_job(ctx: typer.Context, video_id: Id, as_json: AsJson = False) -> None:
    """All that is known of a job."""
    with connect(ctx) as client:
        video = client.videos.retrieve(video_id)
    _show(video, _facts(video), as_json=as_json)


@jobs_app.command("watch")
def watch_job(ctx: typer.Context, video_id: Id, as_json: AsJson = False) -> None:
    """Follow a job until it has ended. Ctrl-C ends only the watching."""
    screen = display(sys.stderr)
    with connect(ctx) as client:
        try:
            video = watch(client, video_id, screen)
        except KeyboardInterrupt:
            screen.note(f"{video_id} goes on")
            raise
    _show(video, _facts(video), as_json=as_json)


@jobs_app.command("cancel")
def cancel_job(ctx: typer.Context, video_id: Id, as_json: AsJson = False) -> None:
    """Stop a job and keep what there is of it."""
    with connect(ctx) as client:
        video = client.videos.cancel(video_id)
    _show(video, [(video.id, video.status)], as_json=as_json)


@jobs_app.command("delete")
def delete_job(ctx: typer.Context, video_id: Id, as_json: AsJson = False) -> None:
    """Delete a job and its results; stop it where it runs."""
    with connect(ctx) as client:
        deleted = client.videos.delete(video_id)
    _show(deleted, [(deleted.id, "deleted")], as_json=as_json)


@jobs_app.command("download")
@grouped(options=Fields(ContentOptions))
def download_job(ctx: typer.Context, video_id: Id, out: OutputFile, options: dict[str, Any]) -> None:
    """Fetch a job's result, once it is completed."""
    screen = display(sys.stderr)
    with connect(ctx) as client:
        if not client.videos.retrieve(video_id).over:
            watch(client, video_id, screen)
        fetch(client, video_id, Result(out, cast("ContentOptions", options)), screen)
    typer.echo(str(out))


@files_app.command("list")
def list_files(ctx: typer.Context, limit: Limit = 20, after: After = None, as_json: AsJson = False) -> None:
    """The newest files first."""
    with connect(ctx) as client:
        page = client.files.list(limit=limit, after=after)
    rows = [
        (file.id, file.kind, f"{file.width}x{file.height}", f"{file.bytes} B", _when(file.created_at), file.filename)
        for file in page.data
    ]
    _show(page, rows, as_json=as_json)


@files_app.command("show")
def show_file(ctx: typer.Context, file_id: Id, as_json: AsJson = False) -> None:
    """All that is known of a file."""
    with connect(ctx) as client:
        file = client.files.retrieve(file_id)
    _show(file, _facts(file), as_json=as_json)


@files_app.command("upload")
def upload_file(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True)],
    purpose: Annotated[str, typer.Option(help="What it is for, in your words.")] = "user_data",
    as_json: AsJson = False,
) -> None:
    """Send a video or a picture, and print its id."""
    with connect(ctx) as client:
        file = send(client, path, display(sys.stderr), purpose)
    _show(file, [(file.id,)], as_json=as_json)


@files_app.command("delete")
def delete_file(ctx: typer.Context, file_id: Id, as_json: AsJson = False) -> None:
    """Delete a file."""
    with connect(ctx) as client:
        deleted = client.files.delete(file_id)
    _show(deleted, [(deleted.id, "deleted")], as_json=as_json)


@models_app.callback(invoke_without_command=True)
def models(ctx: typer.Context, as_json: AsJson = False) -> None:
    """What the server can be asked for, and whether it is ready; or one of the commands."""
    if ctx.invoked_subcommand is None:
        list_models(ctx, as_json)


@models_app.command("list")
def list_models(ctx: typer.Context, as_json: AsJson = False) -> None:
    """What the server can be asked for, and whether it is ready."""
    with connect(ctx) as client:
        page = client.models.list()
    if as_json:
        typer.echo(page.model_dump_json(indent=2))
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    typer.echo("\n".join(tabulate_models(page.data, width)))


@models_app.command("pull")
def pull_models(
    config: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="What is to be served.")] = None,
    accept_licences: Annotated[
        bool, typer.Option("--accept-licences", help="Do not ask where a licence that is known has conditions.")
    ] = False,
    accept_licence: Annotated[
        list[str] | None,
        typer.Option("--accept-licence", metavar="OWNER/NAME", help="Do not ask about this repository. Repeatable."),
    ] = None,
) -> None:
    """Fetch the weights that a configuration names, and print their licences. Needs no server."""
    words = ["--config", str(config)] if config is not None else []
    words += ["--accept-licences"] if accept_licences else []
    words += [word for source in accept_licence or () for word in ("--accept-licence", source)]
    become("composition", "pull", *words)


def tabulate_models(models: Sequence[Model], width: int | None) -> list[str]:
    """Return the lines of a table, a head above it and the roles in its last column.

    Args:
        models: as a server lists them.
        width: columns of the terminal, within which roles are wrapped; None where it is no terminal.
    """
    told = [(model.id, model.kind, _standing(model), ", ".join(model.roles)) for model in models]
    rows = [("ID", "KIND", "STATE", "ROLES"), *told]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    indent = sum(widths[:-1]) + len(_GAP) * (len(widths) - 1)
    room = max(widths[-1] if width is None else width - indent, _LEAST_ROLES)
    lines: list[str] = []
    for row in rows:
        first, *more = textwrap.wrap(row[-1], room, break_long_words=False, break_on_hyphens=False) or [""]
        cells = [cell.ljust(widest) for cell, widest in zip(row[:-1], widths, strict=False)]
        lines += [_GAP.join([*cells, first]).rstrip(), *(f"{'':{indent}}{part}" for part in more)]
    return lines


def _standing(model: Model) -> str:
    if model.ready:
        return "ready"
    return "waits for models" if model.state == _HEALTHY else model.state.lower() or "not ready"


def _show(answer: BaseModel, rows: Sequence[Sequence[str]], *, as_json: bool) -> None:
    """Print an answer as JSON, or rows in columns, never cut: an id that is cut is no id."""
    if as_json:
        typer.echo(answer.model_dump_json(indent=2))
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _facts(answer: BaseModel) -> list[tuple[str, str]]:
    known = answer.model_dump()
    return [(name, str(value)) for name, value in known.items() if value not in (None, [], {}, "")]


def _when(created_at: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(created_at))
