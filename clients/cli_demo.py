"""`reel demo` and `reel gallery`: what the graphs make of the shape world, to look at."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from reelgraph.cli_make import local_client, report
from reelgraph.options import AsJson
from reelgraph.order import Order, Result, carry_out
from reelgraph.progress import display
from reelgraph.server import become, finish

_CLIP = Path(__file__).parent / "media" / "bouncing-triangle.mp4"
_SCALE = 4


def demo(
    out: Annotated[Path, typer.Option(file_okay=False, help="The folder for what is made.")] = Path("reel-demo"),
    as_json: AsJson = False,
) -> None:
    """Start a server here, continue a clip of a bouncing shape, enlarge what comes, and stop the server."""
    out.mkdir(parents=True, exist_ok=True)
    screen = display(sys.stderr)
    continuation, large = out / "continuation.mp4", out / f"continuation-x{_SCALE}.mp4"
    with local_client(screen, ["v2v", "realesrgan"]) as client:
        video = carry_out(client, Order("v2v", {"input_video": _CLIP}, [Result(continuation, {})]), screen)
        enlarge = Order("realesrgan", {"input_video": continuation, "scale": _SCALE}, [Result(large, {})])
        carry_out(client, enlarge, screen)
    caption, sheet = out / "caption.txt", out / "contact-sheet.png"
    caption.write_text(f"{video.caption or ''}\n", encoding="utf-8")
    rows = [("the clip that is given", _CLIP), (f"goes on as: {video.caption}", large)]
    finish("miniatures.sheet", str(sheet), *(word for text, path in rows for word in ("--row", text, str(path))))
    report(video, [continuation, large, caption, sheet], as_json=as_json)


def gallery(
    out: Annotated[Path, typer.Option(file_okay=False, help="The folder for the page.")] = Path("reel-gallery"),
) -> None:
    """Start a server here, run every graph on the shape world, and write a page of contact sheets."""
    become("miniatures.gallery", str(out))
