"""The seam of V2V at production sizes: nothing moves, is stretched, cut off or recoloured where it continues.

Wan's place is taken by a service that fits the picture as Wan and SVD do and repeats it.
"""

from collections.abc import AsyncGenerator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from composition.graphs.run import Known
from composition.graphs.v2v.seam import ColourMatch
from services.frames import Fact, Frames, Item, Pixels
from services.pixels import fit_picture
from services.sizes import Sides, choose_framing
from services.wan.request import WanRequest
from tests.composition import sample_media as media
from tests.composition.rolling import facts, of
from tests.composition.seams import Room, draw_circle, measure_circle, measure_difference

GROUND, CIRCLE, MARK = (64, 64, 64), (64, 200, 64), 250
CLIPS = [
    *((1920, 1080), (1280, 720), (1080, 1920), (1440, 1080), (1080, 1080), (2560, 1080), (720, 900)),
    *((853, 479), (640, 359), (479, 853), (90, 50), (51, 91)),
]
CHECKPOINTS = [(16, 704 * 1280), (32, 704 * 1280), (64, 576 * 1024)]
"""Multiple and area of Wan2.2 I2V-A14B, Wan2.2 TI2V-5B and SVD."""


class Repeater:
    """Repeats its picture, at the sizes of a checkpoint.

    Args:
        multiple: sides are multiples of this.
        max_area: largest number of pixels of a frame.
        gain, offset: applied to the levels of all frames.
    """

    def __init__(self, multiple: int, max_area: int, gain: float = 1.0, offset: float = 0.0) -> None:
        self._sides = Sides(multiple)
        self._max_area = max_area
        self._gain, self._offset = gain, offset
        self.starts: list[int] = []

    async def animate(
        self, request: WanRequest, image: Frames, last_image: Frames | None = None, start: int = 0, key: str = ""
    ) -> AsyncGenerator[Item]:
        assert last_image is None
        self.starts.append(start)
        framing = choose_framing(request, (image.width, image.height), self._max_area, self._sides)
        for name, value in framing.list_facts().items():
            yield Fact(name, value)
        canvas = np.asarray(fit_picture(image, framing), np.float64)[None]
        assert canvas.shape[1] % self._sides.multiple == canvas.shape[2] % self._sides.multiple == 0
        levels = np.clip(np.rint(canvas * self._gain + self._offset), 0, 255).astype(np.uint8)
        picture = framing.kept.cut(levels)
        for first in range(start, request.num_frames, 2):
            count = min(2, request.num_frames - first)
            yield Frames(np.repeat(picture, count, axis=0), first, Fraction(16))

    async def stop(self, key: str) -> None:
        """Nothing runs that could be stopped."""


def room(
    folder: Path, multiple: int = 16, max_area: int = 704 * 1280, levels: tuple[float, float] = (1.0, 0.0)
) -> Room:
    return Room(folder, Repeater(multiple, max_area, *levels))


def draw(width: int, height: int) -> Pixels:
    """Draw a circle in green on grey, and a mark in red in each corner."""
    picture = draw_circle(width, height, GROUND, CIRCLE)
    side = max(3, min(width, height) // 20)
    for rows in (slice(side), slice(-side, None)):
        for columns in (slice(side), slice(-side, None)):
            picture[rows, columns, 0] = MARK
    return picture


def measure(picture: Pixels) -> NDArray[np.float64]:
    """Return the centre and the diameters of the circle, whatever the marks."""
    return measure_circle(picture[..., 1:], GROUND[1:], CIRCLE[1:])


def check_marks(picture: Pixels, height: int) -> None:
    """Check that the marks are in the corners. `height` is that of the shorter side of the clip, in pixels."""
    side = max(1, round(max(3, height // 20) * min(picture.shape[:2]) / height * 0.5))
    for rows in (slice(side), slice(-side, None)):
        for columns in (slice(side), slice(-side, None)):
            assert picture[rows, columns, 0].mean() > 0.85 * MARK


@pytest.mark.parametrize(("multiple", "max_area"), CHECKPOINTS)
@pytest.mark.parametrize("size", CLIPS)
async def test_a_joined_circle_stays_where_and_as_it_is(tmp_path, size, multiple, max_area):
    picture = draw(*size)
    joined = await room(tmp_path, multiple, max_area).join(picture, max_area=max_area)
    assert joined.shape == (4, size[1], size[0], 3)
    assert np.array_equal(joined[0], joined[-1])
    before, after = measure(picture), measure(joined[0])
    assert np.abs(after[:2] - before[:2]).max() < 0.1
    assert np.abs(after[2:] / before[2:] - 1).max() < 0.005
    check_marks(joined[0], min(size))


@pytest.mark.parametrize(("multiple", "max_area"), CHECKPOINTS)
@pytest.mark.parametrize("size", CLIPS)
async def test_without_join_the_frames_show_the_whole_picture(tmp_path, size, multiple, max_area):
    items = await room(tmp_path, multiple, max_area).run(draw(*size), max_area=max_area)
    frames = of(Frames, items)
    assert facts(items)["size"] == f"{frames[0].width}x{frames[0].height}"
    assert facts(items)["frames_total"] == frames[-1].stop == 5
    assert abs(frames[0].width * size[1] / frames[0].height / size[0] - 1) < 0.002
    *_, across, down = measure(frames[0].pixels[0])
    assert abs(across / down - 1) < 0.005
    check_marks(frames[0].pixels[0], min(size))


@pytest.mark.parametrize("size", CLIPS)
async def test_a_joined_grey_card_has_the_same_grey(tmp_path, size):
    card = media.solid((118, 118, 118), *size)
    assert (await room(tmp_path).join(card) == 118).all()


@pytest.mark.parametrize("shape", ["832x480", "640x640", "480x832", "200x100"])
@pytest.mark.parametrize("size", [(1280, 720), (1080, 1920), (853, 479)])
async def test_with_another_shape_the_circle_stays_round_and_the_join_is_whole(tmp_path, size, shape):
    picture = draw(*size)
    here = room(tmp_path)
    (frames, *_) = of(Frames, await here.run(picture, size=shape))
    width, height = map(int, shape.split("x"))
    assert abs(frames.width * height / frames.height / width - 1) < 0.01
    *_, across, down = measure(frames.pixels[0])
    assert abs(across / down - 1) < 0.02
    joined = (await here.join(picture, size=shape))[0]
    before, after = measure(picture), measure(joined)
    assert np.abs(after[:2] - before[:2]).max() < 0.005 * max(size)
    assert np.abs(after[2:] / before[2:] - 1).max() < 0.02
    check_marks(joined, min(size))


@pytest.mark.parametrize("fit", ["crop", "stretch"])
@pytest.mark.parametrize("fields", [{}, {"size": "640x640"}])
@pytest.mark.parametrize("size", [(1280, 720), (1080, 1920), (90, 50)])
async def test_other_fits_keep_the_circle_at_the_seam_too(tmp_path, size, fields, fit):
    picture = draw(*size)
    joined = (await room(tmp_path, 32).join(picture, fit=fit, **fields))[0]
    assert joined.shape == picture.shape
    before, after = measure(picture), measure(joined)
    assert np.abs(after[:2] - before[:2]).max() < 0.75
    assert np.abs(after[2:] / before[2:] - 1).max() < 0.01


async def test_stretching_loses_nothing_and_cropping_the_borders(tmp_path):
    picture = draw(1280, 720)
    stretched = (await room(tmp_path).join(picture, fit="stretch", size="640x640"))[0]
    check_marks(stretched, 720)
    cropped = (await room(tmp_path).join(picture, fit="crop", size="640x640"))[0]
    assert cropped[..., 0].max() < 0.5 * MARK
    assert np.array_equal(cropped[:, :280], np.repeat(cropped[:, 280:281], 280, axis=1))


# --- colours ------------------------------------------------------------------------------------------------------


PALER = 0.8, 20.0
"""Gain and offset of a model that lowers the contrast."""


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
@pytest.mark.parametrize("fields", [{}, {"size": "640x640"}])
async def test_matched_colours_are_those_of_the_clip(tmp_path, fields, fit):
    picture = draw(853, 479)
    fields = {**fields, "fit": fit}
    faithful = await room(tmp_path).join(picture, **fields)
    assert (
        measure_difference(await room(tmp_path, levels=PALER).join(picture, match_colour=False, **fields), faithful) > 5
    )
    matched = await room(tmp_path, levels=PALER).join(picture, **fields)
    assert measure_difference(matched, faithful) < 0.7
    assert np.array_equal(matched[0], matched[-1])


async def test_a_card_is_matched_in_its_mean_alone(tmp_path):
    card = media.solid((118, 90, 200), 853, 479)
    matched = await room(tmp_path, levels=(0.9, 30.0)).join(card)
    assert (matched == card).all()


async def test_a_resumed_run_has_the_same_colours(tmp_path):
    service = Repeater(16, 704 * 1280, *PALER)
    picture, here, starts = draw(320, 180), Room(tmp_path, service), service.starts
    whole = of(Frames, await here.run(picture))
    rest = of(Frames, await here.run(picture, Known(key="job", frames=4)))
    assert starts == [0, 0]
    assert [run.first for run in rest] == [4]
    assert np.array_equal(rest[0].pixels, whole[2].pixels)
    await here.run(picture, Known(key="job", frames=4), match_colour=False)
    assert starts[-1] == 4, "without the match, nothing is sent again"


async def test_flicker_behind_the_seam_is_matched_less_and_less():
    card = media.solid((118, 90, 200), 64, 48)
    match = ColourMatch(Frames(card[None]), "pad")
    flickering = np.stack([card + offset for offset in (0, *[8] * 12)]).astype(np.uint8)
    corrected = match.apply(Frames(flickering))
    offsets = (corrected.pixels.astype(int) - card).mean((1, 2, 3))
    assert np.allclose(offsets, [0, *(min(8, n) for n in range(12))])
    pieces = ColourMatch(Frames(card[None]), "pad")
    runs = [pieces.apply(Frames(flickering[first : first + 5], first)).pixels for first in (0, 5, 10)]
    assert np.array_equal(np.concatenate(runs), corrected.pixels)


def test_a_match_needs_the_first_frame():
    frames = Frames(draw(64, 48)[None], 1)
    with pytest.raises(ValueError, match="must begin with frame 0, got 1"):
        ColourMatch(frames, "pad").apply(frames)
