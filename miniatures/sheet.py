"""Make contact sheets: rows of pictures of one size, with a line of text above each.

`python -m miniatures.sheet OUT.png --row TEXT FILE --row TEXT FILE …` uses videos and pictures;
`--scene SEED STYLE` adds a scene of the shape world, `--person NUMBER` portraits of a drawn person.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from miniatures.clips import read
from miniatures.faces import draw_face
from miniatures.grammar import caption
from miniatures.world import STYLES, Pixels, Style, draw

ACROSS = 8
"""Pictures per row."""
HEIGHT = 128
"""Height of a picture, in pixels."""
GAP, LINE = 4, 26
PAPER, INK = (255, 255, 255), (20, 20, 20)


@dataclass(frozen=True)
class Row:
    """A line of text with pictures below it."""

    text: str
    frames: Pixels


def draw_sheet(rows: Sequence[Row], across: int = ACROSS, height: int = HEIGHT) -> Image.Image:
    """Draw the rows. Of longer clips, `across` frames are shown, including the first and the last."""
    strips = [draw_strip(row.frames, across, height) for row in rows]
    width = max(image.shape[1] for image in strips) + 2 * GAP
    paper = Image.new("RGB", (width, sum(LINE + image.shape[0] + GAP for image in strips) + GAP), PAPER)
    pen, font, top = ImageDraw.Draw(paper), ImageFont.load_default(15), GAP
    for row, image in zip(rows, strips, strict=True):
        pen.text((GAP + 2, top + 4), row.text, INK, font)
        paper.paste(Image.fromarray(image), (GAP, top + LINE))
        top += LINE + image.shape[0] + GAP
    return paper


def draw_strip(frames: Pixels, across: int = ACROSS, height: int = HEIGHT) -> NDArray[np.uint8]:
    """Return evenly spaced frames side by side, enlarged without smoothing: (height, width, 3)."""
    chosen = frames[np.unique(np.linspace(0, len(frames) - 1, across).round().astype(int))]
    width = round(height * frames.shape[2] / frames.shape[1])
    how = Image.Resampling.NEAREST if frames.shape[1] < height else Image.Resampling.LANCZOS
    pictures = [np.asarray(Image.fromarray(frame).resize((width, height), how)) for frame in chosen]
    gap = np.full((height, GAP, 3), PAPER, np.uint8)
    return np.concatenate([part for picture in pictures for part in (gap, picture)][1:], axis=1)


def make_scene_row(seed: int, style: Style) -> Row:
    """Return a row with a scene of the world under its caption."""
    scene = draw(seed, style=style)
    return Row(caption(scene, frames=17, styled=True), scene.clip(17))


def make_person_row(who: int) -> Row:
    """Return a row with several portraits of a drawn person."""
    return Row(f"person {who}", np.stack([draw_face(who, seed, HEIGHT) for seed in range(ACROSS)]))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m miniatures.sheet", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--row", nargs=2, action="append", default=[], metavar=("TEXT", "FILE"))
    parser.add_argument("--scene", nargs=2, action="append", default=[], metavar=("SEED", "STYLE"))
    parser.add_argument("--person", type=int, action="append", default=[], metavar="NUMBER")
    options = parser.parse_args(arguments)
    if not (options.row or options.scene or options.person):
        parser.error("at least one --row, --scene or --person is required")
    for seed, style in options.scene:
        if not seed.isdecimal() or style not in STYLES:
            parser.error(f"--scene {seed} {style}: must be a seed of 0 or more and one of {', '.join(STYLES)}")
    try:
        rows = [Row(text, read(Path(file))) for text, file in options.row]
        rows += [make_scene_row(int(seed), style) for seed, style in options.scene]
        draw_sheet([*rows, *map(make_person_row, options.person)]).save(options.out)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
