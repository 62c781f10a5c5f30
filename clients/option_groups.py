"""Decorator for commands that take a group of options, or the fields of a request, as one parameter."""

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, get_args, get_type_hints, is_typeddict

from reelgraph.field_options import Fields


def group_options(**tables: Fields) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace parameters of a command by options.

    A parameter named in `tables` is replaced by an option for each field of the request. A parameter whose type is a
    TypedDict is replaced by an option for each of its keys, as annotated. The command receives a dict of the options
    that were given; a bool that was not given is False.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command)
        groups = {
            name: parameter.annotation
            for name, parameter in signature.parameters.items()
            if name not in tables and is_typeddict(parameter.annotation)
        }

        @functools.wraps(command)
        def run(**given: Any) -> None:
            for name, table in tables.items():
                given[name] = table.take(given)
            for name, group in groups.items():
                given[name] = _take_group(group, given)
            command(**given)

        own = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for name, parameter in signature.parameters.items()
            if name not in groups and name not in tables
        ]
        added = [option for name in signature.parameters for option in _list_options(name, tables, groups)]
        vars(run)["__signature__"] = signature.replace(parameters=own + added)
        return run

    return decorate


def _list_options(name: str, tables: dict[str, Fields], groups: dict[str, type]) -> Iterator[inspect.Parameter]:
    if name in tables:
        yield from tables[name].list_parameters()
    elif name in groups:
        for key, hint in get_type_hints(groups[name], include_extras=True).items():
            yield inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=_choose_default(hint), annotation=hint)


def _choose_default(hint: Any) -> Any:
    kind = get_args(hint)[0]
    if kind is bool:
        return False
    return None if type(None) in get_args(kind) else inspect.Parameter.empty


def _take_group(group: type, given: dict[str, Any]) -> dict[str, Any]:
    values = {name: given.pop(name) for name in get_type_hints(group)}
    return {name: value for name, value in values.items() if value is not None}
