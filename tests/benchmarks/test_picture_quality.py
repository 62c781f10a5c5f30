"""PSNR, SSIM and GMSD against slow loops written from the formulas, and their expected properties."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.picture_quality import Picture, gmsd, luma, psnr, ssim

RANDOM = np.random.default_rng(7)
Measure = Callable[[Picture, Picture], float]


def noisy(picture: Picture, levels: float) -> Picture:
    """Add reproducible noise of this many levels."""
    noise = np.random.default_rng(3).normal(size=picture.shape) * levels
    return (picture + noise).round().clip(0, 255).astype(np.uint8)


def blurred(picture: Picture, times: int) -> Picture:
    """Average each pixel with its four neighbours, repeatedly."""
    soft = picture.astype(np.float64)
    for _ in range(times):
        edged = np.pad(soft, ((1, 1), (1, 1), (0, 0)), mode="edge")
        soft = (soft + edged[:-2, 1:-1] + edged[2:, 1:-1] + edged[1:-1, :-2] + edged[1:-1, 2:]) / 5
    return soft.round().astype(np.uint8)


@pytest.fixture(scope="module")
def scene() -> Picture:
    """Discs on a gradient, coarse and fine: (72, 95, 3)."""
    y, x = np.mgrid[:72, :95].astype(np.float64)
    picture = np.stack([x * 2, y * 3, 255 - x - y], 2).clip(40, 200)
    for radius, row, column, colour in ((20, 30, 30, 250), (9, 50, 70, 5), (3, 15, 80, 160)):
        picture[np.hypot(y - row, x - column) < radius] = colour
    return noisy(picture.astype(np.uint8), 2)


# --- against the formulas -----------------------------------------------------------------------------------------


def slow_luma(picture: Picture) -> list[list[float]]:
    return [[0.299 * float(r) + 0.587 * float(g) + 0.114 * float(b) for r, g, b in row] for row in picture]


def slow_ssim(one: Picture, other: Picture) -> float:
    """SSIM by equations 13 to 17 of Wang et al., window by window."""
    a, b = slow_luma(one), slow_luma(other)
    window = {(y, x): math.exp(-(y * y + x * x) / (2 * 1.5 * 1.5)) for y in range(-5, 6) for x in range(-5, 6)}
    whole = sum(window.values())
    weights = {place: weight / whole for place, weight in window.items()}
    found: list[float] = []
    for row in range(5, len(a) - 5):
        for column in range(5, len(a[0]) - 5):
            seen = [(w, a[row + y][column + x], b[row + y][column + x]) for (y, x), w in weights.items()]
            mean_a, mean_b = sum(w * p for w, p, _ in seen), sum(w * q for w, _, q in seen)
            variance_a = sum(w * (p - mean_a) ** 2 for w, p, _ in seen)
            variance_b = sum(w * (q - mean_b) ** 2 for w, _, q in seen)
            covariance = sum(w * (p - mean_a) * (q - mean_b) for w, p, q in seen)
            c1, c2 = 2.55**2, 7.65**2
            found.append(
                (2 * mean_a * mean_b + c1)
                * (2 * covariance + c2)
                / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))
            )
    return sum(found) / len(found)


def slow_gmsd(one: Picture, other: Picture) -> float:
    """GMSD by section II of Xue et al., pixel by pixel, with zeros outside as in the authors' program."""

    def gradients(picture: Picture) -> list[float]:
        full = slow_luma(picture)
        height, width = len(full), len(full[0])

        def at(plane: list[list[float]], y: int, x: int) -> float:
            return plane[y][x] if 0 <= y < len(plane) and 0 <= x < len(plane[0]) else 0.0

        half = [
            [sum(at(full, y + i, x + j) for i in (0, 1) for j in (0, 1)) / 4 for x in range(0, width, 2)]
            for y in range(0, height, 2)
        ]
        found: list[float] = []
        for y in range(len(half)):
            for x in range(len(half[0])):
                across = sum(at(half, y + i, x + 1) - at(half, y + i, x - 1) for i in (-1, 0, 1)) / 3
                down = sum(at(half, y + 1, x + i) - at(half, y - 1, x + i) for i in (-1, 0, 1)) / 3
                found.append(math.sqrt(across**2 + down**2))
        return found

    alike = [(2 * p * q + 170) / (p * p + q * q + 170) for p, q in zip(gradients(one), gradients(other), strict=True)]
    mean = sum(alike) / len(alike)
    return math.sqrt(sum((value - mean) ** 2 for value in alike) / (len(alike) - 1))


@pytest.mark.parametrize("size", [(12, 14), (17, 13), (11, 11)])
def test_they_are_what_the_formulas_say(size: tuple[int, int]) -> None:
    one = RANDOM.integers(0, 256, (*size, 3), np.uint8)
    other = noisy(one, 40)
    assert ssim(one, other) == pytest.approx(slow_ssim(one, other), abs=1e-9)
    assert gmsd(one, other) == pytest.approx(slow_gmsd(one, other), abs=1e-9)
    errors = [(float(a) - float(b)) ** 2 for a, b in zip(one.ravel(), other.ravel(), strict=True)]
    assert psnr(one, other) == pytest.approx(20 * math.log10(255) - 10 * math.log10(sum(errors) / len(errors)))


def test_values_that_can_be_worked_out_by_hand() -> None:
    black, white = (np.full((16, 16, 3), level, np.uint8) for level in (0, 255))
    assert psnr(black, white) == 0
    assert psnr(np.full_like(black, 10), np.full_like(black, 20)) == pytest.approx(10 * math.log10(650.25))
    # Without variance only the term of the means is left: c1 / (255² + c1).
    assert ssim(black, white) == pytest.approx(2.55**2 / (255**2 + 2.55**2))
    assert luma(np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8))[0] == pytest.approx(
        [76.245, 149.685, 29.07]
    )


# --- expected properties ------------------------------------------------------------------------------------------


def test_equal_pictures(scene: Picture) -> None:
    assert psnr(scene, scene.copy()) == math.inf
    assert ssim(scene, scene.copy()) == pytest.approx(1, abs=1e-12)
    assert gmsd(scene, scene.copy()) == 0


@pytest.mark.parametrize("measure", [psnr, ssim, gmsd])
def test_it_is_the_same_both_ways(scene: Picture, measure: Measure) -> None:
    worse = noisy(scene, 12)
    assert measure(scene, worse) == pytest.approx(measure(worse, scene), abs=1e-12)


@pytest.mark.parametrize(("measure", "better"), [(psnr, 1), (ssim, 1), (gmsd, -1)])
def test_more_noise_and_more_blur_are_worse(scene: Picture, measure: Measure, better: int) -> None:
    for spoiled in ([noisy(scene, levels) for levels in (2, 6, 15, 40)], [blurred(scene, n) for n in (1, 2, 4, 8)]):
        values = [better * measure(scene, worse) for worse in spoiled]
        assert values == sorted(values, reverse=True)
        assert len(set(values)) == len(values)


def test_gmsd_hears_structure_where_psnr_only_hears_levels(scene: Picture) -> None:
    """A brighter picture keeps its gradients; a blurred one with the same difference in levels does not."""
    blurry = blurred(scene, 8)
    lighter = (scene + np.sqrt(((scene.astype(float) - blurry) ** 2).mean()).round()).clip(0, 255).astype(np.uint8)
    assert psnr(scene, lighter) == pytest.approx(psnr(scene, blurry), abs=0.5)
    assert gmsd(scene, lighter) < gmsd(scene, blurry) / 2


# --- invalid input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", [psnr, ssim, gmsd])
def test_pictures_of_other_sizes_are_refused(scene: Picture, measure: Measure) -> None:
    with pytest.raises(ValueError, match=r"got \(72, 95, 3\) and \(72, 94, 3\)"):
        measure(scene, scene[:, :-1])
    with pytest.raises(ValueError, match="pictures must have one shape"):
        measure(scene[..., 0], scene[..., 0])


def test_pictures_that_are_too_small_are_refused(scene: Picture) -> None:
    with pytest.raises(ValueError, match="SSIM: pictures must be at least 11x11 pixels, got 95x10"):
        ssim(scene[:10], scene[:10])
    with pytest.raises(ValueError, match="GMSD: pictures must be larger than 2x2 pixels, got 2x2"):
        gmsd(scene[:2, :2], scene[:2, :2])
