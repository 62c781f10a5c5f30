"""A transparent picture is enlarged with its transparency, and nothing of its hidden colours shows at its edges."""

import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from PIL import Image
from scipy import ndimage

from composition.media.encode import encode_png
from composition.media.encode_picture import convert_picture, encode_picture
from composition.media.transparency import fill_transparent, limit_alpha
from composition.records.tables import Job
from services.frames import Pixels
from services.realesrgan.service import RealEsrgan
from services.realesrgan.settings import RealEsrganSettings
from tests.composition.graphs.test_single import Desk

SIDE, SCALE = 48, 4
DISC = (220, 120, 20)
BLACK, WHITE = (0, 0, 0), (255, 255, 255)


def draw_opacity(side: int) -> Pixels:
    """An anti-aliased disc, (side, side) uint8: opaque inside."""
    fine = 8
    places = (np.arange(side * fine) + 0.5) / (side * fine)
    inside = (places[:, None] - 0.5) ** 2 + (places[None] - 0.45) ** 2 < 0.31**2
    return (inside.reshape(side, fine, side, fine).mean((1, 3)) * 255).round().astype(np.uint8)


def draw_disc(hidden: tuple[int, int, int], colour: tuple[int, int, int] = DISC) -> Pixels:
    """A disc in straight colours, (SIDE, SIDE, 4) uint8, with a hidden colour where it is fully transparent."""
    alpha = draw_opacity(SIDE)
    return np.dstack([np.where(alpha[..., None] > 0, colour, hidden), alpha]).astype(np.uint8)


def save_png(picture: Image.Image, **how: Any) -> bytes:
    target = io.BytesIO()
    picture.save(target, "PNG", **how)
    return target.getvalue()


def save_16_bit(hidden: tuple[int, int, int]) -> bytes:
    wide = draw_disc(hidden).astype(np.uint16) * 257
    context = cast("VideoCodecContext", av.CodecContext.create("png", "w"))
    context.width = context.height = SIDE
    context.pix_fmt, context.time_base = "rgba64be", Fraction(1)
    frame = VideoFrame.from_ndarray(wide, format="rgba64be")
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode()])


def save_palette() -> bytes:
    """A palette with tRNS: a disc with hard edges, whose transparent entry is bright green."""
    picture = Image.fromarray((draw_opacity(SIDE) > 127).astype(np.uint8), "P")
    picture.putpalette([0, 255, 0, *DISC])
    return save_png(picture, transparency=0)


async def enlarge(desk: Desk, picture: bytes, **fields: Any) -> tuple[Job, Pixels]:
    desk.artifacts.put("files/image", picture)
    job, lease = desk.job(image="file_1", scale=SCALE, **fields)
    done = await desk.work(job, lease)
    with Image.open(io.BytesIO(desk.picture(done))) as large:
        return done, np.array(large)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> RealEsrgan:
    settings = RealEsrganSettings(device="cpu", dtype="float32")
    return RealEsrgan(settings, tmp_path_factory.mktemp("home"), lambda: "realesrgan#test cpu")


@pytest.fixture
def desk(tmp_path: Path, net: RealEsrgan) -> Desk:
    return Desk(tmp_path, "realesrgan", net)


def show_on(pixels: Pixels, background: tuple[int, int, int]) -> "np.ndarray[Any, np.dtype[np.float64]]":
    opacity = pixels[..., 3:] / 255
    return pixels[..., :3] * opacity + np.array(background) * (1 - opacity)


@pytest.mark.parametrize(
    "make",
    [
        lambda: save_png(Image.fromarray(draw_disc(BLACK))),
        lambda: save_png(Image.fromarray(draw_disc(WHITE))),
        lambda: save_png(Image.fromarray(draw_disc((0, 255, 0)))),
        lambda: save_16_bit((0, 255, 0)),
        save_palette,
    ],
    ids=["on black", "on white", "on green", "16 bits", "palette"],
)
async def test_edges_are_those_of_the_picture(desk: Desk, make: Callable[[], bytes]) -> None:
    done, large = await enlarge(desk, make())
    assert large.shape == (SIDE * SCALE, SIDE * SCALE, 4)
    assert (done.width, done.height) == (SIDE * SCALE, SIDE * SCALE)
    alpha = draw_opacity(SIDE * SCALE)
    truth = np.dstack([np.full((*alpha.shape, 3), DISC, np.uint8), alpha])
    visible = large[..., 3] > 0
    assert np.abs(large[visible][:, :3].astype(int) - DISC).max() <= 24, "no halo at the edge, however faint"
    inside, outside = alpha == 255, alpha == 0
    inside, outside = (ndimage.binary_erosion(part, np.ones((3, 3)), 3 * SCALE) for part in (inside, outside))
    assert large[inside, 3].min() == 255
    assert large[outside, 3].max() == 0
    for background in (BLACK, WHITE):
        error = np.abs(show_on(large, background) - show_on(truth, background)).mean(2)
        assert error[~inside & ~outside].mean() <= 16
        assert error[inside].mean() <= 4


async def test_a_grey_picture_with_alpha(desk: Desk) -> None:
    picture = Image.fromarray(draw_disc(WHITE, (60, 60, 60))).convert("LA")
    _, large = await enlarge(desk, save_png(picture))
    visible = large[..., 3] > 0
    assert np.abs(large[visible][:, :3].astype(int) - 60).max() <= 16


async def test_the_thumbnail_is_on_white(desk: Desk) -> None:
    done, large = await enlarge(desk, save_png(Image.fromarray(draw_disc(BLACK))))
    data = b"".join(desk.artifacts.read(str(done.results["thumbnail"])))
    thumbnail = np.array(Image.open(io.BytesIO(data)))
    assert np.abs(thumbnail[:8, :8].astype(int) - 255).max() <= 3
    assert np.abs(thumbnail - show_on(large, WHITE)).mean() <= 3


async def test_a_background_that_is_asked_for_replaces_transparency(desk: Desk) -> None:
    _, large = await enlarge(desk, save_png(Image.fromarray(draw_disc(BLACK))), background="#0000ff")
    assert large.shape == (SIDE * SCALE, SIDE * SCALE, 3)


async def test_an_opaque_picture_has_no_alpha(desk: Desk) -> None:
    opaque = draw_disc(BLACK)[..., :3]
    done, plain = await enlarge(desk, encode_png(opaque))
    _, with_alpha = await enlarge(desk, encode_picture(opaque, "png", alpha=np.full((SIDE, SIDE), 255, np.uint8)))
    assert plain.shape == with_alpha.shape == (SIDE * SCALE, SIDE * SCALE, 3)
    assert np.array_equal(plain, with_alpha)
    (stage,) = desk.store.list_stages([done.id])[done.id]
    assert stage.model == "realesrgan"


async def test_both_parts_of_a_transparent_picture_are_one_stage(desk: Desk, tmp_path: Path) -> None:
    done, large = await enlarge(desk, save_png(Image.fromarray(draw_disc(BLACK))))
    (stage,) = desk.store.list_stages([done.id])[done.id]
    assert (stage.model, done.progress) == ("realesrgan", 1.0)
    stored = tmp_path / "stored.png"
    stored.write_bytes(desk.picture(done))
    jpeg = np.array(Image.open(io.BytesIO(convert_picture(stored, "jpeg"))))
    assert np.abs(jpeg - show_on(large, WHITE)).mean() <= 2


def test_hidden_colours_are_replaced_by_the_nearest() -> None:
    picture = draw_disc((0, 255, 0))
    assert (fill_transparent(picture[..., :3], picture[..., 3]) == DISC).all()
    two = np.zeros((4, 9, 3), np.uint8)
    two[:, 0], two[:, 8] = (200, 0, 0), (0, 0, 200)
    alpha = np.zeros((4, 9), np.uint8)
    alpha[:, (0, 8)] = 255
    filled = fill_transparent(two, alpha)
    assert (filled[:, :4] == (200, 0, 0)).all()
    assert (filled[:, 5:] == (0, 0, 200)).all()


def test_a_picture_of_which_nothing_or_all_shows_is_left_as_it_is() -> None:
    picture = draw_disc(BLACK)[..., :3]
    for opacity in (0, 3, 255):
        assert np.array_equal(fill_transparent(picture, np.full((SIDE, SIDE), opacity, np.uint8)), picture)


def test_the_opacity_stays_within_that_of_the_surroundings() -> None:
    alpha = np.zeros((8, 8), np.uint8)
    alpha[:, 4:] = 200
    enlarged = np.full((16, 16), 100, np.uint8)
    limited = limit_alpha(enlarged, alpha)
    assert (limited[:, :4] == 0).all()
    assert (limited[:, 4:12] == 100).all()
    assert (limited[:, 12:] == 200).all()
