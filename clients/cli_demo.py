"""`reel demo` and `reel gallery`: sample results of the graphs with the miniatures."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from reelgraph.cli_make import local_client, print_results
from reelgraph.options import AsJson
from reelgraph.order import JobOrder, Result, run_job
from reelgraph.progress import make_display
from reelgraph.server import exec_module, run_module

_CLIP = Path(__file__).parent / "media" / "bouncing-triangle.mp4"
_SCALE = 4


def demo(
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for the results.")] = Path("reel-demo"),
    as_json: AsJson = False,
) -> None:
    """Start a local server, continue a clip of a bouncing shape, upscale the result, and stop the server."""
    out.mkdir(parents=True, exist_ok=True)
    screen = make_display(sys.stderr)
    continuation, large = out / "continuation.mp4", out / f"continuation-x{_SCALE}.mp4"
    with local_client(screen, ["v2v", "realesrgan"]) as client:
        video = run_job(client, JobOrder("v2v", {"input_video": _CLIP}, [Result(continuation, {})]), screen)
        enlarge = JobOrder("realesrgan", {"input_video": continuation, "scale": _SCALE}, [Result(large, {})])
        run_job(client, enlarge, screen)
    caption, sheet = out / "caption.txt", out / "contact-sheet.png"
    caption.write_text(f"{video.caption or ''}\n", encoding="utf-8")
    rows = [("input clip", _CLIP), (f"continuation: {video.caption}", large)]
    run_module("miniatures.sheet", str(sheet), *(word for text, path in rows for word in ("--row", text, str(path))))
    print_results(video, [continuation, large, caption, sheet], as_json=as_json)


def gallery(
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for the page.")] = Path("reel-gallery"),
) -> None:
    """Start a local server, run every graph on the shape world, and write a page of contact sheets."""
    exec_module("miniatures.gallery", str(out))
