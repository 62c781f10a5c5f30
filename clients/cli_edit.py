"""`reel edit`: the rolling edit, from a first frame and edges to a video."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypedDict

import typer

from reelgraph.about import Command
from reelgraph.cli_make import make
from reelgraph.field_options import Fields, Form
from reelgraph.fields import BranchFrom
from reelgraph.grouped import grouped
from reelgraph.options import RoleOptions, RunOptions, assign_roles, target
from reelgraph.order import Order, Result

_FRAMES = re.compile(r"[0-9]{6,9}\.png")
_DEBUG = re.compile(r"[0-9]{6,9}-[A-Za-z0-9_-]{1,64}\.png")


def _folder(path: Path | None) -> Path | None:
    """Check that a folder is there or can be made."""
    if path is not None:
        there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        if not there.is_dir():
            raise typer.BadParameter(f"{there} exists and is not a folder")
    return path


def _table(path: Path | None) -> Path | None:
    if path is not None and path.suffix.lower() not in (".csv", ".json"):
        raise typer.BadParameter(f"{path} must end with .csv or .json")
    return target(path)


def _branch(text: str) -> BranchFrom:
    video, _, frame = text.rpartition(":")
    if not (video and frame.isascii() and frame.isdecimal()):
        raise typer.BadParameter(f"must be VIDEO_ID:FRAME, got {text!r}")
    return {"video": video, "frame": int(frame)}


class EditResults(TypedDict, total=False):
    """What is wanted, and where it goes."""

    out_video: Annotated[Path | None, typer.Option(callback=target, help="Where the video goes.")]
    out_frames_dir: Annotated[
        Path | None,
        typer.Option(file_okay=False, callback=_folder, help="The folder for the frames: 000000.png and so on."),
    ]
    metrics_out: Annotated[
        Path | None, typer.Option(callback=_table, help="Where each frame's scores go: a .csv or .json file.")
    ]
    save_debug_dir: Annotated[
        Path | None,
        typer.Option(file_okay=False, callback=_folder, help="The folder for pictures of what was compared."),
    ]


FORMS = {
    "edge_frames": Form(("--edge-frames-dir",)),
    "steps": Form(("--num-inference-steps",)),
    "branch_from": Form(metavar="VIDEO_ID:FRAME", parser=_branch),
}


def make_edit(command: Command) -> Callable[..., None]:
    """Return the function of the command."""

    @grouped(fields=Fields(command.fields, FORMS, frozenset({"debug"})))
    def edit(
        ctx: typer.Context, fields: dict[str, Any], results: EditResults, roles: RoleOptions, how: RunOptions
    ) -> None:
        _check(fields, results)
        asked = {**fields, **assign_roles(roles)}
        if "save_debug_dir" in results:
            asked["debug"] = True
        make(ctx, Order(command.model, asked, _wanted(results)), how)

    return edit


def _check(fields: Mapping[str, object], results: EditResults) -> None:
    """Raise BadParameter for what cannot be, whatever the server."""
    if not {"out_video", "out_frames_dir"} & results.keys():
        raise typer.BadParameter("give one of them, or both", param_hint="--out-video, --out-frames-dir")
    if {"edge_frames", "edge_video"} <= fields.keys():
        raise typer.BadParameter("give one of them, not both", param_hint="--edge-frames-dir, --edge-video")
    if "branch_from" in fields:
        return
    if not {"edge_frames", "edge_video", "rgb_video"} & fields.keys():
        hint = "--edge-frames-dir, --edge-video, --rgb-video"
        raise typer.BadParameter("there are no edges: give one of them, or --branch-from", param_hint=hint)
    if not {"init_frame", "rgb_video"} & fields.keys():
        hint = "--init-frame, --rgb-video"
        raise typer.BadParameter("there is no first frame: give one of them, or --branch-from", param_hint=hint)


def _wanted(results: EditResults) -> list[Result]:
    wanted: list[Result] = []
    if path := results.get("out_video"):
        wanted.append(Result(path, {"variant": "video"}))
    if path := results.get("out_frames_dir"):
        wanted.append(Result(path, {"variant": "frames"}, _FRAMES))
    if path := results.get("metrics_out"):
        form = "json" if path.suffix.lower() == ".json" else None
        wanted.append(Result(path, {"variant": "metrics", "format": form}))
    if path := results.get("save_debug_dir"):
        wanted.append(Result(path, {"variant": "debug"}, _DEBUG))
    return wanted
