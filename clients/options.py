"""Options of the command line that several commands share, written once."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypedDict, get_args, get_type_hints, is_typeddict

import typer


def target(path: Path) -> Path:
    """Check where a result is to go before anything is asked for."""
    if not path.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {path.parent}")
    if path.exists() and not path.is_file():
        raise typer.BadParameter(f"{path} exists and is not a file")
    return path


InputFile = Annotated[Path, typer.Option(exists=True, dir_okay=False, readable=True)]
OutputFile = Annotated[Path, typer.Option("-o", "--out", callback=target, help="Where the result goes.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
Limit = Annotated[int, typer.Option(min=1, max=100, help="How many at most.")]
After = Annotated[str | None, typer.Option(help="Begin behind this id.")]


class MakeOptions(TypedDict):
    """What every command that makes a video takes."""

    out: OutputFile
    local: Annotated[bool, typer.Option("--local", help="Start a server for this call and stop it afterwards.")]
    as_json: AsJson


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take groups of options: a parameter of a TypedDict's type becomes an option for each field.

    A text that annotates a field is the option's help. A bool is False and what may be None is None where it is not
    given; the command gets a group without what is None.
    """
    signature = inspect.signature(command)
    groups = {
        name: get_type_hints(parameter.annotation, include_extras=True)
        for name, parameter in signature.parameters.items()
        if is_typeddict(parameter.annotation)
    }

    @functools.wraps(command)
    def run(**given: Any) -> None:
        for group, hints in groups.items():
            taken = {name: given.pop(name) for name in hints}
            given[group] = {name: value for name, value in taken.items() if value is not None}
        command(**given)

    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in signature.parameters.items()
        if name not in groups
    ]
    added = [_option(name, hint) for hints in groups.values() for name, hint in hints.items()]
    vars(run)["__signature__"] = signature.replace(parameters=own + added)
    return run


def _option(name: str, hint: Any) -> inspect.Parameter:
    kind, *notes = get_args(hint)
    if isinstance(notes[0], str):
        hint = Annotated[kind, typer.Option(help=notes[0])]
    default = inspect.Parameter.empty
    if kind is bool:
        default = False
    elif type(None) in get_args(kind):
        default = None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
