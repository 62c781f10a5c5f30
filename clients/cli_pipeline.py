"""`reel pipeline`: from words to a picture to a video to a larger video; and what the storyboard shares with it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict, cast

import typer

from reelgraph.cli_make import make
from reelgraph.fields import MotionFields, MotionSamplingFields, PaintingFields, RestyleFields, UpscaleFields
from reelgraph.options import MakeOptions, RoleOptions, assign_roles, ends, grouped, json_object, target
from reelgraph.order import Order, Result


class RestyleOptions(RestyleFields, total=False):
    """The fields, as options."""

    prompt: Annotated[
        str | None,
        typer.Option("--restyle", metavar="STYLE", help="Have the picture painted anew, in the style that this says."),
    ]


class ShootingOptions(PaintingFields, MotionFields, UpscaleFields, total=False):
    """How a picture is painted and what becomes of it, as options."""

    face: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, readable=True, help="A picture of whoever is to be seen."),
    ]
    identity: Annotated[
        dict[str, object] | None,
        typer.Option(
            parser=lambda path: json_object(Path(path)),
            metavar="FILE.json",
            help="Whoever is to be seen, as reel face --identity-out has written; instead of --face.",
        ),
    ]
    loras: Annotated[
        list[str] | None,
        typer.Option("--lora", metavar="NAME[:WEIGHT]", help="A low-rank adaptation; may be given several times."),
    ]
    restyle: RestyleOptions | None
    animate: MotionSamplingFields | None
    no_restyle: Annotated[bool, typer.Option("--no-restyle", help="Leave the picture as it was painted.")]
    no_upscale: Annotated[bool, typer.Option("--no-upscale", help="Leave the video as small as it was made.")]


class PipelineOptions(ShootingOptions, total=False):
    """And what a picture alone may do without."""

    no_animate: Annotated[bool, typer.Option("--no-animate", help="Make no video: the picture is the result.")]


class PipelineResults(TypedDict, total=False):
    """What is wanted beside the main result, and where it goes."""

    image_out: Annotated[
        Path | None, typer.Option(callback=target, help="Where the picture that is animated goes: a .png file.")
    ]
    video_out: Annotated[
        Path | None, typer.Option(callback=target, help="Where the video goes before it is enlarged: a .mp4 file.")
    ]


class PipelineOutput(MakeOptions):
    """Where the main result goes."""

    out: Annotated[
        Path,
        typer.Option("-o", "--out", callback=target, help="Where the result goes: .mp4, or .png with --no-animate."),
    ]


@grouped
def pipeline(
    ctx: typer.Context,
    prompt: Annotated[str, typer.Argument(help="What the picture shows.")],
    options: PipelineOptions,
    results: PipelineResults,
    roles: RoleOptions,
    how: PipelineOutput,
) -> None:
    """Paint a picture of what a text says, make it move, and enlarge the video; each of it only if it is wanted.

    With --no-animate the result is the picture, enlarged where --scale is given.
    """
    asked = {"prompt": prompt, **shot(options), **assign_roles(roles)}
    asked.setdefault("animate", True)  # a .mp4 is wanted, also where the server would make none by itself
    make(ctx, Order("full-pipeline", {}, asked, _wanted(asked, results, how["out"])), how, stages=True)


def shot(options: PipelineOptions | ShootingOptions) -> dict[str, object]:
    """Return the fields that the options say. Raises BadParameter where they contradict each other."""
    asked: dict[str, object] = {**options}
    if {"face", "identity"} <= asked.keys():
        raise typer.BadParameter("give one of them, not both", param_hint="--face, --identity")
    if not asked.get("loras"):
        asked.pop("loras", None)
    animate = {name: asked.pop(name) for name in MotionFields.__optional_keys__ if name in asked}
    animate |= cast("dict[str, object]", asked.pop("animate", {}))
    upscale = {name: asked.pop(name) for name in UpscaleFields.__optional_keys__ if name in asked}
    stages: dict[str, Any] = {"restyle": asked.pop("restyle", {}), "animate": animate, "upscale": upscale}
    for stage, given in stages.items():
        off = asked.pop(f"no_{stage}", False)
        if off and given:
            named = ", ".join(f"{stage}.{name}" for name in sorted(given))
            raise typer.BadParameter(f"{named} cannot be given for what is left out", param_hint=f"--no-{stage}")
        if off or given:
            asked[stage] = False if off else given
    return asked


def _wanted(asked: dict[str, object], results: PipelineResults, out: Path) -> Sequence[Result]:
    """The results in the order in which they are there. Raises BadParameter."""
    image_out, video_out = results.get("image_out"), results.get("video_out")
    still = asked["animate"] is False
    ends(out, ".png" if still else ".mp4", "--out")
    ends(image_out, ".png", "--image-out")
    ends(video_out, ".mp4", "--video-out")
    if still and video_out:
        raise typer.BadParameter("there is no video with --no-animate", param_hint="--video-out")
    places = [path.resolve() for path in (image_out, video_out, out) if path]
    if len(set(places)) < len(places):
        raise typer.BadParameter("each result needs a file of its own", param_hint="--out, --image-out, --video-out")
    wanted: list[Result] = []
    if image_out:
        wanted.append(Result(image_out, {"variant": "image"}))
    if video_out:
        wanted.append(Result(video_out, {"variant": "video"}))
    enlarged = still and bool(asked.get("upscale"))
    return [*wanted, Result(out, {"variant": "hd"} if enlarged else {})]
