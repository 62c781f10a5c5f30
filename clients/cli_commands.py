"""The commands that have a job done: one for each graph and each kind of model alone, made of the generated table."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer

from reelgraph.about import Command
from reelgraph.cli_edit import make_edit
from reelgraph.cli_make import make
from reelgraph.cli_pipeline import make_pipeline
from reelgraph.cli_story import make_storyboard
from reelgraph.commands import COMMANDS
from reelgraph.field_options import Fields
from reelgraph.grouped import grouped
from reelgraph.options import MakeOptions, ModelOption, RoleOptions, assign_roles, ends
from reelgraph.order import Order, Result

Run = Callable[..., None]
SPECIAL: Mapping[str, Callable[[Command], Run]] = {
    "rolling-edit": make_edit,
    "full-pipeline": make_pipeline,
    "storyboard": make_storyboard,
}
"""Graph → what makes its command, where that has results or checks of its own."""


def add_commands(app: typer.Typer) -> None:
    """Add all commands of the table."""
    for command in COMMANDS:
        app.command(command.name, help=command.text)(SPECIAL.get(command.model, make_command)(command))


def make_command(command: Command) -> Run:
    """Return the function of a command that has one result."""
    return _ask_graph(command) if command.graph else _ask_model(command)


def _ask_graph(command: Command) -> Run:
    @grouped(fields=Fields(command.fields))
    def ask(ctx: typer.Context, fields: dict[str, Any], roles: RoleOptions, how: MakeOptions) -> None:
        _check(command, fields, how["out"])
        asked = {**fields, **assign_roles(roles)}
        make(ctx, Order(command.model, asked, [Result(how["out"], {})]), how)

    return ask


def _ask_model(command: Command) -> Run:
    @grouped(fields=Fields(command.fields))
    def ask(ctx: typer.Context, fields: dict[str, Any], which: ModelOption, how: MakeOptions) -> None:
        _check(command, fields, how["out"])
        make(ctx, Order(which.get("model") or command.model, fields, [Result(how["out"], {})]), how)

    return ask


def _check(command: Command, fields: Mapping[str, Any], out: Path) -> None:
    """Raise BadParameter for what cannot be, whatever the server."""
    one_of = {"input_video", "image"} & fields.keys()
    if command.model == "realesrgan" and len(one_of) != 1:
        raise typer.BadParameter("give one of them", param_hint="--video, --image")
    if command.result == "image" or (command.model == "realesrgan" and "image" in fields):
        ends(out, ".png", "--out")
