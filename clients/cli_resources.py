"""`reel jobs`, `reel files` and `reel models`: jobs, files and models on a server."""

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
from reelgraph.objects import Model, Video
from reelgraph.option_groups import group_options
from reelgraph.options import PICTURE_FORMATS, VIDEO_FORMATS, After, AsJson, Limit, OutputFile, read_format
from reelgraph.order import Result, download_result, follow_job, upload_path
from reelgraph.progress import make_display
from reelgraph.server import exec_module

Id = Annotated[str, typer.Argument(metavar="ID")]

_GAP = "  "
_LEAST_ROLES = 20
"""Minimum width of the column for roles."""
_HEALTHY = "HEALTHY"
"""State of a running deployment. A graph in this state that is not ready is missing a model."""

_VIDEOS = ("video", "hd")
"""Variants that are videos, if the job makes any."""
_ONE_FORMAT = ("frames", "debug", "metrics")
"""Variants whose format the suffix does not select."""

jobs_app = typer.Typer(no_args_is_help=True, help="Jobs and their videos.")
files_app = typer.Typer(no_args_is_help=True, help="Uploaded files.")
models_app = typer.Typer(help="Graphs and models on a server, and their weights.")


@dataclass(frozen=True)
class Address:
    """URL and API key of a server."""

    url: str
    api_key: str | None
    is_named: bool = True
    """Whether the user named the server."""


def connect(ctx: typer.Context) -> Client:
    """Return a client of the server that the command line names."""
    address = ctx.find_object(Address)
    if address is None:
        raise AssertionError("set by the callback of `reel`")
    try:
        return Client(address.url, api_key=address.api_key)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--url") from error


@jobs_app.command("list")
def list_jobs(ctx: typer.Context, limit: Limit = 20, after: After = None, as_json: AsJson = False) -> None:
    """List jobs, newest first."""
    with connect(ctx) as client:
        page = client.videos.list(limit=limit, after=after)
    rows = [(job.id, job.status, f"{job.progress}%", job.model, _format_time(job.created_at)) for job in page.data]
    _print(page, rows, as_json=as_json)


@jobs_app.command("show")
def show_job(ctx: typer.Context, video_id: Id, as_json: AsJson = False) -> None:
    """Show a job."""
    with connect(ctx) as client:
        video = client.videos.retrieve(video_id)
    _print(video, _list_fields(video), as_json=as_json)


@jobs_app.command("watch")
def watch_job(ctx: typer.Context, video_id: Id, as_json: AsJson = False) -> None:
    """Show a job's progress until it ends. Ctrl-C does not stop the job."""
    screen = make_display(sys.stderr)
    with connect(ctx) as client:
        try:
            video = follow_job(client, video_id, screen)
        except KeyboardInterrupt:
            screen.note(f"{video_id} is still running")
            raise
    _print(video, _list_fields(video), as_json=as_json)


@jobs_app.command("cancel")
def cancel_job(ctx: typer.Context, video_id: Id, as_json: AsJson = False) -> None:
    """Stop a job and keep its results so far."""
    with connect(ctx) as client:
        video = client.videos.cancel(video_id)
    _print(video, [(video.id, video.status)], as_json=as_json)


@jobs_app.command("delete")
def delete_job(ctx: typer.Context, video_id: Id, as_json: AsJson = False) -> None:
    """Delete a job and its results. A running job is stopped first."""
    with connect(ctx) as client:
        deleted = client.videos.delete(video_id)
    _print(deleted, [(deleted.id, "deleted")], as_json=as_json)


@jobs_app.command("download")
@group_options(options=Fields(ContentOptions))
def download_job(ctx: typer.Context, video_id: Id, out: OutputFile, options: dict[str, Any]) -> None:
    """Download a job's result; wait until the job has completed. The file's suffix is the default of the format."""
    screen = make_display(sys.stderr)
    with connect(ctx) as client:
        video = client.videos.retrieve(video_id)
        if not video.over:
            follow_job(client, video_id, screen)
        wanted = cast("ContentOptions", {**_guess_format(video, options.get("variant"), out), **options})
        download_result(client, video_id, Result(out, wanted), screen)
    typer.echo(str(out))


@files_app.command("list")
def list_files(ctx: typer.Context, limit: Limit = 20, after: After = None, as_json: AsJson = False) -> None:
    """List files, newest first."""
    with connect(ctx) as client:
        page = client.files.list(limit=limit, after=after)
    rows = [
        (
            file.id,
            file.kind,
            f"{file.width}x{file.height}",
            f"{file.bytes} B",
            _format_time(file.created_at),
            file.filename,
        )
        for file in page.data
    ]
    _print(page, rows, as_json=as_json)


@files_app.command("show")
def show_file(ctx: typer.Context, file_id: Id, as_json: AsJson = False) -> None:
    """Show a file."""
    with connect(ctx) as client:
        file = client.files.retrieve(file_id)
    _print(file, _list_fields(file), as_json=as_json)


@files_app.command("upload")
def upload_file(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True)],
    purpose: Annotated[str, typer.Option(help="Purpose, stored with the file.")] = "user_data",
    as_json: AsJson = False,
) -> None:
    """Upload a video or a picture, and print its id."""
    with connect(ctx) as client:
        file = upload_path(client, path, make_display(sys.stderr), purpose)
    _print(file, [(file.id,)], as_json=as_json)


@files_app.command("delete")
def delete_file(ctx: typer.Context, file_id: Id, as_json: AsJson = False) -> None:
    """Delete a file."""
    with connect(ctx) as client:
        deleted = client.files.delete(file_id)
    _print(deleted, [(deleted.id, "deleted")], as_json=as_json)


@models_app.callback(invoke_without_command=True)
def models(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the graphs and models on the server, and whether they are ready; or run one of the commands."""
    if ctx.invoked_subcommand is None:
        list_models(ctx, as_json)


@models_app.command("list")
def list_models(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the graphs and models on the server, and whether they are ready."""
    with connect(ctx) as client:
        page = client.models.list()
    if as_json:
        typer.echo(page.model_dump_json(indent=2))
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    typer.echo("\n".join(tabulate_models(page.data, width)))


@models_app.command("pull")
def pull_models(
    config: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Configuration file.")] = None,
    accept_licences: Annotated[
        bool, typer.Option("--accept-licences", help="Accept all known licences that have conditions.")
    ] = False,
    accept_licence: Annotated[
        list[str] | None,
        typer.Option(
            "--accept-licence", metavar="OWNER/NAME", help="Accept the licence of this repository. Repeatable."
        ),
    ] = None,
) -> None:
    """Download the weights in a configuration, and print their licences. Needs no server."""
    words = ["--config", str(config)] if config is not None else []
    words += ["--accept-licences"] if accept_licences else []
    words += [word for source in accept_licence or () for word in ("--accept-licence", source)]
    exec_module("composition", "pull", *words)


@models_app.command("check")
def check_models(
    config: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Configuration file.")] = None,
    gpu: Annotated[
        str | None,
        typer.Option(metavar="GPU[,GPU]", help="h200, h100-80, a100-40 or 4090; by default h100-80."),
    ] = None,
    share: Annotated[
        float | None, typer.Option(help="Part of the GPU's peak that the networks reach; by default 0.4.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no hub; use the facts that are included.")] = False,
) -> None:
    """Compare checkpoints with their networks before a download, and print what each model needs. Needs no server.

    Fails if a tensor is missing or has another shape, or if a model does not fit its GPU or its reservation.
    """
    words = ["--config", str(config)] if config is not None else []
    words += ["--gpu", gpu] if gpu is not None else []
    words += ["--share", str(share)] if share is not None else []
    words += ["--offline"] if offline else []
    exec_module("composition", "check", *words)


def tabulate_models(models: Sequence[Model], width: int | None) -> list[str]:
    """Return the lines of a table with a header and the roles in the last column.

    Args:
        models: the graphs and models of a server.
        width: width of the terminal, in columns, at which roles are wrapped; None if the output is not a terminal.
    """
    cells = [(model.id, model.kind, _describe_state(model), ", ".join(model.roles)) for model in models]
    rows = [("ID", "KIND", "STATE", "ROLES"), *cells]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    indent = sum(widths[:-1]) + len(_GAP) * (len(widths) - 1)
    room = max(widths[-1] if width is None else width - indent, _LEAST_ROLES)
    lines: list[str] = []
    for row in rows:
        first, *more = textwrap.wrap(row[-1], room, break_long_words=False, break_on_hyphens=False) or [""]
        cells = [cell.ljust(widest) for cell, widest in zip(row[:-1], widths, strict=False)]
        lines += [_GAP.join([*cells, first]).rstrip(), *(f"{'':{indent}}{part}" for part in more)]
    return lines


def _guess_format(video: Video, variant: str | None, out: Path) -> ContentOptions:
    """Return the format that the suffix of a file stands for, or nothing if it stands for no format.

    Raises BadParameter if it stands for a format of pictures, and the variant is a video.
    """
    variant = variant or video.main
    if variant in _ONE_FORMAT:
        return {}
    is_video = variant in _VIDEOS and video.rate is not None
    if is_video and out.suffix.lower() in PICTURE_FORMATS:
        read_format(out, VIDEO_FORMATS, "--out")
    found = (VIDEO_FORMATS if is_video else PICTURE_FORMATS).get(out.suffix.lower())
    return {} if found in (None, "mp4") else cast("ContentOptions", {"format": found})


def _describe_state(model: Model) -> str:
    if model.ready:
        return "ready"
    return "waiting for models" if model.state == _HEALTHY else model.state.lower() or "not ready"


def _print(response: BaseModel, rows: Sequence[Sequence[str]], *, as_json: bool) -> None:
    """Print a response as JSON, or rows in columns, which are never cut."""
    if as_json:
        typer.echo(response.model_dump_json(indent=2))
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _list_fields(response: BaseModel) -> list[tuple[str, str]]:
    known = response.model_dump()
    return [(name, str(value)) for name, value in known.items() if value not in (None, [], {}, "")]


def _format_time(created_at: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(created_at))
