"""Options of the command line that several commands share, written once."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypedDict, cast

import typer

_MAX_JSON_BYTES = 32 << 20
"""A script of a hundred scenes whose texts are as long as they may be has fewer."""


def target(path: Path | None) -> Path | None:
    """Check where a result is to go before anything is asked for."""
    if path is not None and not path.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {path.parent}")
    if path is not None and path.exists() and not path.is_file():
        raise typer.BadParameter(f"{path} exists and is not a file")
    return path


def json_object(path: Path) -> dict[str, object]:
    """Read a file that holds a JSON object. Raises BadParameter for what is none, or could not be sent as one."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_JSON_BYTES + 1)
        if len(data) > _MAX_JSON_BYTES:
            raise typer.BadParameter(f"{path} has more bytes than the limit of {_MAX_JSON_BYTES}")
        told: object = json.loads(data)
        json.dumps(told, allow_nan=False, ensure_ascii=False).encode()  # JSON has no word for NaN or half a character
    except (OSError, ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(told, dict):
        raise typer.BadParameter(f"{path} holds no JSON object")
    return cast("dict[str, object]", told)


def ends(path: Path | None, suffix: str, option: str) -> None:
    """Raise BadParameter where a result that is not of that form would go."""
    if path is not None and path.suffix.lower() != suffix:
        raise typer.BadParameter(f"{path} must end with {suffix}", param_hint=option)


OutputFile = Annotated[Path, typer.Option("-o", "--out", callback=target, help="Where the result goes.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
Limit = Annotated[int, typer.Option(min=1, max=100, help="How many at most.")]
After = Annotated[str | None, typer.Option(help="Begin behind this id.")]


class RunOptions(TypedDict):
    """What every command takes that has a job done."""

    local: Annotated[bool, typer.Option("--local", help="Start a server for this call and stop it afterwards.")]
    as_json: AsJson


class MakeOptions(RunOptions):
    """What every command takes that makes a video and nothing else."""

    out: OutputFile


class ModelOption(TypedDict, total=False):
    """What every command takes that asks one model."""

    model: Annotated[
        str | None,
        typer.Option("--model", metavar="ID", help="The id of the served model to ask; reel models lists them."),
    ]


class RoleOptions(TypedDict, total=False):
    """What every command takes that asks a graph."""

    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="ROLE=ID",
            help="Which served model takes a role; reel models lists both. May be given several times.",
        ),
    ]


def assign_roles(options: RoleOptions) -> dict[str, object]:
    """Return the request's field `models` where the options say it, else nothing. Raises BadParameter."""
    chosen: dict[str, str] = {}
    for text in options.get("models") or ():
        role, _, model = text.partition("=")
        if not (role and model):
            raise typer.BadParameter(f"must be ROLE=ID, got {text!r}", param_hint="--model")
        if role in chosen:
            raise typer.BadParameter(
                f"{role} has two models, {chosen[role]} and {model}; give one", param_hint="--model"
            )
        chosen[role] = model
    return {"models": chosen} if chosen else {}


def check_either(fields: Mapping[str, object], *options: str) -> None:
    """Raise BadParameter where several of these options, of which one may be given, are among the fields."""
    given = [option for option in options if option.removeprefix("--").replace("-", "_") in fields]
    if len(given) > 1:
        raise typer.BadParameter("give one of them, not both", param_hint=", ".join(options))
