"""Sizes at which a picture is animated, where it is placed in them, and what is cut off again."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.errors import InvalidParameter, LimitExceeded
from services.frames import Frames
from services.framing import Box, Framing, place_picture
from services.limits import PictureFit
from services.pixels import fit_picture
from services.sizes import Sides, choose_framing, fit_canvas, fit_content
from services.wan.request import WanRequest

MULTIPLES = st.sampled_from([16, 32, 64])
LENGTHS = st.integers(1, 10_000)
AREAS = st.integers(64 * 64, 4096 * 4096)
PRODUCTION = [(16, 704 * 1280), (32, 704 * 1280), (64, 576 * 1024)]
"""Multiple and area of Wan2.2 I2V-A14B, Wan2.2 TI2V-5B and SVD."""
SHAPES = [
    *((1920, 1080), (1080, 1920), (1440, 1080), (1080, 1080), (2560, 1080), (1280, 720), (720, 900)),
    *((853, 479), (479, 853), (640, 359), (90, 50), (51, 91), (101, 57)),
]


def round_down(width: int, height: int, max_area: int, multiple: int) -> tuple[int, int]:
    """Return the size with each side rounded down to a multiple on its own."""
    ideal = math.sqrt(max_area * width / height)
    across, down = (max(multiple, int(side) // multiple * multiple) for side in (ideal, ideal * height / width))
    return across, down


def show(width: int, height: int, canvas: tuple[int, int]) -> float:
    """Return the scale at which a picture fits into a canvas."""
    return min(canvas[0] / width, canvas[1] / height)


def frame(picture: tuple[int, int], max_area: int, multiple: int, **fields: str) -> Framing:
    request = WanRequest.model_validate({"max_area": max_area, **fields})
    return choose_framing(request, picture, 4096 * 4096, Sides(multiple))


@given(LENGTHS, LENGTHS, AREAS, MULTIPLES)
def test_a_canvas_has_whole_multiples_and_stays_within_the_area(width, height, max_area, multiple):
    canvas = fit_canvas(width, height, max_area, Sides(multiple))
    assert all(side >= multiple and side % multiple == 0 for side in canvas)
    assert math.prod(canvas) <= max_area


@given(LENGTHS, LENGTHS, AREAS, MULTIPLES)
@example(90, 50, 4096, 16)
def test_no_canvas_shows_the_picture_larger(width, height, max_area, multiple):
    canvas = fit_canvas(width, height, max_area, Sides(multiple))
    scale = show(width, height, canvas)
    columns = range(multiple, max_area // multiple + 1, multiple)
    if len(columns) > 400:  # of large areas only the neighbours, which are the likely mistakes
        columns = [max(multiple, canvas[0] + step * multiple) for step in range(-3, 4)]
    for across in columns:
        down = max_area // across // multiple * multiple
        if down:
            # What is shown is rounded to whole pixels, so that half a pixel may be beyond the canvas.
            assert show(width, height, (across, down)) <= scale + 0.5 / min(width, height) + 1e-9


@given(st.integers(50, 4000), st.integers(50, 4000), AREAS, MULTIPLES)
def test_the_picture_is_at_least_as_large_as_with_each_side_rounded_alone(width, height, max_area, multiple):
    old = round_down(width, height, max_area, multiple)
    if math.prod(old) <= max_area:
        content = fit_content(width, height, max_area, Sides(multiple))
        scale = show(width, height, old)
        assert content[0] + 0.5 >= width * scale
        assert content[1] + 0.5 >= height * scale


@given(LENGTHS, LENGTHS, AREAS, MULTIPLES)
def test_a_picture_on_its_side_gets_the_size_on_its_side(width, height, max_area, multiple):
    sides = Sides(multiple)
    assert fit_content(height, width, max_area, sides) == fit_content(width, height, max_area, sides)[::-1]


@given(LENGTHS, LENGTHS, AREAS, MULTIPLES)
def test_what_is_kept_has_the_pictures_aspect_to_within_half_a_pixel(width, height, max_area, multiple):
    framing = frame((width, height), max_area, multiple)
    kept = framing.kept
    assert (kept.width, kept.height) == fit_content(width, height, max_area, Sides(multiple))
    ideal = kept.height * width / height, kept.width * height / width
    assert min(abs(kept.width - ideal[0]), abs(kept.height - ideal[1])) <= 0.5 or 1 in (kept.width, kept.height)
    assert framing.place(width, height) == kept
    left, right = kept.left, framing.width - kept.left - kept.width
    above, below = kept.top, framing.height - kept.top - kept.height
    assert 0 <= right - left <= 1
    assert 0 <= below - above <= 1


@pytest.mark.parametrize(("width", "height", "max_area", "multiple", "canvas"), [
    (1280, 704, 1280 * 704, 32, (1280, 704)),
    (832, 480, 832 * 480, 16, (832, 480)),
    (1920, 1080, 1280 * 720, 16, (1280, 720)),
    (1024, 576, 576 * 1024, 64, (1024, 576)),
    (1920, 1080, 576 * 1024, 64, (1024, 576)),
    (720, 1280, 576 * 1024, 64, (576, 1024)),
    (1, 1, 576 * 1024, 64, (768, 768)),
    (90, 50, 64 * 64, 16, (80, 48)),
    (51, 91, 64 * 64, 16, (48, 80)),
])  # fmt: skip
def test_known_canvases(width, height, max_area, multiple, canvas):
    assert fit_canvas(width, height, max_area, Sides(multiple)) == canvas


def test_a_long_picture_stays_within_the_longest_side():
    assert fit_canvas(5000, 50, 4096 * 4096, Sides(16, longest=1024)) == (1024, 16)
    with pytest.raises(InvalidParameter, match="no side may be longer than 1024 pixels, got 1040x64") as caught:
        choose_framing(WanRequest(size="1040x64"), (64, 64), 4096 * 4096, Sides(16, longest=1024))
    assert caught.value.param == "size"


@pytest.mark.parametrize(("multiple", "max_area"), PRODUCTION)
@pytest.mark.parametrize("picture", SHAPES)
def test_at_production_sizes_nothing_is_stretched(picture, multiple, max_area):
    kept = frame(picture, max_area, multiple).kept
    assert abs(kept.width / picture[0] * picture[1] / kept.height - 1) < 0.002
    assert kept.width * kept.height > 0.88 * max_area


@pytest.mark.parametrize(("fit", "size", "told"), [
    ("pad", "100x50", {"size": "96x48"}),
    ("pad", "17x17", {"size": "16x16"}),
    ("pad", "64x32", {"size": "64x32"}),
    ("pad", "1920x1080", {"size": "1906x1072", "canvas": "1920x1072"}),
    ("pad", "100x79", {"size": "96x76", "canvas": "96x80"}),
    ("crop", "100x79", {"size": "96x64"}),
    ("stretch", "100x79", {"size": "96x64"}),
    ("crop", "100x50", {"size": "96x48"}),
])  # fmt: skip
def test_a_size_that_is_asked_for(fit, size, told):
    assert frame((90, 50), 4096, 16, size=size, fit=fit).list_facts() == told


@pytest.mark.parametrize("fields", [{"size": "65x64"}, {"size": None, "max_area": 65 * 64}])
def test_more_than_the_deployment_accepts(fields):
    with pytest.raises(LimitExceeded, match="at most 4000 pixels"):
        choose_framing(WanRequest(**fields), (64, 64), 4000, Sides(16))


@pytest.mark.parametrize("fit", ["crop", "stretch"])
@pytest.mark.parametrize("picture", SHAPES)
def test_without_padding_the_whole_canvas_is_kept(picture, fit):
    framing = frame(picture, 704 * 1280, 32, fit=fit)
    assert framing.kept == Box(0, 0, framing.width, framing.height)
    assert (framing.width, framing.height) == fit_canvas(picture[0], picture[1], 704 * 1280, Sides(32))


def draw(width: int, height: int) -> Frames:
    """Return a picture whose colours are ramps across and down, with a mark of one colour in each corner."""
    across, down = np.linspace(60, 180, width), np.linspace(60, 180, height)
    pixels = np.stack(np.broadcast_arrays(across[None, :], down[:, None], np.float64(128)), axis=-1).astype(np.uint8)
    for y, x in product((slice(0, 10), slice(-10, None)), repeat=2):
        pixels[y, x] = (250, 250, 250)
    return Frames(pixels[None])


@pytest.mark.parametrize("picture", SHAPES)
def test_with_padding_the_edge_pixels_are_repeated_at_all_sides(picture):
    framing = frame(picture, 64 * 64, 16)
    width, height = picture
    canvas = np.asarray(fit_picture(draw(width, height), framing))
    assert canvas.shape == (framing.height, framing.width, 3)
    kept = framing.kept
    content = kept.cut(canvas[None])[0]
    rows = np.clip(np.arange(framing.height) - kept.top, 0, kept.height - 1)
    columns = np.clip(np.arange(framing.width) - kept.left, 0, kept.width - 1)
    assert np.array_equal(canvas, content[rows][:, columns])


@pytest.mark.parametrize("shape", [(64, 64), (96, 48), (48, 96)])
def test_a_picture_of_another_shape_is_whole_in_the_middle_of_the_size(shape):
    framing = frame((90, 50), 4096, 16, size=f"{shape[0]}x{shape[1]}")
    assert (framing.kept.width, framing.kept.height) == shape
    box = framing.place(90, 50)
    assert abs(box.width / 90 - box.height / 50) < 0.5 / 50
    assert box.width in (shape[0], round(shape[1] * 1.8))
    content = box.cut(np.asarray(fit_picture(draw(90, 50), framing))[None])
    assert_marks(content[0], 5)


def assert_marks(pixels: NDArray[np.uint8], side: int) -> None:
    """Check that the marks of `draw` are in all four corners."""
    for y, x in product((slice(0, side), slice(-side, None)), repeat=2):
        assert pixels[y, x].min() > 200


def test_cropping_cuts_two_sides_evenly_and_stretching_none():
    wide = draw(200, 50)
    crop, stretch = (frame((200, 50), 4096, 16, size="64x64", fit=fit) for fit in ("crop", "stretch"))
    assert np.array_equal(
        np.asarray(fit_picture(wide, crop)),
        np.asarray(fit_picture(Frames(np.ascontiguousarray(wide.pixels[:, :, 75:125])), crop)),
    )
    assert_marks(np.asarray(fit_picture(wide, stretch)), 2)


@given(LENGTHS, LENGTHS, LENGTHS, LENGTHS)
def test_a_placed_picture_lies_inside_in_the_middle_and_fills_one_direction(width, height, across, down):
    box = place_picture(width, height, across, down)
    assert across == box.width or down == box.height
    assert 0 <= box.left <= across - box.width
    assert 0 <= box.top <= down - box.height
    assert abs(across - box.width - 2 * box.left) <= 1
    assert abs(down - box.height - 2 * box.top) <= 1


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
def test_a_picture_of_the_size_is_unchanged(fit: PictureFit):
    picture = draw(64, 48)
    framing = frame((64, 48), 4096, 16, size="64x48", fit=fit)
    assert np.array_equal(np.asarray(fit_picture(picture, framing)), picture.pixels[0])
