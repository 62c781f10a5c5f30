"""The commands that run jobs: one for each graph and each kind of model alone, from the generated table."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer

from reelgraph.about import Command
from reelgraph.cli_edit import make_edit
from reelgraph.cli_make import run_command
from reelgraph.cli_pipeline import make_pipeline
from reelgraph.cli_story import make_storyboard
from reelgraph.commands import COMMANDS
from reelgraph.field_options import Fields
from reelgraph.fields import ContentOptions
from reelgraph.option_groups import group_options
from reelgraph.options import (
    PICTURE_FORMATS,
    VIDEO_FORMATS,
    MakeOptions,
    ModelOption,
    RoleOptions,
    assign_roles,
    select_format,
)
from reelgraph.order import JobOrder, Result

Run = Callable[..., None]
SPECIAL: Mapping[str, Callable[[Command], Run]] = {
    "rolling-edit": make_edit,
    "full-pipeline": make_pipeline,
    "storyboard": make_storyboard,
}
"""Graph → the function that makes its command, if it has special results or checks."""

EPILOG = "Limits and defaults are those of the models; a server can have others (GET /v1/models)."


def add_commands(app: typer.Typer) -> None:
    """Add a command for each entry of the table."""
    for command in COMMANDS:
        app.command(command.name, help=command.text, epilog=EPILOG)(SPECIAL.get(command.model, make_command)(command))


def make_command(command: Command) -> Run:
    """Return the function of a command with one result."""
    return _make_graph_command(command) if command.graph else _make_model_command(command)


def _make_graph_command(command: Command) -> Run:
    @group_options(fields=Fields(command.fields))
    def run(ctx: typer.Context, fields: dict[str, Any], roles: RoleOptions, how: MakeOptions) -> None:
        options = _select_options(command, fields, how["out"])
        request = {**fields, **assign_roles(roles)}
        run_command(ctx, JobOrder(command.model, request, [Result(how["out"], options)]), how)

    return run


def _make_model_command(command: Command) -> Run:
    @group_options(fields=Fields(command.fields, without=command.without))
    def run(ctx: typer.Context, fields: dict[str, Any], which: ModelOption, how: MakeOptions) -> None:
        options = _select_options(command, fields, how["out"])
        run_command(ctx, JobOrder(which.get("model") or command.model, fields, [Result(how["out"], options)]), how)

    return run


def _select_options(command: Command, fields: Mapping[str, Any], out: Path) -> ContentOptions:
    """Return the options of the download. Raises BadParameter for options that no server accepts."""
    one_of = {"input_video", "image"} & fields.keys()
    if command.model == "realesrgan" and len(one_of) != 1:
        raise typer.BadParameter("give exactly one", param_hint="--video, --image")
    is_picture = command.result == "image" or (command.model == "realesrgan" and "image" in fields)
    return select_format(out, PICTURE_FORMATS if is_picture else VIDEO_FORMATS, "--out")
