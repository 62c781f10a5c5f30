"""Identity: people whom no net has seen, photographed, found by InstantID and painted by Flux as a portrait."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from miniatures import world
from miniatures.faces import KNOWN, draw_face, drawn, person
from miniatures.grammar import caption
from miniatures.identity import as_seen, embedded, recogniser_in
from miniatures.scores.flux import judged, painted
from miniatures.scores.recogniser import face_in
from miniatures.studio import Studio
from miniatures.world import SIDE
from services.frames import Face, Pixels
from services.instantid.arcface import ArcFace
from services.instantid.geometry import aligned
from services.instantid.service import InstantId

PHOTO = 256
"""Pixels of what InstantID is given."""
SEEDS = (0, 1)
REFERENCES = 6
"""Drawings of a person that say how they look in a picture as small as those that are painted."""
CHEEKS, CROWN = (slice(66, 78), (slice(34, 46), slice(66, 78))), (slice(5, 15), slice(46, 66))
"""Rows and columns of an aligned crop that show skin, and hair where there is any."""

Features = NDArray[np.float32]


def scores(folder: Path, count: int = 100) -> dict[str, float]:
    """Return how like themselves the people are in about `count` portraits, by what the recogniser makes of them.

    `right` is the share of portraits to which nobody is nearer than who was given, by drawings of their own; `differ`
    that of all person, other person, seed in which the person's two seeds, painted from one photograph, are nearer than
    the two people with that seed; `colours_right` and `colours_differ` are the same of the colours of skin and hair.
    `shapes` is the share of captions of a shape that are painted as if there were no face beside them, a quarter as
    many.

    Args:
        folder: the checkpoints.
        count: portraits; at least two of each person.
    """
    studio = Studio(checkpoints=folder)
    recogniser = recogniser_in(folder / "recogniser")
    photos = max(1, count // (KNOWN * len(SEEDS)))
    faces = [list(itertools.islice(_faces(studio.model("instantid"), who), photos)) for who in range(KNOWN)]
    crops = np.stack([[[_portrait(studio, face, seed) for seed in SEEDS] for face in row] for row in faces])
    known = np.stack([[reference(who, view) for view in range(REFERENCES)] for who in range(KNOWN)])
    found = _measured(_embeddings(recogniser, crops), _embeddings(recogniser, known))
    colours = _measured(colours_of(crops), colours_of(known))
    found |= {f"colours_{name}": value for name, value in colours.items()}
    return {**found, "shapes": float(np.mean([_shape(studio, faces, seed) for seed in range(max(1, count // 4))]))}


def _measured(made: Features, known: Features) -> dict[str, float]:
    """Compare what was painted, (people, photos, seeds, d), with each other, and with drawings, (people, views, d)."""
    apart = [differ(made[:, photo]) for photo in range(made.shape[1])]
    return {"differ": float(np.mean(apart)), "right": right(made.reshape(len(made), -1, known.shape[-1]), known)}


def differ(made: Features) -> float:
    """(people, 2, d) → how often one person's two are nearer than two people's with the same seed."""
    same = np.linalg.norm(made[:, 0] - made[:, 1], axis=-1)  # (people,)
    other = np.linalg.norm(made[:, None] - made[None], axis=-1)  # (people, people, 2)
    return float((same[:, None, None] < other)[~np.eye(len(made), dtype=bool)].mean())


def right(made: Features, known: Features) -> float:
    """How often a portrait, (people, portraits, d), is nearest to the middle of who is meant, (people, views, d)."""
    middles = known.mean(1)
    distances = np.linalg.norm(made[:, :, None] - middles, axis=-1)
    return float((distances.argmin(-1) == np.arange(len(made))[:, None]).mean())


def _faces(eyes: InstantId, who: int) -> Iterator[Face]:
    """What InstantID finds in photographs of somebody, one after the other."""
    found = (face_in(eyes, draw_face(who, seed, PHOTO)) for seed in range(100))
    return (face for face in found if face is not None)


def _portrait(studio: Studio, face: Face, seed: int) -> Pixels:
    """Paint somebody, and cut out the face where it was asked for: (112, 112, 3)."""
    picture = painted(studio, "a portrait", seed, face)
    return aligned(picture, face.keypoints * np.float32(SIDE))[0]


def reference(who: int, view: int) -> Pixels:
    """Draw somebody as small, and cut the face out where a detector would: (112, 112, 3)."""
    rng = np.random.default_rng((who, view, 73))
    picture, keypoints = drawn(person(who), rng, SIDE)
    return aligned(picture, as_seen(rng, keypoints))[0]


def _shape(studio: Studio, faces: list[list[Face]], seed: int) -> bool:
    scene = world.draw(seed, figures=1)
    picture = painted(studio, caption(scene), seed, faces[seed % KNOWN][0])
    return judged(scene, picture)["all"]


def _embeddings(recogniser: ArcFace, crops: Pixels) -> Features:
    """(..., 112, 112, 3) → (..., 512)."""
    with torch.no_grad():
        flat = embedded(recogniser, np.ascontiguousarray(crops.reshape(-1, *crops.shape[-3:])))
    return flat.numpy().reshape(*crops.shape[:-3], -1)


def colours_of(crops: Pixels) -> Features:
    """(..., 112, 112, 3) → (..., 6), RGB of skin and of what is above it, in [0, 1]."""
    rows, sides = CHEEKS
    cheeks = [crops[..., rows, columns, :].mean((-3, -2)) for columns in sides]
    crown = crops[..., CROWN[0], CROWN[1], :].mean((-3, -2))
    return (np.concatenate([np.mean(cheeks, 0), crown], -1) / 255).astype(np.float32)
