"""Draws labelled pictures in rows and columns."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.picture_quality import Picture, luma

GAP = 6
"""Pixels between pictures."""
HEAD, SIDE = 26, 78
"""Height of the column headings and width of the row names, in pixels."""
TEXT = 15
"""Font size in pixels."""
STEP = 16
"""Pixels between candidate positions of a crop."""
PAPER, INK = (255, 255, 255), (40, 40, 40)


def contact_sheet(rows: Mapping[str, Sequence[Picture]], headings: Sequence[str]) -> Image.Image:
    """Draw pictures of equal size in a table.

    Args:
        rows: name → the row's pictures, one per heading.
        headings: names of the columns.

    Raises:
        ValueError: a row has a wrong number of pictures, or a picture a different size.
    """
    pictures = [picture for row in rows.values() for picture in row]
    height, width = pictures[0].shape[:2]
    if {len(row) for row in rows.values()} != {len(headings)} or {p.shape for p in pictures} != {(height, width, 3)}:
        raise ValueError(f"rows: must have {len(headings)} pictures of {width}x{height} each")
    size = SIDE + len(headings) * (width + GAP), HEAD + len(rows) * (height + GAP)
    sheet = Image.new("RGB", size, PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT)
    for column, heading in enumerate(headings):
        pen.text((SIDE + column * (width + GAP) + width / 2, HEAD / 2), heading, INK, font, anchor="mm")
    for index, (name, row) in enumerate(rows.items()):
        top = HEAD + index * (height + GAP)
        pen.text((SIDE / 2, top + height / 2), name, INK, font, anchor="mm")
        for column, picture in enumerate(row):
            sheet.paste(Image.fromarray(picture), (SIDE + column * (width + GAP), top))
    return sheet


def busiest(picture: Picture, width: int, height: int, power: int) -> tuple[slice, slice]:
    """Return the rows and columns of the crop with the most detail.

    Args:
        picture: picture to search.
        width: width of the crop, in pixels.
        height: height of the crop, in pixels.
        power: exponent of the summed differences between neighbours: 1 finds fine texture, 4 the sharpest edges.
    """
    grey = luma(picture)
    places = [
        (slice(top, top + height), slice(left, left + width))
        for top in range(0, grey.shape[0] - height + 1, STEP)
        for left in range(0, grey.shape[1] - width + 1, STEP)
    ]
    return max(places, key=lambda at: sum((np.abs(np.diff(grey[at], axis=axis)) ** power).mean() for axis in (0, 1)))
