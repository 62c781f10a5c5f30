"""Files as people send them, through HTTP: what comes back is what a viewer of the file saw."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageColor

from tests.cluster.conftest import fetch_content, wait_for_end
from tests.cluster.server import ROOT
from tests.composition.cards import draw_card, read_code, read_quarters

pytestmark = pytest.mark.cluster

FILES = ROOT / "tests" / "data" / "media"
NOTHING: Mapping[str, str] = {}
P3_TO_SRGB = ((1.2249, -0.2247, 0.0), (-0.0420, 1.0419, 0.0), (-0.0197, -0.0786, 1.0979))
"""Linear Display P3 to linear sRGB."""


@dataclass(frozen=True)
class Video:
    """A finished video: its record, its frames, (h, w, 3) uint8, and when they are shown, in seconds."""

    record: dict[str, Any]
    frames: list[NDArray[np.uint8]]
    times: list[Fraction]
    duration: Fraction
    size: tuple[int, int]

    @property
    def facts(self) -> dict[str, Any]:
        return self.record["facts"]


def order(http: httpx.Client, name: str, field: str, scale: int, fields: Mapping[str, str] = NOTHING) -> str:
    data = {"model": "realesrgan", "scale": str(scale), **fields}
    answer = http.post("/v1/videos", data=data, files={field: (Path(name).name, (FILES / name).read_bytes())})
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def enlarge(http: httpx.Client, name: str, scale: int = 2, fields: Mapping[str, str] = NOTHING) -> Video:
    record = wait_for_end(http, order(http, name, "input_video", scale, fields))
    assert record["status"] == "completed", record
    with av.open(io.BytesIO(fetch_content(http, record["id"])), "r") as container:
        stream = container.streams.video[0]
        shown = list(container.decode(stream))
        unit = stream.time_base or Fraction(0)
        frames = [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in shown]
        times = [(frame.pts or 0) * unit for frame in shown]
        size = stream.codec_context.width, stream.codec_context.height
        return Video(record, frames, times, (stream.duration or 0) * unit, size)


def enlarge_truth(http: httpx.Client, path: Path, truth: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture as the model enlarges it: it shifts strong colours by some levels."""
    Image.fromarray(truth).save(path)
    _, picture = enlarge_picture(http, str(path))
    return np.asarray(picture.convert("RGB"))


def enlarge_picture(http: httpx.Client, name: str) -> tuple[dict[str, Any], Image.Image]:
    record = wait_for_end(http, order(http, name, "image", 2))
    assert record["status"] == "completed", record
    return record, Image.open(io.BytesIO(fetch_content(http, record["id"])))


def measure_box(frame: NDArray[np.uint8]) -> tuple[int, int]:
    """Return width and height of the dark circle in a frame."""
    rows, columns = np.nonzero(frame.mean(2) < 90)
    return int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1


@pytest.mark.parametrize(
    ("name", "near", "facts"),
    [
        ("hlg.mov", 30, {"tone_mapped": "hlg"}),
        ("pq.mp4", 30, {"tone_mapped": "pq"}),
        ("bt2020sdr_true.mp4", 8, {"colours": "bt2020"}),
    ],
)
def test_a_phones_colours_are_those_of_a_screen(
    http: httpx.Client, tmp_path: Path, name: str, near: int, facts: dict[str, str]
) -> None:
    video = enlarge(http, name)
    assert facts.items() <= video.facts.items()
    first = video.frames[0]
    assert read_code(first) == 1
    truth = enlarge_truth(http, tmp_path / "truth.png", draw_card(1))
    assert np.abs(read_quarters(first) - read_quarters(truth)).max() <= near
    height, width = first.shape[:2]
    assert first[height // 2, width // 12].min() >= 225


@pytest.mark.parametrize("name", ["p3.png", "p3.jpg"])
def test_a_wide_gamut_picture_is_converted(http: httpx.Client, tmp_path: Path, name: str) -> None:
    record, picture = enlarge_picture(http, name)
    assert "colours" in record["facts"]
    encoded = np.asarray(Image.open(FILES / name).convert("RGB")) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    narrow = np.clip(linear @ np.array(P3_TO_SRGB).T, 0, 1)
    srgb = 255 * np.where(narrow <= 0.0031308, 12.92 * narrow, 1.055 * narrow ** (1 / 2.4) - 0.055)
    truth = enlarge_truth(http, tmp_path / "truth.png", srgb.round().astype(np.uint8))
    assert np.abs(read_quarters(np.asarray(picture.convert("RGB"))) - read_quarters(truth)).max() <= 5


@pytest.mark.parametrize("name", ["vfr.mp4", "vfr.mkv"])
def test_a_screen_recording_keeps_its_times(http: httpx.Client, name: str) -> None:
    video = enlarge(http, name)
    assert [read_code(frame) for frame in video.frames] == list(range(1, 9))
    expected = [Fraction(time, 30) for time in (0, 1, 2, 3, 63, 64, 65, 66)]
    assert all(abs(time - truth) <= Fraction(1, 1000) for time, truth in zip(video.times, expected, strict=True))
    assert abs(video.duration - Fraction(67, 30)) <= Fraction(1, 1000)


def test_an_animation_keeps_its_pauses(http: httpx.Client) -> None:
    video = enlarge(http, "durations.gif")
    assert video.times == [0, Fraction(1, 10), Fraction(6, 10), Fraction(16, 10)]
    assert video.duration == 2
    assert [read_code(frame) for frame in video.frames] == [1, 2, 3, 4]


def test_an_animated_png_is_a_video(http: httpx.Client) -> None:
    video = enlarge(http, "anim.png")
    assert video.times == [Fraction(n, 10) for n in range(6)]
    assert [read_code(frame) for frame in video.frames] == list(range(1, 7))


def test_samples_that_are_not_square_are_made_square(http: httpx.Client) -> None:
    video = enlarge(http, "sar2.mp4")
    assert (video.record["size"], video.size) == ("256x96", (256, 96))
    assert video.facts["pixel_aspect"] == "2:1"
    width, height = measure_box(enlarge(http, "sar_circle.mp4").frames[0])
    assert abs(width - height) <= 2


@pytest.mark.parametrize(
    ("name", "change", "rate"),
    [
        ("interlaced.mp4", "deinterlaced", Fraction(25)),
        ("interlaced.ts", "deinterlaced", Fraction(25)),
        ("telecine.mp4", "inverse_telecined", Fraction(24000, 1001)),
    ],
)
def test_fields_are_not_combed(http: httpx.Client, name: str, change: str, rate: Fraction) -> None:
    """The bars in these pictures are as wide in every row."""
    video = enlarge(http, name)
    assert video.facts[change] is True
    assert Fraction(video.record["rate"]) == rate
    for frame in video.frames:
        # The first and the last rows have no neighbour on one side.
        widths = (frame.mean(2) > 130).sum(1)[4:-4]
        assert np.ptp(widths) <= 3


def test_the_main_track_is_taken(http: httpx.Client) -> None:
    video = enlarge(http, "thumbtrack.mov")
    assert video.size == (128, 96)
    assert [read_code(frame) for frame in video.frames] == list(range(1, 13))


@pytest.mark.parametrize(("fields", "colour"), [({}, "#ffffff"), ({"background": "#2040c0"}, "#2040c0")])
def test_what_is_transparent_is_composited_on_one_background(
    http: httpx.Client, fields: dict[str, str], colour: str
) -> None:
    videos = [enlarge(http, name, fields=fields) for name in ("alpha_vp9.webm", "alpha_prores.mov")]
    for video in videos:
        assert video.facts["alpha"] == f"on {fields.get('background', 'white')}"
        height, width = video.frames[0].shape[:2]
        shown = video.frames[0][height // 4 :, width * 13 // 16 :].reshape(-1, 3).mean(0)
        assert np.abs(shown - ImageColor.getrgb(colour)).max() <= 12
    difference = np.abs(videos[0].frames[0].astype(int) - videos[1].frames[0])
    assert difference.mean() <= 3


def test_a_picture_stays_transparent(http: httpx.Client) -> None:
    record, picture = enlarge_picture(http, "rgba.png")
    assert picture.mode == "RGBA"
    assert picture.size == (192, 144)
    alpha = np.asarray(picture)[..., 3]
    assert alpha[:, :140].min() >= 250
    assert alpha[:, 148:].max() <= 5
    assert record["size"] == "192x144"


def test_an_odd_size_is_what_the_record_says(http: httpx.Client) -> None:
    video = enlarge(http, "odd444.mp4", 3)
    assert (video.record["size"], video.size) == ("195x147", (195, 147))
    assert {frame.shape for frame in video.frames} == {(147, 195, 3)}


def test_a_video_that_no_browser_plays_is_reported(http: httpx.Client) -> None:
    video = enlarge(http, "w4096.mp4", 4)
    assert video.size == (16384, 64)
    assert "needs H.264 level 6.0, which browsers" in video.facts["warning"]


def test_a_recording_that_was_cut_off_is_used_as_far_as_it_goes(http: httpx.Client) -> None:
    video = enlarge(http, "frag_cut.mp4")
    assert [read_code(frame) for frame in video.frames] == list(range(1, len(video.frames) + 1))
    assert len(video.frames) >= 12
    assert "truncated" in video.record["degraded"]


def test_a_size_that_changes_is_fitted_without_stretching(http: httpx.Client) -> None:
    video = enlarge(http, "resize.webm")
    assert len(video.frames) == 12
    assert video.facts["resized"] == "64x48 to 48x64"
    height, width = video.frames[-1].shape[:2]
    lit = video.frames[-1].max(2) > 25
    columns = np.flatnonzero(lit.mean(0) > 0.5)
    assert (len(columns) / height) == pytest.approx(48 / 64, abs=0.05)
    assert abs(columns[0] - (width - 1 - columns[-1])) <= 2


@pytest.mark.parametrize(("name", "number", "size"), [("s.heic", 5, (96, 72)), ("still.avif", 1, (64, 48))])
def test_a_phones_pictures_are_read(
    http: httpx.Client, tmp_path: Path, name: str, number: int, size: tuple[int, int]
) -> None:
    _, picture = enlarge_picture(http, name)
    shown = np.asarray(picture.convert("RGB"))
    truth = enlarge_truth(http, tmp_path / "truth.png", draw_card(number, *size))
    assert shown.shape == truth.shape
    assert read_code(shown) == number
    assert np.abs(read_quarters(shown) - read_quarters(truth)).max() <= 5


def check_file(http: httpx.Client, path: Path) -> dict[str, Any]:
    answer = http.post("/v1/files", files={"file": (path.name, path.read_bytes())})
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("hlg.mov", {"tone_mapped": "hlg"}),
        ("sar2.mp4", {"pixel_aspect": "2:1"}),
        ("telecine.mp4", {"inverse_telecined": True}),
    ],
)
def test_an_uploads_facts_name_what_is_changed(http: httpx.Client, name: str, changes: dict[str, Any]) -> None:
    assert changes.items() <= check_file(http, FILES / name)["changes"].items()


@pytest.mark.parametrize("name", ["two words.mp4", 'quote\'s "file".mp4', "视频.mp4", "🎬.mp4", "a" * 300 + ".mp4"])
def test_any_name_of_a_file_is_accepted(http: httpx.Client, name: str) -> None:
    answer = http.post("/v1/files", files={"file": (name, (FILES / "wide.mp4").read_bytes())})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["width"], answer.json()["frames"]) == (90, 16)


@pytest.mark.parametrize(
    "prompt", ["🎬 a boat", "一艘船", "boat " * 1000, ""], ids=["emoji", "chinese", "long", "empty"]
)
def test_any_prompt_is_accepted(http: httpx.Client, prompt: str) -> None:
    fields = {"model": "wan", "num_frames": 5, "steps": 1, "size": "32x32", "prompt": prompt}
    files = {"image": ("a.png", (FILES / "rgba.png").read_bytes())}
    answer = http.post("/v1/videos", data={name: str(value) for name, value in fields.items()}, files=files)
    assert answer.status_code == 200, answer.text
    record = wait_for_end(http, answer.json()["id"])
    assert (record["status"], record["prompt"]) == ("completed", prompt), record
