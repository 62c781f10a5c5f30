"""The face detection service: order of the stream, rejected pictures, and cancellation."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from miniatures.faces import draw_face
from miniatures.random import written
from services.errors import InvalidParameter, LimitExceeded
from services.frames import Face, Fact, Frames, Item, StageDone
from services.instantid.faces import Found, choose_face
from services.instantid.request import Requirements
from services.instantid.service import InstantId
from services.instantid.settings import InsightFaceSettings, InstantIdSettings, MtcnnSettings

ROOT = Path(__file__).parents[2]
ASTRONAUT = Image.open(ROOT / "tests/data/astronaut.png").convert("RGB")
"""Picture of 512 x 512 pixels with one frontal face; the box and key points below were read off it."""
EYES = (203, 101), (248, 103)
BOX = 180, 58, 272, 174
PORTRAIT = ASTRONAUT.crop((96, 0, 352, 256))
WEIGHTS = {"path": "/weights"}
"""Weights for settings that are only validated, never loaded."""


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def faces(home) -> InstantId:
    return loaded(home)


def loaded(home: Path, **settings) -> InstantId:
    fields = {"recogniser": written("instantid", "tiny", home), "device": "cpu", **settings}
    return InstantId(InstantIdSettings(**fields), home, lambda: "instantid#test cpu")


def frames(picture: Image.Image) -> Frames:
    return Frames(np.array(picture)[None])


def scaled(picture: Image.Image, scale: float) -> Image.Image:
    return picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)


def side_by_side(*pictures: Image.Image) -> Image.Image:
    whole = Image.new("RGB", (sum(picture.width for picture in pictures), max(picture.height for picture in pictures)))
    left = 0
    for picture in pictures:
        whole.paste(picture, (left, 0))
        left += picture.width
    return whole


async def collected(faces: InstantId, picture: Image.Image = PORTRAIT, key: str = "") -> list[Item]:
    return [item async for item in faces.find_face(frames(picture), key)]


async def found(faces: InstantId, picture: Image.Image = PORTRAIT) -> Face:
    return pick_face(await collected(faces, picture))


def pick_face(items: list[Item]) -> Face:
    (face,) = (item for item in items if isinstance(item, Face))
    return face


def facts_of(items: list[Item]) -> dict[str, object]:
    return {item.name: item.value for item in items if isinstance(item, Fact)}


async def refusal(faces: InstantId, picture: Image.Image) -> str:
    with pytest.raises(InvalidParameter) as caught:
        await collected(faces, picture)
    assert caught.value.param == "face"
    return caught.value.message


@contextmanager
def searching(faces: InstantId) -> Generator[tuple[asyncio.Event, list[int]]]:
    """Yield an event that is set when the search starts, and a list with one item per step."""
    begun, loop, steps = asyncio.Event(), asyncio.get_running_loop(), []

    def count(*_) -> None:
        steps.append(1)
        loop.call_soon_threadsafe(begun.set)

    detector: Any = faces._model._detector
    hook = detector._nets["proposal"].register_forward_hook(count)
    yield begun, steps
    hook.remove()


# --- the stream ---------------------------------------------------------------------------------------------------


async def test_the_stream_in_its_order(home, faces):
    items = await collected(faces)
    assert [type(item) for item in items] == [Fact, Face, StageDone]
    assert facts_of(items) == {"faces": 1}
    last = items[-1]
    assert isinstance(last, StageDone)
    source = written("instantid", "tiny", home).source
    assert (last.stage, last.model, last.source, last.revision) == ("face", "instantid", source, "")
    assert last.replica == "instantid#test cpu"
    assert last.seconds > 0


async def test_box_and_key_points_are_where_the_face_is(faces):
    face = await found(faces, ASTRONAUT)
    assert np.abs(face.box * 512 - BOX).max() <= 8
    left_eye, right_eye, nose, left_mouth, right_mouth = face.keypoints * 512
    assert np.abs(left_eye - EYES[0]).max() <= 4
    assert np.abs(right_eye - EYES[1]).max() <= 4
    assert np.abs(nose - (226, 126)).max() <= 5
    assert np.abs(left_mouth - (205, 142)).max() <= 6
    assert np.abs(right_mouth - (242, 144)).max() <= 6
    assert np.linalg.norm(face.embedding) == pytest.approx(1, abs=1e-5)


async def test_fractions_are_of_width_and_of_height(faces):
    wide = Image.new("RGB", (700, 256))
    wide.paste(PORTRAIT, (400, 0))
    face, alone = await found(faces, wide), await found(faces)
    scale, offset = np.array([700, 256]), np.array([400, 0])
    assert np.abs(face.keypoints * scale - offset - alone.keypoints * 256).max() <= 3


async def test_an_array_that_may_not_be_written_is_left_alone(faces):
    image = frames(PORTRAIT)
    image.pixels.flags.writeable = False
    items = [item async for item in faces.find_face(image)]
    assert np.array_equal(pick_face(items).embedding, (await found(faces)).embedding)


# --- which face ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("largest", [0, 1])
async def test_of_several_faces_the_largest_is_taken_and_it_is_said(faces, largest):
    pictures = [PORTRAIT, scaled(PORTRAIT, 0.7)]
    items = await collected(faces, side_by_side(*(pictures if largest == 0 else pictures[::-1])))
    assert facts_of(items) == {"faces": 2, "notice": "2 faces were found, and the largest is taken"}
    left, _, right, _ = pick_face(items).box
    middle = 128 if largest == 0 else 179 + 128
    assert abs((left + right) / 2 * (256 + 179) - middle) < 15


@pytest.mark.parametrize("degrees", [-20, 20])
async def test_a_tilted_head_is_found_and_set_upright(faces, degrees):
    upright = await found(faces)
    tilted = await found(faces, PORTRAIT.rotate(degrees, Image.Resampling.BICUBIC))
    (x1, y1), (x2, y2) = tilted.keypoints[:2]
    assert np.degrees(np.arctan2(y1 - y2, x2 - x1)) == pytest.approx(degrees, abs=6)
    assert tilted.crop is not None
    assert upright.crop is not None
    middle = np.s_[0, 45:95, 36:76]  # the box excludes the hair
    assert np.abs(tilted.crop.pixels[middle].astype(int) - upright.crop.pixels[middle]).mean() < 16
    assert tilted.embedding @ upright.embedding > 0.7


@pytest.mark.parametrize("degrees", [90, 180, 270])
async def test_a_face_in_a_turned_picture_is_the_same_and_it_is_said(faces, degrees):
    picture = ASTRONAUT.crop((96, 0, 352, 300))
    upright, turned = await found(faces, picture), await collected(faces, picture.rotate(-degrees, expand=True))
    assert facts_of(turned)["notice"] == f"the face is turned clockwise by {degrees} degrees: turn the picture upright"
    face = pick_face(turned)
    assert face.embedding @ upright.embedding > 0.99
    assert (upright.size, face.size) == ((256, 300), (256, 300) if degrees == 180 else (300, 256))
    turn = np.deg2rad(degrees)
    back = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    points, centre = face.keypoints * np.array(face.size), np.array(face.size) / 2
    expected = (upright.keypoints * (256, 300) - (128, 150)) @ back + centre
    assert np.abs(points - expected).max() < 4
    assert np.all(face.keypoints > face.box[:2])
    assert np.all(face.keypoints < face.box[2:])


async def test_drawn_people_are_recognised_in_turned_pictures(faces):
    right = 0
    for who in range(4):
        picture = Image.fromarray(draw_face(who, 0, 256))
        upright = await found(faces, picture)
        for degrees in (90, 180, 270):
            right += (await found(faces, picture.rotate(degrees))).embedding @ upright.embedding > 0.95
    assert right >= 11


async def test_in_a_mirror_left_stays_left(faces):
    face, mirrored = await found(faces), await found(faces, PORTRAIT.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    swapped = face.keypoints[[1, 0, 2, 4, 3]] * [-1, 1] + [1, 0]
    assert np.abs(mirrored.keypoints - swapped).max() * 256 <= 5
    assert mirrored.keypoints[0, 0] < mirrored.keypoints[1, 0]


async def test_one_face_is_itself_in_other_sizes_and_another_face_is_another(faces):
    own = (await found(faces)).embedding
    larger = (await found(faces, scaled(PORTRAIT, 1.5))).embedding
    other = (await found(faces, Image.fromarray(np.ascontiguousarray(np.array(PORTRAIT)[..., ::-1])))).embedding
    assert own @ larger > 0.7
    assert own @ other < 0.4


async def test_a_face_that_the_edge_cuts_is_used_and_it_is_said(faces):
    items = await collected(faces, ASTRONAUT.crop((215, 0, 471, 256)))
    assert str(facts_of(items)["notice"]).endswith("a part of the face lies outside the picture")
    face = pick_face(items)
    assert face.box[0] == 0
    assert face.keypoints[0, 0] < 0
    assert np.abs(face.keypoints[1] * 256 - (248 - 215, 103)).max() <= 5
    assert face.crop is not None
    assert not face.crop.pixels[0, :, :20].any()


async def test_a_small_face_is_used_and_it_is_said(home):
    items = await collected(loaded(home, min_face=80))
    assert str(facts_of(items)["notice"]).startswith("the face is small: ")


# --- rejected pictures --------------------------------------------------------------------------------------------


def bunny() -> Image.Image:
    """A picture without a face: the right half of the film's first frame, with a meadow, a rock and the sky."""
    with av.open(str(ROOT / "clients/media/bigbuckbunny.mp4")) as film:
        return next(film.decode(video=0)).to_image().crop((640, 0, 1280, 720)).resize((320, 360))


NOISE = np.random.default_rng(7).integers(0, 256, (200, 300, 3), np.uint8)


@pytest.mark.parametrize(
    "picture",
    [
        Image.fromarray(NOISE),
        Image.new("RGB", (300, 200), (120, 90, 60)),
        ASTRONAUT.crop((0, 200, 512, 512)),
        Image.new("RGB", (1, 1)),
        Image.fromarray(NOISE[:1]),
        Image.fromarray(NOISE[:, :12]),
        scaled(PORTRAIT, 1).resize((3000, 12)),
        scaled(PORTRAIT, 1).resize((7, 4000)),
        PORTRAIT.resize((1600, 40)),
    ],
    ids=["noise", "plain", "suit", "1x1", "a row", "12 wide", "3000x12", "7x4000", "1600x40"],
)
async def test_no_face(faces, picture):
    assert await refusal(faces, picture) == "face: there is no face in this picture"


async def test_a_landscape_has_no_face(faces):
    assert await refusal(faces, bunny()) == "face: there is no face in this picture"


async def test_a_tiny_face(faces):
    assert await refusal(faces, scaled(PORTRAIT, 0.36)) == "face: must be at least 64 pixels wide and high, got 31x39"


async def test_a_picture_of_too_many_pixels_is_not_looked_at(home):
    faces = loaded(home, max_pixels=256 * 256 - 1)
    with pytest.raises(LimitExceeded) as caught:
        await collected(faces)
    assert (caught.value.param, caught.value.message) == ("face", "face: at most 65535 pixels, got 65536")


def seen(degrees: float, height: float = 120) -> Found:
    """Return the face of a head turned to the side by `degrees`, in parallel projection; 1 pixel is 1 mm."""
    head = np.array([[-32, 0, 0], [32, 0, 0], [0, 40, 27], [-25, 70, 0], [25, 70, 0]], float)
    angle = np.radians(degrees)
    across = head[:, 0] * np.cos(angle) + head[:, 2] * np.sin(angle)
    points = np.stack([100 + across, 50 + head[:, 1]], 1)
    return Found(np.array([60, 10, 140, 10 + height], np.float32), points.astype(np.float32), 0.9)


@pytest.mark.parametrize("degrees", [-60, 50])
def test_a_face_turned_too_far(degrees):
    with pytest.raises(InvalidParameter, match=r"face: may be turned at most 45 degrees to the side, got about [56]\d"):
        choose_face([seen(degrees)], frames(PORTRAIT), Requirements())


@pytest.mark.parametrize(("degrees", "notice"), [(-10, ""), (-35, "the face is turned about 35 degrees to the side")])
def test_a_face_turned_a_little(degrees, notice):
    assert choose_face([seen(degrees)], frames(PORTRAIT), Requirements())[1] == notice


def test_notices_stand_together():
    faces = [seen(35, height=70), seen(0, height=66)]
    face, notice = choose_face(faces, frames(PORTRAIT.crop((0, 0, 120, 256))), Requirements())
    assert face is faces[0]
    assert notice == (
        "2 faces were found, and the largest is taken; the face is small: 80x70 pixels; "
        "the face is turned about 35 degrees to the side; a part of the face lies outside the picture"
    )


# --- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_face": 120}, "at least 120 pixels wide and high, got"),
        ({"max_yaw": 0.01}, "may be turned at most 0.01 degrees"),
        ({"detector": MtcnnSettings(min_size=257)}, "no face"),
        ({"detector": MtcnnSettings(max_side=64, min_size=65)}, "no face"),
        ({"detector": MtcnnSettings(thresholds=(0.99999, 0.7, 0.7))}, "no face"),
        ({"detector": MtcnnSettings(thresholds=(0.6, 0.999999, 0.7))}, "no face"),
        ({"detector": MtcnnSettings(thresholds=(0.6, 0.7, 0.9999999))}, "no face"),
    ],
    ids=["min_face", "max_yaw", "min_size", "max_side", "threshold 1", "threshold 2", "threshold 3"],
)
async def test_settings_act(home, settings, message):
    assert message in await refusal(loaded(home, **settings), PORTRAIT)


@pytest.mark.parametrize(("factor", "sizes"), [(0.709, 8), (0.5, 4)])
async def test_faces_of_so_many_sizes_are_looked_for(home, factor, sizes):
    faces = loaded(home, detector=MtcnnSettings(factor=factor))
    with searching(faces) as (_, steps):
        await found(faces)
    assert len(steps) == sizes  # from 20 pixels to the picture's 256


@pytest.mark.parametrize(
    "fields",
    [
        {"weights": WEIGHTS},
        {"min_face": 0},
        {"max_yaw": 0},
        {"max_yaw": 91},
        {"max_yaw": float("nan")},
        {"max_pixels": 0},
        {"recogniser_file": "../other.pth"},
        {"recogniser_file": "/other.pth"},
        {"detector": {"kind": "yolo"}},
        {"detector": {"kind": "mtcnn", "pack": "x"}},
        {"detector": {"kind": "mtcnn", "min_size": 11}},
        {"detector": {"kind": "mtcnn", "max_side": 10}},
        {"detector": {"kind": "mtcnn", "factor": 1}},
        {"detector": {"kind": "mtcnn", "thresholds": [0.5, 0.5]}},
        {"detector": {"kind": "mtcnn", "thresholds": [0.5, 0.5, 1]}},
        {"detector": {"kind": "insightface"}},
        {"detector": {"kind": "insightface", "pack": "x", "sizes": []}},
        {"detector": {"kind": "insightface", "pack": "x", "sizes": [100]}},
    ],
)
def test_settings_that_cannot_be(fields):
    with pytest.raises(ValidationError):
        InstantIdSettings.model_validate({"recogniser": WEIGHTS, **fields})


def test_the_detector_is_told_by_its_kind():
    settings = InstantIdSettings.model_validate(
        {"recogniser": WEIGHTS, "detector": {"kind": "insightface", "pack": "/packs/antelopev2"}}
    )
    assert settings.detector == InsightFaceSettings(kind="insightface", pack=Path("/packs/antelopev2"))
