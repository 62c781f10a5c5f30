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
from reelgraph.cli_demo import demo, gallery
from reelgraph.cli_edit import edit
from reelgraph.cli_image import face, image
from reelgraph.cli_make import make
from reelgraph.cli_pipeline import pipeline
from reelgraph.cli_resources import Address, files_app, jobs_app, models_app
from reelgraph.cli_story import storyboard
from reelgraph.errors import ApiError, ClientError, ServerUnreachable
from reelgraph.fields import AnimationFields, ContinuationFields, FilmFields, SamplingFields, UpscaleFields
from reelgraph.options import InputFile, MakeOptions, ModelOption, RoleOptions, assign_roles, ends, grouped
from reelgraph.order import Order, Result
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
app.command()(edit)
app.command()(image)
app.command()(face)
app.command()(pipeline)
app.command()(storyboard)
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


@app.command()
@grouped
def v2v(ctx: typer.Context, video: InputFile, fields: ContinuationFields, roles: RoleOptions, how: MakeOptions) -> None:
    """Continue a video: describe it, and go on from its last frame."""
    asked = {**fields, **assign_roles(roles)}
    make(ctx, Order("v2v", {"input_video": video}, asked, [Result(how["out"], {})]), how)


@app.command()
@grouped
def i2v(
    ctx: typer.Context,
    image: InputFile,
    fields: SamplingFields,
    which: ModelOption,
    how: MakeOptions,
    last_image: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="The frame to end with.")] = None,
) -> None:
    """Make a video that begins with a picture."""
    media = {"image": image} | ({"last_image": last_image} if last_image else {})
    make(ctx, Order(which.get("model") or "wan-i2v", media, fields, [Result(how["out"], {})]), how)


@app.command()
@grouped
def animate(
    ctx: typer.Context, image: InputFile, fields: AnimationFields, which: ModelOption, how: MakeOptions
) -> None:
    """Make a picture move."""
    make(ctx, Order(which.get("model") or "svd", {"image": image}, fields, [Result(how["out"], {})]), how)


@app.command()
@grouped
def film(
    ctx: typer.Context,
    prompt: Annotated[str, typer.Argument(help="What the video shows.")],
    fields: FilmFields,
    which: ModelOption,
    how: MakeOptions,
) -> None:
    """Make a video of what a text says."""
    asked = {"prompt": prompt, **fields}
    make(ctx, Order(which.get("model") or "text-to-video", {}, asked, [Result(how["out"], {})]), how)


@app.command()
@grouped
def upscale(
    ctx: typer.Context,
    fields: UpscaleFields,
    which: ModelOption,
    how: MakeOptions,
    video: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, readable=True, help="The video to enlarge.")
    ] = None,
    image: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, readable=True, help="Or the picture to enlarge.")
    ] = None,
) -> None:
    """Make a video, or a picture, two to four times as large. The result of a picture is a .png file."""
    if (video is None) == (image is None):
        raise typer.BadParameter("give one of them", param_hint="--video, --image")
    if image is not None:
        ends(how["out"], ".png", "--out")
    media = {name: path for name, path in (("input_video", video), ("image", image)) if path is not None}
    make(ctx, Order(which.get("model") or "realesrgan", media, fields, [Result(how["out"], {})]), how)


def main() -> None:
    """The entry point. What is stopped by SIGTERM cleans up like what is stopped by Ctrl-C.

    SIGINT is heard also where it was ignored, as in the background of a script: a job, and a server, would go on alone.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    app()


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt
