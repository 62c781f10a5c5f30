"""The recogniser, behind the detector that comes with the project: drawn people whom no training has seen."""

import asyncio
from contextlib import aclosing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from miniatures.faces import KNOWN, Picture, draw_face
from miniatures.studio import Studio
from services.errors import InvalidParameter
from services.frames import Face, Frames
from services.instantid.service import InstantId

SIZES = (160, 256)
"""Pixels, by turns."""


def scores(folder: Path, count: int = 100) -> dict[str, float]:
    """Return how many of about `count` faces are found, and how well those that are can be told apart.

    `triplets` is the share of all picture, same person, other person in which the same person is nearer; `nearest` that
    of pictures whose nearest other one shows the same person; `same` and `other` are average cosines.
    """
    service = Studio(checkpoints=folder).model("instantid")
    views = max(2, count // KNOWN)
    whose, found = [], []
    for who in range(KNOWN):
        for seed in range(views):
            face = face_in(service, draw_face(who, seed, SIZES[seed % len(SIZES)]))
            if face is not None:
                whose.append(who)
                found.append(face.embedding)
    share = len(found) / (KNOWN * views)
    return {"found": share, **told_apart(np.array(found), np.array(whose))}


def face_in(service: InstantId, picture: Picture) -> Face | None:
    """What the service says of a picture; None where it takes no face."""

    async def asked() -> list[Face]:
        async with aclosing(service.find_face(Frames(picture[None]))) as items:
            return [item async for item in items if isinstance(item, Face)]

    try:
        return asyncio.run(asked())[0]
    except InvalidParameter:
        return None


def told_apart(embeddings: NDArray[np.float32], whose: NDArray[np.int_]) -> dict[str, float]:
    """Compare (n, 512) embeddings of length 1 of people with numbers, (n,), each with all others."""
    cosines = embeddings @ embeddings.T
    same = whose[:, None] == whose
    itself = np.eye(len(whose), dtype=bool)
    right = [(cosines[i, same[i] & ~itself[i]][:, None] > cosines[i, ~same[i]]).mean() for i in range(len(whose))]
    nearest = np.where(itself, -2, cosines).argmax(1)
    return {
        "triplets": float(np.mean(right)),
        "nearest": float((whose[nearest] == whose).mean()),
        "same": float(cosines[same & ~itself].mean()),
        "other": float(cosines[~same].mean()),
    }
