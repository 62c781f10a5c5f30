"""Scores of the recogniser, behind the bundled detector, on drawn people outside the training set."""

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
"""Sides of the pictures in turn, in pixels."""


def scores(folder: Path, count: int = 100) -> dict[str, float]:
    """Return the share of about `count` faces that are found, and how well the found ones are told apart.

    `triplets`: share of the triples (picture, same person, other person) in which the same person is nearer. `nearest`:
    share of pictures whose nearest other picture shows the same person. `same` and `other`: mean cosines.
    """
    service = Studio(checkpoints=folder).model("instantid")
    views = max(2, count // KNOWN)
    whose, found = [], []
    for who in range(KNOWN):
        for seed in range(views):
            face = find_face(service, draw_face(who, seed, SIZES[seed % len(SIZES)]))
            if face is not None:
                whose.append(who)
                found.append(face.embedding)
    share = len(found) / (KNOWN * views)
    return {"found": share, **compare_embeddings(np.array(found), np.array(whose))}


def find_face(service: InstantId, picture: Picture) -> Face | None:
    """Return the face that the service finds in a picture, or None if it finds no acceptable one."""

    async def asked() -> list[Face]:
        async with aclosing(service.find_face(Frames(picture[None]))) as items:
            return [item async for item in items if isinstance(item, Face)]

    try:
        return asyncio.run(asked())[0]
    except InvalidParameter:
        return None


def compare_embeddings(embeddings: NDArray[np.float32], whose: NDArray[np.int_]) -> dict[str, float]:
    """Compare all pairs of embeddings, (n, 512) of length 1, of the people `whose`, (n,)."""
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
