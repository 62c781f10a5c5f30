"""Picture quality against a reference: PSNR, SSIM and GMSD, implemented from their papers. Needs only numpy."""

import math
from typing import TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Picture: TypeAlias = NDArray[np.uint8]
"""(height, width, 3) uint8 RGB."""
Plane: TypeAlias = NDArray[np.float64]
"""(height, width), in levels from 0 to 255."""

LEVELS = 255.0
SIDE, SIGMA = 11, 1.5
"""Size and standard deviation of SSIM's Gaussian window, in pixels."""
C1, C2 = (0.01 * LEVELS) ** 2, (0.03 * LEVELS) ** 2
"""Constants of SSIM."""
C = 170.0
"""Constant of GMSD for levels from 0 to 255."""


def psnr(one: Picture, other: Picture) -> float:
    """Return the peak signal-to-noise ratio over all samples of all colours, in dB; infinite for equal pictures.

    Raises:
        ValueError: the pictures differ in size.
    """
    _alike(one, other)
    error = float(((one.astype(np.float64) - other) ** 2).mean())
    return 10 * math.log10(LEVELS**2 / error) if error else math.inf


def ssim(one: Picture, other: Picture) -> float:
    """Return the mean structural similarity of the luma; at most 1, for equal pictures.

    It is averaged over the windows that lie wholly inside, at full resolution.

    Source: Image Quality Assessment: From Error Visibility to Structural Similarity, Wang et al., 2004.

    Raises:
        ValueError: the pictures differ in size, or are smaller than a window.
    """
    _alike(one, other)
    if min(one.shape[:2]) < SIDE:
        raise ValueError(f"SSIM: pictures must be at least {SIDE}x{SIDE} pixels, got {one.shape[1]}x{one.shape[0]}")
    a, b = luma(one), luma(other)
    mean_a, mean_b = _blurred(a), _blurred(b)
    variance_a, variance_b = _blurred(a * a) - mean_a**2, _blurred(b * b) - mean_b**2
    covariance = _blurred(a * b) - mean_a * mean_b
    alike = (2 * mean_a * mean_b + C1) * (2 * covariance + C2)
    apart = (mean_a**2 + mean_b**2 + C1) * (variance_a + variance_b + C2)
    return float((alike / apart).mean())


def gmsd(one: Picture, other: Picture) -> float:
    """Return the gradient magnitude similarity deviation of the luma: 0 for equal pictures, lower is better.

    As in the authors' program, the picture is padded with zeros, and the deviation is that of a sample (n - 1).

    Source: Gradient Magnitude Similarity Deviation, Xue et al., 2014.

    Raises:
        ValueError: the pictures differ in size, or are no larger than 2x2 pixels.
    """
    _alike(one, other)
    a, b = (_steepness(_halved(luma(picture))) for picture in (one, other))
    if a.size < 2:
        raise ValueError(f"GMSD: pictures must be larger than 2x2 pixels, got {one.shape[1]}x{one.shape[0]}")
    return float(((2 * a * b + C) / (a * a + b * b + C)).std(ddof=1))


def luma(picture: Picture) -> Plane:
    """Return the luma (Y of BT.601, full range)."""
    return picture.astype(np.float64) @ np.array([0.299, 0.587, 0.114])


def _alike(one: Picture, other: Picture) -> None:
    if one.shape != other.shape or one.ndim != 3 or one.shape[2] != 3:
        raise ValueError(f"pictures must have one shape (h, w, 3), got {one.shape} and {other.shape}")


def _blurred(plane: Plane) -> Plane:
    """Average over the Gaussian window wherever it lies inside: (h, w) → (h - 10, w - 10)."""
    at = np.arange(SIDE) - SIDE // 2
    weights = np.exp(-(at**2) / (2 * SIGMA**2))
    weights /= weights.sum()
    down = sliding_window_view(plane, SIDE, axis=0) @ weights
    return sliding_window_view(down, SIDE, axis=1) @ weights


def _halved(plane: Plane) -> Plane:
    """Return the mean of each 2 x 2 pixels; odd sides are padded with zeros."""
    height, width = plane.shape
    even = np.pad(plane, ((0, height % 2), (0, width % 2)))
    return even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2).mean((1, 3))


def _steepness(plane: Plane) -> Plane:
    """Return the gradient magnitude by Prewitt's filters, in the same size."""
    wide = np.pad(plane, 1)
    rows = wide[:-2] + wide[1:-1] + wide[2:]
    columns = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    return np.hypot(rows[:, 2:] - rows[:, :-2], columns[2:] - columns[:-2]) / 3
