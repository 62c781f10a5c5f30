"""Generation of the client's `commands.py`, the table of commands, and `create.py`, the overloads of `create`."""

from collections.abc import Mapping, Sequence

from composition.contract.definitions import Definition
from composition.contract.source import HEAD, PACKAGE, write_text
from composition.contract.write_fields import name_fields

_COMMANDS = f'''{HEAD}"""The commands that create a job: one for each graph, and one for each kind of model."""

from {PACKAGE} import fields
from {PACKAGE}.about import Command

COMMANDS: tuple[Command, ...] = ('''
_CREATE = f'''{HEAD}"""`videos.create`, with the fields that each graph and each model takes."""

from collections.abc import Coroutine
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, Unpack, overload

from typing_extensions import deprecated

from {PACKAGE} import fields
from {PACKAGE}.flows import OnBytes
from {PACKAGE}.objects import Video

Made_co = TypeVar("Made_co", covariant=True)


class Create(Protocol[Made_co]):
    """Create a job that makes a video or a picture. A path object in a media field is sent with the request.

    If `model` is a literal, the first signature with this name checks the fields. The last signature is for ids of
    models that are defined by a server's configuration; it accepts all fields.
    """
'''
_ARGUMENTS = "on_progress: OnBytes | None = None"


def write_commands(definitions: Sequence[Definition]) -> str:
    """Return the source of `commands.py`, not formatted."""
    rows = [row for each in definitions if each.command for row in _write_rows(each)]
    return "\n".join([_COMMANDS, *rows, ")\n"])


def write_create(definitions: Sequence[Definition]) -> str:
    """Return the source of `create.py`, not formatted."""
    jobs = [each for each in definitions if each.names]
    known = ", ".join(write_text(name) for each in jobs for name in each.names)
    wrong = "this model has other fields; `fields` has a TypedDict for each model"
    methods = [_write_overload(_names_of(each), name_fields(each.request)) for each in jobs]
    methods.append(f'    @overload\n    @deprecated("{wrong}")\n{_write_call(f"Literal[{known}]", "VideoFields")}')
    methods.append(f"    @overload\n{_write_call('str', 'VideoFields')}")
    ways = "CreateVideo: TypeAlias = Create[Video]\nCreateVideoLater: TypeAlias = Create[Coroutine[Any, Any, Video]]\n"
    return "\n\n".join([_CREATE.rstrip("\n"), *methods]) + f"\n\n\n{ways}"


def _names_of(definition: Definition) -> str:
    return f"Literal[{', '.join(map(write_text, definition.names))}]"


def _write_overload(names: str, fields: str) -> str:
    return f"    @overload\n{_write_call(names, fields)}"


def _write_call(names: str, fields: str) -> str:
    arguments = f"self, *, model: {names}, {_ARGUMENTS}, **given: Unpack[fields.{fields}]"
    return f"    def __call__({arguments}) -> Made_co: ..."


def _write_rows(definition: Definition) -> list[str]:
    """Return the commands of a definition."""
    main = {
        "name": write_text(definition.command),
        "model": write_text(definition.names[0]),
        "fields": f"fields.{name_fields(definition.request)}",
        "result": write_text(definition.result),
        "graph": str(bool(definition.roles)),
        "text": write_text(definition.text),
    }
    more = [
        {
            **main,
            "name": write_text(command.name),
            "model": write_text(command.model),
            "text": write_text(command.text),
            "without": f"frozenset({{{', '.join(map(write_text, sorted(command.without)))}}})",
        }
        for command in definition.role_commands
    ]
    return [_write_command(arguments) for arguments in (main, *more)]


def _write_command(arguments: Mapping[str, str]) -> str:
    return f"Command({', '.join(f'{name}={value}' for name, value in arguments.items())}),"
