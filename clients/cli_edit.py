"""`reel edit`: runs a rolling edit, from a first frame and edges to a video."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypedDict

import typer

from reelgraph.about import Command
from reelgraph.cli_make import run_command
from reelgraph.field_options import Fields, Form
from reelgraph.fields import BranchFrom
from reelgraph.option_groups import group_options
from reelgraph.options import VIDEO_FORMATS, RoleOptions, RunOptions, assign_roles, check_target, select_format
from reelgraph.order import JobOrder, Result

_FRAMES = re.compile(r"[0-9]{6,9}\.png")
_DEBUG = re.compile(r"[0-9]{6,9}-[A-Za-z0-9_-]{1,64}\.png")


def _check_folder(path: Path | None) -> Path | None:
    """Return the path of a folder. Raises BadParameter if it neither exists nor can be created."""
    if path is not None:
        existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        if not existing.is_dir():
            raise typer.BadParameter(f"{existing} exists and is not a folder")
    return path


def _check_table(path: Path | None) -> Path | None:
    """Return the path of a table of scores. Raises BadParameter."""
    if path is not None and path.suffix.lower() not in (".csv", ".json"):
        raise typer.BadParameter(f"{path} must end with .csv or .json")
    return check_target(path)


def _parse_branch(text: str) -> BranchFrom:
    """Parse VIDEO_ID:FRAME. Raises BadParameter."""
    video, _, frame = text.rpartition(":")
    if not (video and frame.isascii() and frame.isdecimal()):
        raise typer.BadParameter(f"must be VIDEO_ID:FRAME, got {text!r}")
    return {"video": video, "frame": int(frame)}


class EditResults(TypedDict, total=False):
    """Options for the results to download."""

    out_video: Annotated[
        Path | None,
        typer.Option(callback=check_target, help="File for the video: .mp4, .gif, .webp or .zip (PNG frames)."),
    ]
    out_frames_dir: Annotated[
        Path | None,
        typer.Option(file_okay=False, callback=_check_folder, help="Folder for the frames: 000000.png and so on."),
    ]
    metrics_out: Annotated[
        Path | None, typer.Option(callback=_check_table, help="File for the scores of the frames: .csv or .json.")
    ]
    save_debug_dir: Annotated[
        Path | None,
        typer.Option(
            file_okay=False, callback=_check_folder, help="Folder for debug pictures: what the guidance compared."
        ),
    ]


FORMS = {
    "edge_frames": Form(("--edge-frames-dir",)),
    "steps": Form(("--num-inference-steps",)),
    "branch_from": Form(metavar="VIDEO_ID:FRAME", parser=_parse_branch),
}


def make_edit(command: Command) -> Callable[..., None]:
    """Return the function of the command."""

    @group_options(fields=Fields(command.fields, FORMS, frozenset({"debug"})))
    def edit(
        ctx: typer.Context, fields: dict[str, Any], results: EditResults, roles: RoleOptions, how: RunOptions
    ) -> None:
        _check(fields, results)
        request = {**fields, **assign_roles(roles)}
        if "save_debug_dir" in results:
            request["debug"] = True
        video = run_command(ctx, JobOrder(command.model, request, _list_results(results)), how)
        if video.degraded:
            typer.echo(f"reel: the video is not as requested: {' '.join(video.degraded.split())}", err=True)

    return edit


def _check(fields: Mapping[str, object], results: EditResults) -> None:
    """Raise BadParameter for options that no server accepts."""
    if not {"out_video", "out_frames_dir"} & results.keys():
        raise typer.BadParameter("give at least one", param_hint="--out-video, --out-frames-dir")
    if {"edge_frames", "edge_video"} <= fields.keys():
        raise typer.BadParameter("give only one", param_hint="--edge-frames-dir, --edge-video")
    if "branch_from" in fields:
        return
    if not {"edge_frames", "edge_video", "rgb_video"} & fields.keys():
        hint = "--edge-frames-dir, --edge-video, --rgb-video"
        raise typer.BadParameter("edges are required: give one, or --branch-from", param_hint=hint)
    if not {"init_frame", "rgb_video"} & fields.keys():
        hint = "--init-frame, --rgb-video"
        raise typer.BadParameter("a first frame is required: give one, or --branch-from", param_hint=hint)


def _list_results(results: EditResults) -> list[Result]:
    found: list[Result] = []
    if path := results.get("out_video"):
        found.append(Result(path, {"variant": "video", **select_format(path, VIDEO_FORMATS, "--out-video")}))
    if path := results.get("out_frames_dir"):
        found.append(Result(path, {"variant": "frames"}, _FRAMES))
    if path := results.get("metrics_out"):
        form = "json" if path.suffix.lower() == ".json" else None
        found.append(Result(path, {"variant": "metrics", "format": form}))
    if path := results.get("save_debug_dir"):
        found.append(Result(path, {"variant": "debug"}, _DEBUG))
    return found
