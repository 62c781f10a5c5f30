"""Preparing a transparent picture for a model that knows only opaque ones, and its opacity afterwards.

All functions block; async callers run them in a thread.
"""

# SciPy has no type stubs.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from typing import Any, cast

import numpy as np
from scipy import ndimage

from services.frames import Pixels

FAINT = 8
"""Opacity below which a colour is taken from a neighbour, because it is invisible and often arbitrary."""
REACH = 2
"""Distance in pixels at which the opacity of neighbours limits that of the enlarged picture."""


def fill_transparent(pixels: Pixels, alpha: Pixels) -> Pixels:
    """Return a picture whose transparent pixels have the colour of the nearest pixel that is not transparent.

    Without this, the hidden colours of transparent pixels, mostly black or white, become a halo around what is shown.

    Args:
        pixels: (h, w, 3) uint8, straight (not premultiplied) colours.
        alpha: (h, w) uint8, the opacity.
    """
    hidden = alpha < min(FAINT, max(1, int(alpha.max())))
    if not hidden.any() or hidden.all():
        return pixels
    nearest = cast("Any", ndimage.distance_transform_edt(hidden, return_distances=False, return_indices=True))
    return np.ascontiguousarray(pixels[nearest[0], nearest[1]])


def limit_alpha(enlarged: Pixels, alpha: Pixels) -> Pixels:
    """Return an enlarged opacity that is nowhere outside the range of the opacities around it in the original.

    What was fully transparent or opaque therefore is so again, however the model rounds.

    Args:
        enlarged: (s · h, s · w) uint8, for a whole number s.
        alpha: (h, w) uint8, the original opacity.
    """
    scale, side = enlarged.shape[0] // alpha.shape[0], 2 * REACH + 1
    least, most = (
        cast("Pixels", filtered(alpha, size=side, mode="nearest")).repeat(scale, 0).repeat(scale, 1)
        for filtered in (ndimage.minimum_filter, ndimage.maximum_filter)
    )
    return np.clip(enlarged, least, most)
