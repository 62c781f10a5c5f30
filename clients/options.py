"""Options that several commands share."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, TypedDict, TypeVar, cast

import typer

from reelgraph.fields import ContentOptions

_MAX_JSON_BYTES = 32 << 20
"""Maximum size of a JSON file, in bytes: more than a script of a hundred scenes with texts of maximum length."""

PictureFormat: TypeAlias = Literal["png", "jpeg", "webp"]
VideoFormat: TypeAlias = Literal["mp4", "gif", "webp", "png"]
F = TypeVar("F", bound=PictureFormat | VideoFormat)
PICTURE_FORMATS: Mapping[str, PictureFormat] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
"""Suffix of the file for a picture → its format; the first is the one that is stored."""
VIDEO_FORMATS: Mapping[str, VideoFormat] = {".mp4": "mp4", ".gif": "gif", ".webp": "webp", ".zip": "png"}
"""Suffix of the file for a video → its format; the first is the one that is stored, and a zip archive has the frames as
PNG files."""


def check_target(path: Path | None) -> Path | None:
    """Return the path of a result. Raises BadParameter if no file can be written there."""
    if path is not None and not path.parent.is_dir():
        raise typer.BadParameter(f"the folder {path.parent} does not exist")
    if path is not None and path.exists() and not path.is_file():
        raise typer.BadParameter(f"{path} exists and is not a file")
    return path


def read_json_object(path: Path) -> dict[str, object]:
    """Return the JSON object in a file. Raises BadParameter if the file has none, or it cannot be sent."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_JSON_BYTES + 1)
        if len(data) > _MAX_JSON_BYTES:
            raise typer.BadParameter(f"{path} is larger than the limit of {_MAX_JSON_BYTES} bytes")
        value: object = json.loads(data)
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()  # rejects NaN and lone surrogates
    except (OSError, ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise typer.BadParameter(f"{path} must have a JSON object")
    return cast("dict[str, object]", value)


def read_format(path: Path, formats: Mapping[str, F], option: str) -> F:
    """Return the file format that a path's suffix stands for. Raises BadParameter if it stands for none.

    Args:
        path: the file to write.
        formats: suffix → format; PICTURE_FORMATS or VIDEO_FORMATS.
        option: the option that has the path, for the error.
    """
    found = formats.get(path.suffix.lower())
    if found is None:
        *others, last = formats
        raise typer.BadParameter(f"{path} must end with {', '.join(others)} or {last}", param_hint=option)
    return found


def select_format(path: Path, formats: Mapping[str, PictureFormat | VideoFormat], option: str) -> ContentOptions:
    """Return the options of a download with the format that a path's suffix stands for; none for the stored format.

    A video may be written to a file without a suffix. Args, Raises: as `read_format`.
    """
    if not path.suffix and formats is VIDEO_FORMATS:
        return {}
    found = read_format(path, formats, option)
    return cast("ContentOptions", {} if found == next(iter(formats.values())) else {"format": found})


OutputFile = Annotated[Path, typer.Option("-o", "--out", callback=check_target, help="File for the result.")]
MadeFile = Annotated[
    Path,
    typer.Option(
        "-o",
        "--out",
        callback=check_target,
        help="File for the result: .mp4, .gif, .webp or .zip (PNG frames); for a picture .png, .jpg or .webp.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the response as JSON.")]
Limit = Annotated[int, typer.Option(min=1, max=100, help="Maximum number of entries.")]
After = Annotated[str | None, typer.Option(help="Start after the entry with this id.")]


class RunOptions(TypedDict):
    """Options of every command that runs a model."""

    local: Annotated[
        bool, typer.Option("--local", help="Start a local server for this command and stop it afterwards.")
    ]
    as_json: AsJson


class MakeOptions(RunOptions):
    """Options of every command with one result file."""

    out: MadeFile


class ModelOption(TypedDict, total=False):
    """Option of every command that runs one model."""

    model: Annotated[
        str | None,
        typer.Option("--model", metavar="ID", help="Id of the served model to run; reel models lists them."),
    ]


class RoleOptions(TypedDict, total=False):
    """Option of every command that runs a graph."""

    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="ROLE=ID",
            help="Served model to use for a role; reel models lists both. Repeatable.",
        ),
    ]


def assign_roles(options: RoleOptions) -> dict[str, object]:
    """Return the request's field `models`, or no field if no role is given. Raises BadParameter."""
    chosen: dict[str, str] = {}
    for text in options.get("models") or ():
        role, _, model = text.partition("=")
        if not (role and model):
            raise typer.BadParameter(f"must be ROLE=ID, got {text!r}", param_hint="--model")
        if role in chosen:
            raise typer.BadParameter(
                f"{role}: must have one model, got {chosen[role]} and {model}", param_hint="--model"
            )
        chosen[role] = model
    return {"models": chosen} if chosen else {}


def check_either(fields: Mapping[str, object], *options: str) -> None:
    """Raise BadParameter if more than one of these options is given."""
    given = [option for option in options if option.removeprefix("--").replace("-", "_") in fields]
    if len(given) > 1:
        raise typer.BadParameter("give only one", param_hint=", ".join(options))
