"""`reel storyboard`: makes a film from a script of scenes, or from a topic."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from reelgraph.about import Command
from reelgraph.cli_make import run_command
from reelgraph.cli_pipeline import SHORT
from reelgraph.field_options import Fields
from reelgraph.objects import Video
from reelgraph.option_groups import group_options
from reelgraph.options import (
    VIDEO_FORMATS,
    MakeOptions,
    RoleOptions,
    assign_roles,
    check_either,
    read_json_object,
    select_format,
)
from reelgraph.order import JobOrder, Result

PLACEHOLDERS = 4
"""Exit status: the film was made, but some of its scenes failed."""
_FILES = ("face", "audio")
"""Fields of a scene that hold files."""
_FILE_ID = "file_"
ScriptFile = Annotated[
    Path | None,
    typer.Argument(
        metavar="SCRIPT.json",
        exists=True,
        dir_okay=False,
        readable=True,
        help="Script of scenes. A scene's face and audio are files in the script's folder, or file ids. "
        "Alternative: --topic.",
    ),
]


def make_storyboard(command: Command) -> Callable[..., None]:
    """Return the function of the command. If a scene fails, it is a title card, and the exit status is 4."""

    @group_options(fields=Fields(command.fields, SHORT, frozenset({"script"})))
    def storyboard(
        ctx: typer.Context,
        fields: dict[str, Any],
        roles: RoleOptions,
        how: MakeOptions,
        script: ScriptFile = None,
    ) -> None:
        if (script is None) == ("topic" not in fields):
            raise typer.BadParameter("give exactly one", param_hint="SCRIPT.json, --topic")
        check_either(fields, "--face", "--identity")
        if fields.get("animate") is False:
            raise typer.BadParameter("not allowed: every scene is a video", param_hint="--no-animate")
        options = select_format(how["out"], VIDEO_FORMATS, "--out")
        request = {**fields, **assign_roles(roles)}
        if script is not None:
            request["script"] = _read_script(script)
        video = run_command(ctx, JobOrder(command.model, request, [Result(how["out"], options)]), how, stages=True)
        if warning := _describe_placeholders(video):
            typer.echo(f"reel: {warning}", err=True)
            raise typer.Exit(PLACEHOLDERS)

    return storyboard


def _read_script(path: Path) -> dict[str, object]:
    """Return a script with file names replaced by paths. The server validates the rest."""
    script = read_json_object(path)
    scenes = script.get("scenes")
    if not isinstance(scenes, list):
        return script
    return {**script, "scenes": [_resolve_files(scene, path) for scene in cast("list[object]", scenes)]}


def _resolve_files(scene: object, script: Path) -> object:
    """Return a scene with file names replaced by paths. Raises BadParameter if a file does not exist."""
    if not isinstance(scene, dict):
        return scene
    fields = dict(cast("dict[str, object]", scene))
    for field in _FILES:
        name = fields.get(field)
        if isinstance(name, str) and not name.startswith(_FILE_ID):
            fields[field] = _find_file(name, script, f"scene {fields.get('scene_number')}: {field}")
    return fields


def _find_file(name: str, script: Path, place: str) -> Path:
    """Return the path of a file in the script's folder. Raises BadParameter, with `place`, if it does not exist."""
    path = script.parent / name
    try:
        exists = path.is_file()
    except OSError:  # not a valid file name
        exists = False
    if not exists:
        raise typer.BadParameter(f"{place}: {name!r} is not a file in the folder of {script}")
    return path


def _describe_placeholders(video: Video) -> str | None:
    """Return a line with the placeholders and the reason, or None if there are no placeholders."""
    numbers = video.facts.get("placeholders")
    if not numbers:
        return None
    why = " ".join((video.degraded or "the server gave no reason").split())
    return f"the film has placeholders for scenes that failed ({numbers}): {why}"
