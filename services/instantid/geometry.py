"""Where the five key points of a face lie: how far it is turned, and how it is brought upright."""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from services.frames import Features, Pixels

SIDE = 112
"""Pixels of the aligned crop."""

TEMPLATE: Features = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)
"""(5, 2), where the key points lie in the crop, in pixels. Source: ArcFace, arXiv 1801.07698, as in insightface."""

NOSE_DEPTH = 0.85
"""How far the nose's tip stands out from the plane of eyes and mouth, in halves of the distance between the pupils.

About 27 mm of 32 mm in adults: pupils 63 mm apart, and the nose stands out some 20 mm from its base, which itself lies
some millimetres before the corners of eyes and mouth.
"""


def yaw(keypoints: Features) -> float:
    """Return how far a face is turned to the side, in degrees: 0 seen from the front, positive to the picture's right.

    The nose's tip lies before the line from between the eyes to between the corners of the mouth, so a turned head
    moves it across that line. Rolling or nodding moves it along with the line, or along it. An estimate: noses differ.

    Args:
        keypoints: (5, 2), as in `services.frames.Face`, in any unit that is the same for x and y.
    """
    points = keypoints.astype(np.float64)
    eyes, mouth = points[:2].mean(0), points[3:].mean(0)
    down = mouth - eyes
    length = math.hypot(*down)
    if length == 0:
        return 90.0
    across = np.array([down[1], -down[0]]) / length
    half = float((points[1] - points[0]) @ across) / 2
    if half <= 0:  # the eyes have passed each other
        return 90.0
    return math.degrees(math.atan(float((points[2] - eyes) @ across) / half / NOSE_DEPTH))


def similarity(keypoints: Features) -> NDArray[np.float64]:
    """Return the (3, 3) matrix that turns, scales and moves the key points onto the template, by least squares.

    Source: Umeyama, Least-squares estimation of transformation parameters between two point patterns, PAMI 1991.

    Args:
        keypoints: (5, 2) pixels, which do not all fall together.
    """
    source, target = keypoints.astype(np.float64), TEMPLATE.astype(np.float64)
    source_mean, target_mean = source.mean(0), target.mean(0)
    source, target = source - source_mean, target - target_mean
    left, stretch, right = np.linalg.svd(target.T @ source / len(source))
    flip = np.array([1.0, np.sign(np.linalg.det(left) * np.linalg.det(right))])  # a mirror image is no turn
    scale = float(stretch @ flip) / source.var(0).sum()
    matrix = np.eye(3)
    matrix[:2, :2] = scale * (left * flip) @ right
    matrix[:2, 2] = target_mean - matrix[:2, :2] @ source_mean
    return matrix


def aligned(pixels: Pixels, keypoints: Features) -> Pixels:
    """Cut the face out, upright: the key points come to lie on the template. Black where the picture ends.

    As `norm_crop` of insightface, except that a face of more than twice the size is averaged down first.

    Args:
        pixels: (height, width, 3) uint8.
        keypoints: (5, 2) pixels, counted at their centres.

    Returns:
        (1, 112, 112, 3) uint8.
    """
    matrix = similarity(keypoints)
    shrink = max(1, int(1 / math.sqrt(np.linalg.det(matrix[:2, :2]))))
    picture = Image.fromarray(pixels)
    if shrink > 1:
        picture = picture.reduce(shrink)
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])  # PIL counts from the corners of pixels
    back = np.diag([1 / shrink, 1 / shrink, 1]) @ half @ np.linalg.inv(matrix) @ np.linalg.inv(half)
    coefficients = tuple(back[:2].ravel().tolist())
    crop = picture.transform((SIDE, SIDE), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    return np.array(crop)[None]
