"""Options of the command line that several commands share, written once."""

import functools
import inspect
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypedDict, cast, get_args, get_type_hints, is_typeddict

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


InputFile = Annotated[Path, typer.Option(exists=True, dir_okay=False, readable=True)]
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


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take groups of options: a parameter of a TypedDict's type becomes an option for each field.

    A text that annotates a field is the option's help. A field that is a TypedDict itself becomes options with its name
    before theirs. A bool is False and what may be None is None where it is not given; the command gets a group without
    what is None.
    """
    signature = inspect.signature(command)
    groups = {
        name: parameter.annotation
        for name, parameter in signature.parameters.items()
        if is_typeddict(parameter.annotation)
    }

    @functools.wraps(command)
    def run(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = _taken(group, given)
        command(**given)

    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in signature.parameters.items()
        if name not in groups
    ]
    added = [option for group in groups.values() for option in _options(group)]
    vars(run)["__signature__"] = signature.replace(parameters=own + added)
    return run


def _options(group: type, prefix: str = "") -> Iterator[inspect.Parameter]:
    for name, hint in get_type_hints(group, include_extras=True).items():
        inner = _inner(hint)
        if inner is None:
            yield _option(f"{prefix}{name}", hint)
        else:
            yield from _options(inner, f"{prefix}{name}_")


def _taken(group: type, given: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Take a group's values out of what is given."""
    taken: dict[str, Any] = {}
    for name, hint in get_type_hints(group, include_extras=True).items():
        inner = _inner(hint)
        whole = f"{prefix}{name}"
        value = given.pop(whole) if inner is None else _taken(inner, given, f"{whole}_") or None
        if value is not None:
            taken[name] = value
    return taken


def _inner(hint: Any) -> type | None:
    """The group that a field is itself."""
    return next((kind for kind in get_args(hint) if is_typeddict(kind)), None)


def _option(name: str, hint: Any) -> inspect.Parameter:
    kind, *notes = get_args(hint)
    if isinstance(notes[0], str):
        check = _finite if float in get_args(kind) else None
        hint = Annotated[kind, typer.Option(help=notes[0], callback=check)]
    default = inspect.Parameter.empty
    if kind is bool:
        default = False
    elif type(None) in get_args(kind):
        default = None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def _finite(value: float | None) -> float | None:
    """JSON has no word for the others."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter("must be a finite number")
    return value
