"""`reel edit`: the rolling edit, from a first frame and edges to a video."""

import re
from pathlib import Path
from typing import Annotated, TypedDict

import typer

from reelgraph.cli_make import make
from reelgraph.fields import BranchFrom, EditFields
from reelgraph.folders import files_in
from reelgraph.options import RoleOptions, RunOptions, assign_roles, grouped, target
from reelgraph.order import Order, Result

_FRAMES = re.compile(r"[0-9]{6,9}\.png")
_DEBUG = re.compile(r"[0-9]{6,9}-[A-Za-z0-9_-]{1,64}\.png")
_VIDEO = typer.Option(exists=True, dir_okay=False, readable=True, help="A video of edge pictures.")


def _pictures(path: Path | None) -> Path | None:
    """Check what is given as a sequence of pictures."""
    if path is not None and path.is_dir():
        try:
            files_in(path)
        except OSError as error:
            raise typer.BadParameter(str(error)) from error
    elif path is not None and path.suffix.lower() != ".zip":
        raise typer.BadParameter(f"{path} is neither a folder nor a .zip file")
    return path


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


class EditSources(TypedDict, total=False):
    """What is edited, and along which edges."""

    init_frame: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, readable=True, help="The first frame: a picture.")
    ]
    style_frame: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            readable=True,
            help="A picture whose style the Gram loss holds, where it is not the first frame.",
        ),
    ]
    edge_frames_dir: Annotated[
        Path | None,
        typer.Option(exists=True, readable=True, callback=_pictures, help="Edge pictures: a folder, or a .zip file."),
    ]
    edge_video: Annotated[Path | None, _VIDEO]
    rgb_video: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            readable=True,
            help="A video: edges are taken from it, and the first frame, unless they are given otherwise.",
        ),
    ]
    branch_from: Annotated[
        BranchFrom | None,
        typer.Option(
            parser=_branch,
            metavar="VIDEO_ID:FRAME",
            help="Start from a frame of an old rolling edit; what is not given is taken from it.",
        ),
    ]


class EditOptions(EditFields, total=False):
    """The fields, as options."""

    steps: Annotated[
        int | None, typer.Option("--num-inference-steps", "--steps", help="Denoising steps (--steps for short).")
    ]


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


@grouped
def edit(
    ctx: typer.Context,
    sources: EditSources,
    fields: EditOptions,
    results: EditResults,
    roles: RoleOptions,
    how: RunOptions,
) -> None:
    """Make a video from a first frame and edges: each frame is the one before, edited along the next edges."""
    _check(sources, results)
    files = {
        "init_frame": sources.get("init_frame"),
        "style_frame": sources.get("style_frame"),
        "edge_frames": sources.get("edge_frames_dir"),
        "edge_video": sources.get("edge_video"),
        "rgb_video": sources.get("rgb_video"),
    }
    asked: dict[str, object] = {**fields, **assign_roles(roles)}
    if branch := sources.get("branch_from"):
        asked["branch_from"] = branch
    if "save_debug_dir" in results:
        asked["debug"] = True
    sent = {name: path for name, path in files.items() if path is not None}
    make(ctx, Order("rolling-edit", sent, asked, _wanted(results)), how)


def _check(sources: EditSources, results: EditResults) -> None:
    """Raises BadParameter for what cannot be, whatever the server."""
    if not {"out_video", "out_frames_dir"} & results.keys():
        raise typer.BadParameter("give one of them, or both", param_hint="--out-video, --out-frames-dir")
    if {"edge_frames_dir", "edge_video"} <= sources.keys():
        raise typer.BadParameter("give one of them, not both", param_hint="--edge-frames-dir, --edge-video")
    if "branch_from" in sources:
        return
    if not {"edge_frames_dir", "edge_video", "rgb_video"} & sources.keys():
        hint = "--edge-frames-dir, --edge-video, --rgb-video"
        raise typer.BadParameter("there are no edges: give one of them, or --branch-from", param_hint=hint)
    if not {"init_frame", "rgb_video"} & sources.keys():
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
