"""`reel`: the command line.

Exit status: 0 success, 1 failure (of `verify` also a file without intact marks), 2 invalid arguments or request, 3 no
server responds, 4 the film was made but has placeholders for scenes that failed, 130 interrupted.
"""

import signal
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from reelgraph import wire
from reelgraph.cli_commands import add_commands
from reelgraph.cli_demo import demo, gallery
from reelgraph.cli_image import face, image
from reelgraph.cli_resources import Address, files_app, jobs_app, models_app
from reelgraph.cli_verify import verify
from reelgraph.errors import ApiError, ClientError, ServerUnreachable
from reelgraph.server import exec_module

_FAILED, _USAGE, _NO_SERVER = 1, 2, 3
_INVALID = frozenset({400, 413, 422})
"""HTTP status of an invalid request."""
_PASS_ARGUMENTS: dict[str, Any] = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
"""Settings of a command whose arguments are parsed by another program."""


class _Commands(TyperGroup):
    """Reports errors as one line and an exit status, without a traceback."""

    def invoke(self, ctx: typer.Context) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            return super().invoke(ctx)
        except ClientError as error:
            typer.echo(f"reel: {error}", err=True)
            raise typer.Exit(_choose_exit_status(error)) from error
        except BrokenPipeError:  # the reader of our output has closed it; typer exits silently
            raise
        except OSError as error:
            typer.echo(f"reel: {error}", err=True)
            raise typer.Exit(_FAILED) from error


def _choose_exit_status(error: ClientError) -> int:
    if isinstance(error, ServerUnreachable):
        return _NO_SERVER
    return _USAGE if isinstance(error, ApiError) and error.status in _INVALID else _FAILED


app = typer.Typer(cls=_Commands, no_args_is_help=True, pretty_exceptions_show_locals=False)
app.add_typer(jobs_app, name="jobs")
app.add_typer(files_app, name="files")
app.add_typer(models_app, name="models")
add_commands(app)
app.command()(image)
app.command()(face)
app.command()(demo)
app.command()(gallery)
app.command()(verify)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"reelgraph {version('reelgraph')}")
        raise typer.Exit


@app.callback()
def reel(
    ctx: typer.Context,
    url: Annotated[
        str | None, typer.Option(envvar="REELGRAPH_URL", help="URL of the server.", show_default=wire.DEFAULT_URL)
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="REELGRAPH_API_KEY", help="API key, if the server requires one.")
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Generate, edit and upscale videos and pictures."""
    ctx.obj = Address(url or wire.DEFAULT_URL, api_key, is_named=bool(url))


@app.command()
def serve(
    config: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Configuration file.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Serve only this graph or model, and what it needs. Repeatable.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Ray cluster to serve on; `local` starts a separate Ray, even if RAY_ADDRESS is set.",
        ),
    ] = None,
) -> None:
    """Run the server until it is stopped: on this machine, or on the Ray cluster in --address or RAY_ADDRESS."""
    given = [("--config", config), ("--host", host), ("--port", port), ("--address", address)]
    given += [("--only", name) for name in only or []]
    words = (word for name, value in given if value is not None for word in (name, str(value)))
    exec_module("composition", "serve", *words)


@app.command(context_settings=_PASS_ARGUMENTS)
def keys(ctx: typer.Context) -> None:
    """Create, list and revoke the API keys of this machine's server."""
    exec_module("composition", "keys", *ctx.args)


@app.command(context_settings=_PASS_ARGUMENTS)
def self_test(ctx: typer.Context) -> None:
    """Test guided editing on this machine, without a server."""
    exec_module("services.qwen_edit.self_test", *ctx.args)


def main() -> None:
    """Run the command line. SIGTERM is handled like Ctrl-C: jobs and local servers are stopped.

    SIGINT is handled even if it is ignored at the start, as in background processes of a script; otherwise a job or a
    server would keep running.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    app()


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt
