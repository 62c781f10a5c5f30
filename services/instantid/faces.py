"""Detected faces, and the choice of the one to use."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.errors import InvalidParameter
from services.frames import Features, Frames
from services.instantid.geometry import yaw
from services.instantid.request import FIELD, Requirements

SMALL = 1.25
"""Multiple of `min_face` below which an accepted face is reported as small."""


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A detected face, in pixels of the picture."""

    box: Features
    """(4,): left, top, right, bottom; the box may extend beyond the picture."""
    keypoints: Features
    """(5, 2): x and y of the eyes, the nose and the corners of the mouth; left before right, as seen with the face
    upright."""
    score: float
    """The detector's probability that this is a face."""

    @property
    def sides(self) -> tuple[int, int]:
        """Width and height of the box, in whole pixels."""
        left, top, right, bottom = (float(side) for side in self.box)
        return round(right - left), round(bottom - top)

    @property
    def area(self) -> float:
        """Area of the box, in square pixels."""
        left, top, right, bottom = (float(side) for side in self.box)
        return (right - left) * (bottom - top)


def choose_face(
    faces: Sequence[Found], image: Frames, requirements: Requirements, quarters: int = 0
) -> tuple[Found, str]:
    """Return the largest face in `image`, and a notice for the user about its quality, empty if it has no defects.

    Args:
        faces: the faces of the picture.
        image: one frame.
        requirements: what a face must be like.
        quarters: by how many quarter turns the faces are turned clockwise.

    Raises:
        InvalidParameter: the picture has no face, or its largest face is too small or turned too far.
    """
    if not faces:
        raise InvalidParameter("face: there is no face in this picture", param=FIELD)
    face = max(faces, key=lambda found: found.area)
    (width, height), turned = face.sides, abs(yaw(face.keypoints))
    if min(width, height) < requirements.min_face:
        raise InvalidParameter(
            f"face: must be at least {requirements.min_face} pixels wide and high, got {width}x{height}", param=FIELD
        )
    if turned > requirements.max_yaw:
        raise InvalidParameter(
            f"face: may be turned at most {requirements.max_yaw:g} degrees to the side, got about {turned:.0f}",
            param=FIELD,
        )
    notices = {
        f"{len(faces)} faces were found, and the largest is taken": len(faces) > 1,
        f"the face is small: {width}x{height} pixels": min(width, height) < SMALL * requirements.min_face,
        f"the face is turned about {turned:.0f} degrees to the side": turned > requirements.max_yaw / 2,
        f"the face is turned clockwise by {90 * quarters} degrees: turn the picture upright": quarters > 0,
        "a part of the face lies outside the picture": not _inside(face.keypoints, image),
    }
    return face, "; ".join(notice for notice, holds in notices.items() if holds)


def _inside(keypoints: Features, image: Frames) -> bool:
    return bool(((keypoints >= 0) & (keypoints < (image.width, image.height))).all())


def fractions(places: Features, width: int, height: int) -> Features:
    """Convert (..., 2) x and y from pixels to fractions of the picture's width and height."""
    return (places / np.array([width, height])).astype(np.float32)
