"""Options for the fields of a request, derived from their types and descriptions."""

import inspect
import math
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NotRequired, Required, Union, get_args, get_origin, get_type_hints, is_typeddict

import typer

from reelgraph.about import About
from reelgraph.folders import list_folder
from reelgraph.options import read_json_object

ELSEWHERE = frozenset({"models", "model", "input_reference"})
"""Fields without a derived option: two have their own, and `input_reference` is another name of a media field."""
ARGUMENT = "prompt"
"""Field that is an argument instead of an option, if it is required."""


@dataclass(frozen=True)
class Form:
    """Differences of an option from what is derived from its field."""

    names: tuple[str, ...] = ()
    """Additional names of the option."""
    metavar: str | None = None
    parser: Callable[[str], Any] | None = None
    """Parses the value. Raises BadParameter."""
    is_repeatable: bool = False
    """Whether the pictures of a field are given one by one, instead of as a folder or a zip archive."""


def read_pose(text: str) -> str | Path:
    """Return a word that stands for a pose, or the path of a picture. Raises BadParameter if it is neither."""
    if text in ("none", "photo"):
        return text
    path = Path(text)
    if not path.is_file():
        raise typer.BadParameter(f"{text} is neither none, photo nor a file")
    return path


PLAIN = Form()
FORMS: Mapping[str, Form] = {
    "input_video": Form(("--video",)),
    "loras": Form(("--lora",), "NAME[:WEIGHT]"),
    "face_pose": Form(metavar="none|photo|FILE", parser=read_pose),
    "references": Form(("--reference",), is_repeatable=True),
}
"""Field, in any request → its form."""


@dataclass(frozen=True)
class FieldOption:
    """An option for a field."""

    path: tuple[str, ...]
    """Field, or field and nested field."""
    kind: Any
    """Type of the value; a dict is read from a JSON file."""
    about: About
    names: tuple[str, ...] = ()
    """Additional names of the option."""
    switch: bool = False
    """Whether the option turns an object on or off."""

    @property
    def name(self) -> str:
        """Name of the parameter."""
        return "_".join(("switch", *self.path) if self.switch else self.path)

    def make_parameter(self, form: Form) -> inspect.Parameter:
        """Return the parameter for typer."""
        needed = self.about.needed and len(self.path) == 1
        text = describe(self.about)
        if needed and self.path == (ARGUMENT,):
            info: Any = typer.Argument(help=text)
        else:
            info = typer.Option(*self._list_names(form), help=text, **self._make_checks(form))
        own_kind = list[Path] if form.is_repeatable else self.kind
        kind = own_kind if needed else own_kind | None
        default = inspect.Parameter.empty if needed else None
        annotation = Annotated[kind, info]
        return inspect.Parameter(self.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)

    def _list_names(self, form: Form) -> tuple[str, ...]:
        own = "-".join(self.path).replace("_", "-")
        if self.kind is not bool:
            return (*form.names, *self.names, f"--{own}")
        return self.names or (f"--{own}/--no-{own}",)

    def _make_checks(self, form: Form) -> dict[str, Any]:
        """Return typer's arguments for parsing and checking the value."""
        if form.parser is not None:
            return {"parser": form.parser, "metavar": form.metavar}
        if self.about.media == "pictures" and not form.is_repeatable:
            return {"exists": True, "readable": True, "callback": check_pictures}
        if self.about.media:
            return {"exists": True, "readable": True, "dir_okay": False}
        if self.kind == dict[str, object]:
            return {"parser": read_object, "metavar": "FILE.json"}
        return {"callback": check_finite if self.kind is float else None, "metavar": form.metavar}


@dataclass(frozen=True)
class Fields:
    """The fields of a request for which a command has options."""

    table: type
    """TypedDict of the fields."""
    forms: Mapping[str, Form] = field(default_factory=dict[str, Form])
    """Field, or `field.field` → its form in this command."""
    without: frozenset[str] = frozenset()
    """Fields without a derived option in this command."""

    def list_options(self) -> list[FieldOption]:
        """Return the options."""
        whole = {name for name, form in self.forms.items() if form.parser is not None}
        return [option for option in list_options(self.table, whole) if option.path[0] not in ELSEWHERE | self.without]

    def list_parameters(self) -> list[inspect.Parameter]:
        """Return a parameter for each option."""
        forms = {**FORMS, **self.forms}
        return [option.make_parameter(forms.get(".".join(option.path), PLAIN)) for option in self.list_options()]

    def take(self, given: dict[str, Any]) -> dict[str, Any]:
        """Remove the fields from the values of all options and return them. Raises BadParameter if they conflict."""
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
                given_fields = ", ".join(f"{name}.{inner}" for inner in sorted(taken[name]))
                option = f"--no-{name.replace('_', '-')}"
                raise typer.BadParameter(f"not allowed together with {given_fields}", param_hint=option)
            taken.setdefault(name, on)
        return taken


def list_options(table: type, whole: Collection[str] = ()) -> Iterator[FieldOption]:
    """Yield an option for each field of a TypedDict. Objects that are not in `whole` have one for each nested field."""
    for name, hint in get_type_hints(table, include_extras=True).items():
        parts, about = _read_hint(hint)
        inner = next((part for part in parts if is_typeddict(part)), None)
        if inner is None or name in whole or Mapping in [get_origin(part) for part in parts]:
            yield FieldOption((name,), _choose_kind(parts, about), about)
        else:
            yield from _list_nested(name, parts, inner, about)


def _list_nested(name: str, parts: list[Any], inner: type, about: About) -> Iterator[FieldOption]:
    """Yield the options of an object. If it also accepts a string, the string is its required field."""
    accepts_text, option = str in parts, name.replace("_", "-")
    for field_name, hint in get_type_hints(inner, include_extras=True).items():
        kinds, within = _read_hint(hint)
        names = (f"--{option}",) if accepts_text and within.needed else ()
        yield FieldOption((name, field_name), _choose_kind(kinds, within), within, names)
    if bool in parts:
        names = (f" /--no-{option}",) if accepts_text else ()
        yield FieldOption((name,), bool, about, names, switch=True)


def _read_hint(hint: Any) -> tuple[list[Any], About]:
    """Return the members of a field's type, without None, and its description."""
    if get_origin(hint) in (Required, NotRequired):
        hint = get_args(hint)[0]
    kind, about = get_args(hint)[:2]
    members = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    return [member for member in members if member is not types.NoneType], about


def _choose_kind(parts: list[Any], about: About) -> Any:
    """Return the type of an option's value."""
    origins = [get_origin(part) for part in parts]
    if about.media:
        return Path
    if Mapping in origins or is_typeddict(parts[0]):
        return dict[str, object]
    return list[str] if Sequence in origins else parts[0]


def describe(about: About) -> str:
    """Return the help text of an option."""
    default = f"by default {about.default}" if about.default else ""
    more = "; ".join(filter(None, (about.limits, default)))
    return f"{about.text} {more[:1].upper()}{more[1:]}.".replace("`", "") if more else about.text.replace("`", "")


def read_object(text: str) -> dict[str, object]:
    """Return the JSON object in the file that an option names. Raises BadParameter."""
    return read_json_object(Path(text))


def check_finite(value: float | None) -> float | None:
    """Return a number. Raises BadParameter if it is not finite, because JSON cannot represent it."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter("must be a finite number")
    return value


def check_pictures(path: Path | None) -> Path | None:
    """Return the path of several pictures. Raises BadParameter if it is not a folder with files or a zip archive."""
    if path is not None and path.is_dir():
        try:
            list_folder(path)
        except OSError as error:
            raise typer.BadParameter(str(error)) from error
    elif path is not None and path.suffix.lower() != ".zip":
        raise typer.BadParameter(f"{path} must be a folder or a .zip file")
    return path
