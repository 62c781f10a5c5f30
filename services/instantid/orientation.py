"""Search for faces in a picture that may lie on its side or be upside down."""

from collections.abc import Callable, Sequence

import numpy as np

from services.frames import Features, Pixels
from services.instantid.faces import Found
from services.instantid.geometry import measure_roll

QUARTERS = 4
"""Number of orientations of a picture."""
SURE = 0.999
"""Score of an upright face from which the other orientations are not searched. Of 82 faces turned by a quarter, two or
three quarters, MTCNN gives none more than 0.998."""
UPRIGHT = 45.0
"""Largest roll, in degrees, of a face that counts as upright; with more, it is nearer to upright in another one."""
DOUBT = 0.5
"""A turned face is preferred to an upright one if its probability of being none is below this part of the other's."""

Detect = Callable[[Pixels], list[Found]]


def find_faces(detect: Detect, pixels: Pixels) -> tuple[list[Found], int]:
    """Return the faces of the orientation whose largest face is the surest, and that orientation.

    A detector that is trained on upright faces misses turned ones, or finds their key points in wrong places, which
    makes another person of them.

    Args:
        detect: returns the faces of a picture, (height, width, 3) uint8 RGB.
        pixels: (height, width, 3) uint8 RGB.

    Returns:
        The faces, in pixels of the picture as it is, and the number of quarter turns, 0 to 3, by which they are turned
        clockwise.
    """
    best = detect(pixels)
    if _measure_score(best) >= SURE:
        return best, 0
    doubt, quarters = (1 - _measure_score(best)) * DOUBT, 0
    for turn in range(1, QUARTERS):
        found = detect(np.rot90(pixels, turn).copy())
        if 1 - _measure_score(found) < doubt:
            best, quarters, doubt = found, turn, 1 - _measure_score(found)
    height, width = pixels.shape[:2]
    return [_turn_back(face, quarters, width, height) for face in best], quarters


def _measure_score(found: Sequence[Found]) -> float:
    """Return the score of the largest face; -1 without a face, 0 if it is not upright."""
    if not found:
        return -1.0
    face = max(found, key=lambda each: each.area)
    return face.score if abs(measure_roll(face.keypoints)) <= UPRIGHT else 0.0


def _turn_back(face: Found, quarters: int, width: int, height: int) -> Found:
    """Return a face of a picture that was turned counter-clockwise, in pixels of the picture as it was.

    Args:
        face: the face, in pixels of the turned picture.
        quarters: number of quarter turns.
        width, height: size of the picture before it was turned, in pixels.
    """
    corners, points = face.box.reshape(2, 2), face.keypoints
    for turn in reversed(range(quarters)):
        side = width if turn % 2 == 0 else height
        corners, points = _undo_turn(corners, side), _undo_turn(points, side)
    box = np.concatenate([corners.min(0), corners.max(0)])
    return Found(box, points, face.score)


def _undo_turn(points: Features, width: int) -> Features:
    """Turn points, (n, 2) pixels, a quarter clockwise, into a picture of the given width."""
    return np.stack([width - 1 - points[:, 1], points[:, 0]], 1).astype(np.float32)
