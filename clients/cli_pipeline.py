"""`reel pipeline`: from words to a picture to a video to a larger video; and what the storyboard shares with it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict

import typer

from reelgraph.about import Command
from reelgraph.cli_make import make
from reelgraph.field_options import Fields, Form
from reelgraph.grouped import grouped
from reelgraph.options import MakeOptions, RoleOptions, assign_roles, check_either, ends, target
from reelgraph.order import Order, Result

SHORT = {
    f"{stage}.{name}": Form((f"--{name.replace('_', '-')}",))
    for stage, names in (
        ("animate", ("num_frames", "fps", "motion_bucket_id", "noise_aug_strength")),
        ("upscale", ("scale",)),
    )
    for name in names
}
"""Fields of a stage that are said without its name too."""


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


def make_pipeline(command: Command) -> Callable[..., None]:
    """Return the function of the command. Its result is a picture with --no-animate."""

    @grouped(fields=Fields(command.fields, SHORT))
    def pipeline(
        ctx: typer.Context, fields: dict[str, Any], results: PipelineResults, roles: RoleOptions, how: PipelineOutput
    ) -> None:
        check_either(fields, "--face", "--identity")
        asked = {**fields, **assign_roles(roles)}
        asked.setdefault("animate", True)  # a .mp4 is wanted, also where the server would make none by itself
        make(ctx, Order(command.model, asked, _wanted(asked, results, how["out"])), how, stages=True)

    return pipeline


def _wanted(asked: Mapping[str, object], results: PipelineResults, out: Path) -> Sequence[Result]:
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
