"""`reel storyboard`: from a script of scenes, or a topic, to a film."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from reelgraph.about import Command
from reelgraph.cli_make import make
from reelgraph.cli_pipeline import SHORT
from reelgraph.field_options import Fields
from reelgraph.grouped import grouped
from reelgraph.objects import Video
from reelgraph.options import MakeOptions, RoleOptions, assign_roles, check_either, ends, json_object
from reelgraph.order import Order, Result

PLACEHOLDERS = 4
"""Exit status: the film is there, but some of its scenes could not be made."""
_FILE_ID = "file_"
ScriptFile = Annotated[
    Path | None,
    typer.Argument(
        metavar="SCRIPT.json",
        exists=True,
        dir_okay=False,
        readable=True,
        help="The scenes; a scene's face is a file beside the script, or a file id. Without it: --topic.",
    ),
]


def make_storyboard(command: Command) -> Callable[..., None]:
    """Return the function of the command. A scene that cannot be made is a card, and then the exit status is 4."""

    @grouped(fields=Fields(command.fields, SHORT, frozenset({"script"})))
    def storyboard(
        ctx: typer.Context,
        fields: dict[str, Any],
        roles: RoleOptions,
        how: MakeOptions,
        script: ScriptFile = None,
    ) -> None:
        if (script is None) == ("topic" not in fields):
            raise typer.BadParameter("give one of them", param_hint="SCRIPT.json, --topic")
        check_either(fields, "--face", "--identity")
        if fields.get("animate") is False:
            raise typer.BadParameter("a scene is a video", param_hint="--no-animate")
        ends(how["out"], ".mp4", "--out")
        asked = {**fields, **assign_roles(roles)}
        if script is not None:
            asked["script"] = _script(script)
        video = make(ctx, Order(command.model, asked, [Result(how["out"], {})]), how, stages=True)
        if told := _placeholders(video):
            typer.echo(f"reel: {told}", err=True)
            raise typer.Exit(PLACEHOLDERS)

    return storyboard


def _script(path: Path) -> dict[str, object]:
    """Read a script, with paths in place of the names of files. What else is wrong with it the server says."""
    script = json_object(path)
    scenes = script.get("scenes")
    if not isinstance(scenes, list):
        return script
    return {**script, "scenes": [_scene(scene, path) for scene in cast("list[object]", scenes)]}


def _scene(scene: object, script: Path) -> object:
    """Raises BadParameter where a scene's face is neither a file id nor a file."""
    if not isinstance(scene, dict):
        return scene
    fields = cast("dict[str, object]", scene)
    face = fields.get("face")
    if not isinstance(face, str) or face.startswith(_FILE_ID):
        return fields
    picture = script.parent / face
    try:
        there = picture.is_file()
    except OSError:  # no file can have such a name
        there = False
    if not there:
        number = fields.get("scene_number")
        raise typer.BadParameter(f"the face of scene {number}: {face!r} is no file beside {script}")
    return {**fields, "face": picture}


def _placeholders(video: Video) -> str | None:
    """Say in one line which scenes are placeholders and why; None where there is none."""
    numbers = video.facts.get("placeholders")
    if not numbers:
        return None
    why = " ".join((video.degraded or "the server does not say why").split())
    return f"the film has placeholders for scenes that could not be made ({numbers}): {why}"
