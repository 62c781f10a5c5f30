"""A sheet of pictures in rows and columns, with what they are written beside them."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.picture_quality import Picture, luma

GAP = 6
"""Pixels between pictures."""
HEAD, SIDE = 26, 78
"""Pixels for the headings above, and for the names beside."""
TEXT = 15
"""Pixels of the letters' height."""
STEP = 16
"""Pixels between the places where a part may begin."""
PAPER, INK = (255, 255, 255), (40, 40, 40)


def contact_sheet(rows: Mapping[str, Sequence[Picture]], headings: Sequence[str]) -> Image.Image:
    """Draw pictures of one size.

    Args:
        rows: name → the row's pictures, one for each heading.
        headings: what stands above the columns.

    Raises:
        ValueError: a row has another number of pictures, or a picture another size.
    """
    pictures = [picture for row in rows.values() for picture in row]
    height, width = pictures[0].shape[:2]
    if {len(row) for row in rows.values()} != {len(headings)} or {p.shape for p in pictures} != {(height, width, 3)}:
        raise ValueError(f"each row takes {len(headings)} pictures of {width}x{height}")
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
    """Return rows and columns of the part in which there is most to see.

    Args:
        picture: where to look.
        width: of the part, in pixels.
        height: of the part, in pixels.
        power: of the differences between neighbours that are summed: 1 finds fine texture, 4 the sharpest edges.
    """
    grey = luma(picture)
    places = [
        (slice(top, top + height), slice(left, left + width))
        for top in range(0, grey.shape[0] - height + 1, STEP)
        for left in range(0, grey.shape[1] - width + 1, STEP)
    ]
    return max(places, key=lambda at: sum((np.abs(np.diff(grey[at], axis=axis)) ** power).mean() for axis in (0, 1)))
