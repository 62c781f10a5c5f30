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
_FILE_ID = "file_"
ScriptFile = Annotated[
    Path | None,
    typer.Argument(
        metavar="SCRIPT.json",
        exists=True,
        dir_okay=False,
        readable=True,
        help="Script of scenes. A scene's face is a file in the script's folder, or a file id. Alternative: --topic.",
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
    return {**script, "scenes": [_resolve_face(scene, path) for scene in cast("list[object]", scenes)]}


def _resolve_face(scene: object, script: Path) -> object:
    """Return a scene with the file name of its face replaced by a path. Raises BadParameter if it does not exist."""
    if not isinstance(scene, dict):
        return scene
    fields = cast("dict[str, object]", scene)
    face = fields.get("face")
    if not isinstance(face, str) or face.startswith(_FILE_ID):
        return fields
    picture = script.parent / face
    try:
        exists = picture.is_file()
    except OSError:  # not a valid file name
        exists = False
    if not exists:
        number = fields.get("scene_number")
        raise typer.BadParameter(f"scene {number}: face: {face!r} is not a file in the folder of {script}")
    return {**fields, "face": picture}


def _describe_placeholders(video: Video) -> str | None:
    """Return a line with the placeholders and the reason, or None if there are no placeholders."""
    numbers = video.facts.get("placeholders")
    if not numbers:
        return None
    why = " ".join((video.degraded or "the server gave no reason").split())
    return f"the film has placeholders for scenes that failed ({numbers}): {why}"
