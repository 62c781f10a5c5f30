"""Geometry of a face's five key points: how far the face is turned, and its upright crop."""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from services.frames import Features, Pixels

SIDE = 112
"""Width and height of the aligned crop, in pixels."""

TEMPLATE: Features = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)
"""(5, 2): positions of the key points in the crop, in pixels. Source: ArcFace, arXiv 1801.07698, as in insightface."""

NOSE_DEPTH = 0.85
"""Distance of the nose's tip from the plane of eyes and mouth, in halves of the distance between the pupils.

In adults about 27 mm / 32 mm: the pupils are 63 mm apart, and the nose projects about 20 mm from its base, which is
itself a few millimetres in front of the corners of eyes and mouth.
"""


def yaw(keypoints: Features) -> float:
    """Return a face's yaw in degrees: 0 if seen from the front, positive if turned to the picture's right.

    The nose's tip is in front of the line from the midpoint of the eyes to the midpoint of the mouth, so yaw moves it
    across that line. Roll moves tip and line together; pitch moves the tip along the line. An estimate: noses differ.

    Args:
        keypoints: (5, 2), as in `services.frames.Face`, in one unit for x and y.
    """
    points = keypoints.astype(np.float64)
    eyes, mouth = points[:2].mean(0), points[3:].mean(0)
    down = mouth - eyes
    length = math.hypot(*down)
    if length == 0:
        return 90.0
    across = np.array([down[1], -down[0]]) / length
    half = float((points[1] - points[0]) @ across) / 2
    if half <= 0:  # the eyes have swapped sides
        return 90.0
    return math.degrees(math.atan(float((points[2] - eyes) @ across) / half / NOSE_DEPTH))


def measure_roll(keypoints: Features) -> float:
    """Return a face's roll in degrees: 0 if upright, positive if turned clockwise, from -180 to 180.

    Args:
        keypoints: (5, 2) pixels.
    """
    matrix = similarity(keypoints)
    return math.degrees(math.atan2(matrix[0, 1], matrix[0, 0]))


def similarity(keypoints: Features) -> NDArray[np.float64]:
    """Return the (3, 3) similarity transform from the key points to the template, by least squares.

    Source: Umeyama, Least-squares estimation of transformation parameters between two point patterns, PAMI 1991.

    Args:
        keypoints: (5, 2) pixels, not all at the same point.
    """
    source, target = keypoints.astype(np.float64), TEMPLATE.astype(np.float64)
    source_mean, target_mean = source.mean(0), target.mean(0)
    source, target = source - source_mean, target - target_mean
    left, stretch, right = np.linalg.svd(target.T @ source / len(source))
    flip = np.array([1.0, np.sign(np.linalg.det(left) * np.linalg.det(right))])  # exclude reflections
    scale = float(stretch @ flip) / source.var(0).sum()
    matrix = np.eye(3)
    matrix[:2, :2] = scale * (left * flip) @ right
    matrix[:2, 2] = target_mean - matrix[:2, :2] @ source_mean
    return matrix


def aligned(pixels: Pixels, keypoints: Features) -> Pixels:
    """Return the upright crop of a face, with its key points on the template; black outside the picture.

    Equals insightface's `norm_crop`, except that a face of at least twice the crop's size is averaged down first.

    Args:
        pixels: (height, width, 3) uint8.
        keypoints: (5, 2) pixels; integers are pixel centres.

    Returns:
        (1, 112, 112, 3) uint8.
    """
    matrix = similarity(keypoints)
    shrink = max(1, int(1 / math.sqrt(np.linalg.det(matrix[:2, :2]))))
    picture = Image.fromarray(pixels)
    if shrink > 1:
        picture = picture.reduce(shrink)
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])  # in PIL integers are pixel corners
    back = np.diag([1 / shrink, 1 / shrink, 1]) @ half @ np.linalg.inv(matrix) @ np.linalg.inv(half)
    coefficients = tuple(back[:2].ravel().tolist())
    crop = picture.transform((SIDE, SIDE), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    return np.array(crop)[None]
