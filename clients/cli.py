"""`reel`: the command line.

Exit status: 0 done, 1 failed, 2 asked for something that cannot be, 3 no server answers, 4 the film is there but has
placeholders for scenes that could not be made, 130 interrupted.
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
from reelgraph.errors import ApiError, ClientError, ServerUnreachable
from reelgraph.server import become

_FAILED, _USAGE, _NO_SERVER = 1, 2, 3
_REFUSED = frozenset({400, 413, 422})
"""HTTP status of a request that is wrong by itself."""
_PASSED_ON: dict[str, Any] = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
"""Of a command whose arguments are read by another program."""


class _Commands(TyperGroup):
    """Says what went wrong in a line and an exit status, never in a traceback."""

    def invoke(self, ctx: typer.Context) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            return super().invoke(ctx)
        except ClientError as error:
            typer.echo(f"reel: {error}", err=True)
            raise typer.Exit(_exit_status(error)) from error
        except BrokenPipeError:  # whoever read our output has had enough; typer ends quietly
            raise
        except OSError as error:
            typer.echo(f"reel: {error}", err=True)
            raise typer.Exit(_FAILED) from error


def _exit_status(error: ClientError) -> int:
    if isinstance(error, ServerUnreachable):
        return _NO_SERVER
    return _USAGE if isinstance(error, ApiError) and error.status in _REFUSED else _FAILED


app = typer.Typer(cls=_Commands, no_args_is_help=True, pretty_exceptions_show_locals=False)
app.add_typer(jobs_app, name="jobs")
app.add_typer(files_app, name="files")
app.add_typer(models_app, name="models")
add_commands(app)
app.command()(image)
app.command()(face)
app.command()(demo)
app.command()(gallery)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"reelgraph {version('reelgraph')}")
        raise typer.Exit


@app.callback()
def reel(
    ctx: typer.Context,
    url: Annotated[str, typer.Option(envvar="REELGRAPH_URL", help="The server's address.")] = wire.DEFAULT_URL,
    api_key: Annotated[str | None, typer.Option(envvar="REELGRAPH_API_KEY", help="Where the server wants one.")] = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Video-generation models and graphs of them, from the command line."""
    ctx.obj = Address(url, api_key)


@app.command()
def serve(
    config: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="What is served, and how.")] = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="The port to listen on.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Leave out what this graph or model does not need.")] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="A Ray cluster to serve on; `local` is a Ray of its own, whatever RAY_ADDRESS says.",
        ),
    ] = None,
) -> None:
    """Serve on this machine until stopped, or on the Ray cluster that --address or RAY_ADDRESS names."""
    given = [("--config", config), ("--host", host), ("--port", port), ("--address", address)]
    given += [("--only", name) for name in only or []]
    words = (word for name, value in given if value is not None for word in (name, str(value)))
    become("composition", "serve", *words)


@app.command(context_settings=_PASSED_ON)
def keys(ctx: typer.Context) -> None:
    """Manage the API keys of this machine's server."""
    become("composition", "keys", *ctx.args)


@app.command(context_settings=_PASSED_ON)
def self_test(ctx: typer.Context) -> None:
    """Try guided editing on this machine, without a server."""
    become("services.qwen_edit.self_test", *ctx.args)


def main() -> None:
    """The entry point. What is stopped by SIGTERM cleans up like what is stopped by Ctrl-C.

    SIGINT is heard also where it was ignored, as in the background of a script: a job, and a server, would go on alone.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    app()


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt
