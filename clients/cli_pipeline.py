"""`reel pipeline`: runs the full pipeline, from a prompt to a picture, a video and an upscaled video."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict

import typer

from reelgraph.about import Command
from reelgraph.cli_make import run_command
from reelgraph.field_options import Fields, Form
from reelgraph.option_groups import group_options
from reelgraph.options import (
    PICTURE_FORMATS,
    VIDEO_FORMATS,
    MakeOptions,
    RoleOptions,
    assign_roles,
    check_either,
    check_target,
    select_format,
)
from reelgraph.order import JobOrder, Result

SHORT = {
    f"{stage}.{name}": Form((f"--{name.replace('_', '-')}",))
    for stage, names in (
        ("animate", ("num_frames", "fps", "motion_bucket_id", "noise_aug_strength")),
        ("upscale", ("scale",)),
    )
    for name in names
}
"""Fields of a stage whose options may be given without the stage's name; also used by `reel storyboard`."""


class PipelineResults(TypedDict, total=False):
    """Options for additional results."""

    image_out: Annotated[
        Path | None,
        typer.Option(callback=check_target, help="File for the picture that is animated: .png, .jpg or .webp."),
    ]
    video_out: Annotated[
        Path | None,
        typer.Option(callback=check_target, help="File for the video before it is upscaled, with a suffix as for -o."),
    ]


def make_pipeline(command: Command) -> Callable[..., None]:
    """Return the function of the command. Its result is a picture with --no-animate."""

    @group_options(fields=Fields(command.fields, SHORT))
    def pipeline(
        ctx: typer.Context, fields: dict[str, Any], results: PipelineResults, roles: RoleOptions, how: MakeOptions
    ) -> None:
        check_either(fields, "--face", "--identity")
        request = {**fields, **assign_roles(roles)}
        request.setdefault("animate", True)  # the result is a video, even if the server's default is a picture
        run_command(
            ctx, JobOrder(command.model, request, _list_results(request, results, how["out"])), how, stages=True
        )

    return pipeline


def _list_results(request: Mapping[str, object], results: PipelineResults, out: Path) -> Sequence[Result]:
    """Return the results in the order of their completion. Raises BadParameter."""
    image_out, video_out = results.get("image_out"), results.get("video_out")
    is_still = request["animate"] is False
    options = select_format(out, PICTURE_FORMATS if is_still else VIDEO_FORMATS, "--out")
    if is_still and video_out:
        raise typer.BadParameter("not allowed with --no-animate", param_hint="--video-out")
    paths = [path.resolve() for path in (image_out, video_out, out) if path]
    if len(set(paths)) < len(paths):
        raise typer.BadParameter("each result must have a different file", param_hint="--out, --image-out, --video-out")
    found: list[Result] = []
    if image_out:
        found.append(
            Result(image_out, {"variant": "image", **select_format(image_out, PICTURE_FORMATS, "--image-out")})
        )
    if video_out:
        found.append(Result(video_out, {"variant": "video", **select_format(video_out, VIDEO_FORMATS, "--video-out")}))
    is_upscaled_still = is_still and bool(request.get("upscale"))
    return [*found, Result(out, {"variant": "hd", **options} if is_upscaled_still else options)]
