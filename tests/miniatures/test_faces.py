"""Drawn faces: reproducible from number and seed, and found by the shipped detector."""

import numpy as np
import pytest
import torch

from miniatures.faces import KNOWN, draw_face, draw_person, draw_portrait
from miniatures.recogniser import SEEN_AT, SEEN_WITHIN
from services.instantid.geometry import similarity
from services.instantid.mtcnn import Mtcnn
from services.instantid.settings import MtcnnSettings


@pytest.fixture(scope="module")
def seen() -> list[tuple[np.ndarray, np.ndarray, list]]:
    """Picture, true key points and MTCNN's detections of all reserved people, in both sizes."""
    detector = Mtcnn(MtcnnSettings(), torch.device("cpu"))
    views = []
    for who in range(KNOWN):
        for size in (160, 256):
            picture, keypoints = draw_portrait(draw_person(who), np.random.default_rng((who, size)), size)
            views.append((picture, keypoints, detector.detect(picture, lambda: None)))
    return views


def test_a_face_is_known_by_its_numbers():
    face = draw_face(3, 7)
    assert face.shape == (160, 160, 3)
    assert face.dtype == np.uint8
    assert (face == draw_face(3, 7)).all()
    for other in (draw_face(3, 8), draw_face(4, 7)):
        assert np.abs(face.astype(int) - other).mean() > 5
    assert draw_face(3, 7, 96).shape == (96, 96, 3)


def test_people_differ():
    people = [draw_person(number) for number in range(60)]
    assert len({(who.cut, who.beard, who.glasses) for who in people}) > 20
    looks = np.array([np.concatenate([who.skin, who.hair, [100 * who.apart, 100 * who.nose]]) for who in people])
    distances = np.linalg.norm(looks[:, None] - looks, axis=-1)
    assert distances[np.triu_indices(60, 1)].min() > 5


def test_the_detector_finds_them(seen):
    found = [max(faces, key=lambda face: face.area) for _, _, faces in seen if len(faces)]
    assert len(found) >= 0.9 * len(seen)
    assert all(len(faces) < 2 for _, _, faces in seen)
    assert np.mean([min(face.sides) >= 64 for face in found]) >= 0.9  # the default minimum of a face


def test_the_detector_sees_nothing_where_there_is_no_face(seen):
    detector = Mtcnn(MtcnnSettings(), torch.device("cpu"))
    picture = seen[0][0].copy()
    picture[40:140] = picture[:20].mean((0, 1)).astype(np.uint8)
    assert not detector.detect(picture, lambda: None)


def test_the_recogniser_learns_from_key_points_as_they_are_seen(seen):
    away = []
    for _, keypoints, faces in seen:
        if faces:
            turn = similarity(keypoints)[:2, :2]
            away.append((max(faces, key=lambda face: face.area).keypoints - keypoints) @ turn.T)
    assert np.abs(np.mean(away, 0) - SEEN_AT).max() < 1.0
    assert 0.5 * SEEN_WITHIN < np.std(away, 0).mean() < 1.5 * SEEN_WITHIN
