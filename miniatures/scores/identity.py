"""Scores of identity: portraits by Flux of people outside all training sets, photographed and found by InstantID."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from miniatures import world
from miniatures.faces import KNOWN, draw_face, draw_person, draw_portrait
from miniatures.grammar import caption
from miniatures.identity import add_detector_error, embed_crops, load_recogniser
from miniatures.scores.flux import judge_picture, paint
from miniatures.scores.recogniser import find_face
from miniatures.studio import Studio
from miniatures.world import SIDE
from services.frames import Face, Pixels
from services.instantid.arcface import ArcFace
from services.instantid.geometry import aligned
from services.instantid.service import InstantId

PHOTO = 256
"""Side of InstantID's input pictures, in pixels."""
SEEDS = (0, 1)
REFERENCES = 6
"""Number of drawings per person that represent them at the size of a portrait."""
CHEEKS, CROWN = (slice(66, 78), (slice(34, 46), slice(66, 78))), (slice(5, 15), slice(46, 66))
"""Rows and columns of an aligned crop that show skin, and hair if there is any."""

Features = NDArray[np.float32]


def scores(folder: Path, count: int = 100) -> dict[str, float]:
    """Return how well about `count` portraits keep a person's identity, by the embeddings of the recogniser.

    `right`: share of portraits that are nearest to drawings of the right person. `differ`: share of the triples
    (person, other person, seed) in which two portraits of the person from one photograph are nearer to each other than
    portraits of both people with the same seed. `colours_right` and `colours_differ`: the same for the colours of skin
    and hair. `shapes`: share of captions of a shape (a quarter as many) whose picture a face does not change.

    Args:
        folder: folder of all checkpoints.
        count: number of portraits; at least two per person.
    """
    studio = Studio(checkpoints=folder)
    recogniser = load_recogniser(folder / "recogniser")
    photos = max(1, count // (KNOWN * len(SEEDS)))
    faces = [list(itertools.islice(_faces(studio.model("instantid"), who), photos)) for who in range(KNOWN)]
    crops = np.stack([[[_portrait(studio, face, seed) for seed in SEEDS] for face in row] for row in faces])
    known = np.stack([[draw_reference(who, view) for view in range(REFERENCES)] for who in range(KNOWN)])
    found = _measure(_embeddings(recogniser, crops), _embeddings(recogniser, known))
    colours = _measure(colours_of(crops), colours_of(known))
    found |= {f"colours_{name}": value for name, value in colours.items()}
    return {**found, "shapes": float(np.mean([_shape(studio, faces, seed) for seed in range(max(1, count // 4))]))}


def _measure(portraits: Features, known: Features) -> dict[str, float]:
    """Compare portraits, (people, photos, seeds, d), with each other and with drawings, (people, views, d)."""
    apart = [measure_difference(portraits[:, photo]) for photo in range(portraits.shape[1])]
    return {
        "differ": float(np.mean(apart)),
        "right": measure_right(portraits.reshape(len(portraits), -1, known.shape[-1]), known),
    }


def measure_difference(portraits: Features) -> float:
    """Return the share of triples in which a person's portraits are nearer than two people's: (people, 2, d)."""
    same = np.linalg.norm(portraits[:, 0] - portraits[:, 1], axis=-1)  # (people,)
    other = np.linalg.norm(portraits[:, None] - portraits[None], axis=-1)  # (people, people, 2)
    return float((same[:, None, None] < other)[~np.eye(len(portraits), dtype=bool)].mean())


def measure_right(portraits: Features, known: Features) -> float:
    """Return the share of portraits, (people, portraits, d), nearest to the right mean drawing, (people, views, d)."""
    middles = known.mean(1)
    distances = np.linalg.norm(portraits[:, :, None] - middles, axis=-1)
    return float((distances.argmin(-1) == np.arange(len(portraits))[:, None]).mean())


def _faces(eyes: InstantId, who: int) -> Iterator[Face]:
    """Yield the faces that InstantID finds in photographs of a person."""
    found = (find_face(eyes, draw_face(who, seed, PHOTO)) for seed in range(100))
    return (face for face in found if face is not None)


def _portrait(studio: Studio, face: Face, seed: int) -> Pixels:
    """Generate a portrait and crop its face at the requested position: (112, 112, 3)."""
    picture = paint(studio, "a portrait", seed, face)
    return aligned(picture, face.keypoints * np.float32(SIDE))[0]


def draw_reference(who: int, view: int) -> Pixels:
    """Draw a person at the size of a portrait and crop the face: (112, 112, 3)."""
    rng = np.random.default_rng((who, view, 73))
    picture, keypoints = draw_portrait(draw_person(who), rng, SIDE)
    return aligned(picture, add_detector_error(rng, keypoints))[0]


def _shape(studio: Studio, faces: list[list[Face]], seed: int) -> bool:
    scene = world.draw(seed, figures=1)
    picture = paint(studio, caption(scene), seed, faces[seed % KNOWN][0])
    return judge_picture(scene, picture)["all"]


def _embeddings(recogniser: ArcFace, crops: Pixels) -> Features:
    """Return the embeddings of crops: (..., 112, 112, 3) → (..., 512)."""
    with torch.no_grad():
        flat = embed_crops(recogniser, np.ascontiguousarray(crops.reshape(-1, *crops.shape[-3:])))
    return flat.numpy().reshape(*crops.shape[:-3], -1)


def colours_of(crops: Pixels) -> Features:
    """Return the colours of skin and hair in [0, 1]: (..., 112, 112, 3) → (..., 6)."""
    rows, sides = CHEEKS
    cheeks = [crops[..., rows, columns, :].mean((-3, -2)) for columns in sides]
    crown = crops[..., CROWN[0], CROWN[1], :].mean((-3, -2))
    return (np.concatenate([np.mean(cheeks, 0), crown], -1) / 255).astype(np.float32)
