"""The fields of a request as options: what their types and texts make of them on the command line."""

import inspect
import math
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NotRequired, Required, Union, get_args, get_origin, get_type_hints, is_typeddict

import typer

from reelgraph.about import About
from reelgraph.folders import files_in
from reelgraph.options import json_object

ELSEWHERE = frozenset({"models", "model", "input_reference"})
"""Fields that no option is made of: two have an option written by hand, and one is another field by OpenAI's name."""
ARGUMENT = "prompt"
"""The field that is an argument where a request cannot do without it."""


@dataclass(frozen=True)
class Form:
    """How a field is said, where that does not follow from its type."""

    names: tuple[str, ...] = ()
    """Of the option, beside the field's own."""
    metavar: str | None = None
    parser: Callable[[str], Any] | None = None
    """Reads a text. Raises BadParameter."""


PLAIN = Form()
FORMS: Mapping[str, Form] = {"input_video": Form(("--video",)), "loras": Form(("--lora",), "NAME[:WEIGHT]")}
"""Field of any request → how it is said."""


@dataclass(frozen=True)
class FieldOption:
    """One option."""

    path: tuple[str, ...]
    """The field, and the field within it."""
    kind: Any
    """Type of the value; a dict is read from a file of JSON."""
    about: About
    names: tuple[str, ...] = ()
    """Of the option, beside its own."""
    switch: bool = False
    """Whether it turns a whole object on or off."""

    @property
    def name(self) -> str:
        """Of the parameter."""
        return "_".join(("switch", *self.path) if self.switch else self.path)

    def make_parameter(self, form: Form) -> inspect.Parameter:
        """Return what typer reads."""
        needed = self.about.needed and len(self.path) == 1
        text = describe(self.about)
        if needed and self.path == (ARGUMENT,):
            info: Any = typer.Argument(help=text)
        else:
            info = typer.Option(*self._list_names(form), help=text, **self._reading(form))
        kind = self.kind if needed else self.kind | None
        default = inspect.Parameter.empty if needed else None
        annotation = Annotated[kind, info]
        return inspect.Parameter(self.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)

    def _list_names(self, form: Form) -> tuple[str, ...]:
        own = "-".join(self.path).replace("_", "-")
        if self.kind is not bool:
            return (*form.names, *self.names, f"--{own}")
        return self.names or (f"--{own}/--no-{own}",)

    def _reading(self, form: Form) -> dict[str, Any]:
        """How the value is read and checked."""
        if form.parser is not None:
            return {"parser": form.parser, "metavar": form.metavar}
        if self.about.media == "pictures":
            return {"exists": True, "readable": True, "callback": check_pictures}
        if self.about.media:
            return {"exists": True, "readable": True, "dir_okay": False}
        if self.kind == dict[str, object]:
            return {"parser": read_object, "metavar": "FILE.json"}
        return {"callback": check_finite if self.kind is float else None, "metavar": form.metavar}


@dataclass(frozen=True)
class Fields:
    """The fields of a request as a command takes them."""

    table: type
    """The TypedDict."""
    forms: Mapping[str, Form] = field(default_factory=dict[str, Form])
    """Field, or `field.field` → how this command has it said."""
    without: frozenset[str] = frozenset()
    """Fields that this command has options of its own for, or none."""

    def list_options(self) -> list[FieldOption]:
        """Return the options."""
        whole = {name for name, form in self.forms.items() if form.parser is not None}
        return [option for option in list_options(self.table, whole) if option.path[0] not in ELSEWHERE | self.without]

    def list_parameters(self) -> list[inspect.Parameter]:
        """Return a parameter for each option."""
        forms = {**FORMS, **self.forms}
        return [option.make_parameter(forms.get(".".join(option.path), PLAIN)) for option in self.list_options()]

    def take(self, given: dict[str, Any]) -> dict[str, Any]:
        """Take the fields out of the values of all options. Raises BadParameter where they contradict each other."""
        taken: dict[str, Any] = {}
        switches: dict[str, bool] = {}
        for option in self.list_options():
            value, (name, *inner) = given.pop(option.name), option.path
            if value is None or value == []:
                continue
            if option.switch:
                switches[name] = value
            elif inner:
                taken.setdefault(name, {})[inner[0]] = value
            else:
                taken[name] = value
        for name, on in switches.items():
            if not on and name in taken:
                said, hint = ", ".join(f"{name}.{inner}" for inner in sorted(taken[name])), name.replace("_", "-")
                raise typer.BadParameter(f"{said} cannot be given for what is left out", param_hint=f"--no-{hint}")
            taken.setdefault(name, on)
        return taken


def list_options(table: type, whole: Collection[str] = ()) -> Iterator[FieldOption]:
    """Yield an option for each field of a TypedDict, and for each field of an object within that is not in `whole`."""
    for name, hint in get_type_hints(table, include_extras=True).items():
        parts, about = _read_hint(hint)
        inner = next((part for part in parts if is_typeddict(part)), None)
        if inner is None or name in whole or Mapping in [get_origin(part) for part in parts]:
            yield FieldOption((name,), _choose_kind(parts, about), about)
        else:
            yield from _list_nested(name, parts, inner, about)


def _list_nested(name: str, parts: list[Any], inner: type, about: About) -> Iterator[FieldOption]:
    """Yield the options of an object. Where a text may be given for it, that is the field it cannot do without."""
    by_text, said = str in parts, name.replace("_", "-")
    for field_name, hint in get_type_hints(inner, include_extras=True).items():
        kinds, within = _read_hint(hint)
        names = (f"--{said}",) if by_text and within.needed else ()
        yield FieldOption((name, field_name), _choose_kind(kinds, within), within, names)
    if bool in parts:
        names = (f" /--no-{said}",) if by_text else ()
        yield FieldOption((name,), bool, about, names, switch=True)


def _read_hint(hint: Any) -> tuple[list[Any], About]:
    """The members of a field's type but None, and what is known of it."""
    if get_origin(hint) in (Required, NotRequired):
        hint = get_args(hint)[0]
    kind, about = get_args(hint)[:2]
    members = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    return [member for member in members if member is not types.NoneType], about


def _choose_kind(parts: list[Any], about: About) -> Any:
    """The type of an option's value."""
    origins = [get_origin(part) for part in parts]
    if about.media:
        return Path
    if Mapping in origins or is_typeddict(parts[0]):
        return dict[str, object]
    return list[str] if Sequence in origins else parts[0]


def describe(about: About) -> str:
    """Return the help of an option."""
    default = f"by default {about.default}" if about.default else ""
    more = "; ".join(filter(None, (about.limits, default)))
    return f"{about.text} {more[:1].upper()}{more[1:]}.".replace("`", "") if more else about.text.replace("`", "")


def read_object(text: str) -> dict[str, object]:
    """Read the file of JSON that an option names. Raises BadParameter."""
    return json_object(Path(text))


def check_finite(value: float | None) -> float | None:
    """Check a number: JSON has no word for the others. Raises BadParameter."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter("must be a finite number")
    return value


def check_pictures(path: Path | None) -> Path | None:
    """Check what is given as several pictures: a folder that has files, or a zip. Raises BadParameter."""
    if path is not None and path.is_dir():
        try:
            files_in(path)
        except OSError as error:
            raise typer.BadParameter(str(error)) from error
    elif path is not None and path.suffix.lower() != ".zip":
        raise typer.BadParameter(f"{path} is neither a folder nor a .zip file")
    return path
