"""Files of phones, cameras and browsers on a real server: results look like what was filmed, and records say so."""

import io
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.cluster.conftest import fetch_content, wait_for_end
from tests.cluster.test_one_model import create_job, decode_frames
from tests.composition.cards import QUARTERS, read_code, read_quarters

pytestmark = pytest.mark.cluster

FILES = Path(__file__).parents[1] / "data" / "media"


@pytest.mark.parametrize(
    ("name", "size", "facts", "tolerance"),
    [
        ("hlg.mov", (128, 96), {"tone_mapped": "hlg", "colours": "bt2020"}, 12),
        ("pq.mp4", (128, 96), {"tone_mapped": "pq", "colours": "bt2020"}, 12),
        ("bt2020sdr_true.mp4", (128, 96), {"colours": "bt2020"}, 12),
        ("sar2.mp4", (256, 96), {"pixel_aspect": "2:1"}, 12),
    ],
)
def test_an_enlarged_clip_has_the_colours_and_the_shape_that_were_filmed(
    http: httpx.Client, name: str, size: tuple[int, int], facts: dict[str, str], tolerance: int
) -> None:
    job = create_job(http, FILES / name, "input_video", model="realesrgan", scale="2")
    video = wait_for_end(http, job["id"])
    assert (video["status"], video["size"]) == ("completed", f"{size[0]}x{size[1]}"), video
    assert facts.items() <= video["facts"].items()
    frames = decode_frames(fetch_content(http, job["id"]))
    assert [read_code(frame) for frame in frames] == list(range(1, 13))
    assert max(np.abs(read_quarters(frame) - QUARTERS).max() for frame in frames) <= tolerance


@pytest.mark.parametrize(("background", "colour"), [("", (255, 255, 255)), ("#2040c0", (0x20, 0x40, 0xC0))])
def test_transparent_clips_look_alike_whatever_the_codec(
    http: httpx.Client, background: str, colour: tuple[int, int, int]
) -> None:
    shown: list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]] = []
    for name in ("alpha_vp9.webm", "alpha_prores.mov"):
        chosen = {"background": background} if background else {}
        job = create_job(http, FILES / name, "input_video", model="realesrgan", scale="2", **chosen)
        video = wait_for_end(http, job["id"])
        assert video["facts"]["alpha"] == f"on {background or 'white'}", video
        shown.append(decode_frames(fetch_content(http, job["id"]))[-1])
    assert np.abs(shown[0][-16:, -24:].reshape(-1, 3).mean(0) - colour).max() <= 10
    assert np.abs(read_quarters(shown[0]) - read_quarters(shown[1])).max() <= 8


@pytest.mark.parametrize("name", ["p3.png", "p3.jpg"])
def test_an_enlarged_photograph_is_in_srgb(http: httpx.Client, name: str) -> None:
    job = create_job(http, FILES / name, "image", model="realesrgan", scale="2")
    video = wait_for_end(http, job["id"])
    assert video["facts"]["colours"] == "icc: Display P3 test", video
    with Image.open(io.BytesIO(fetch_content(http, job["id"]))) as picture:
        shown = np.array(picture.convert("RGB"))
    assert np.abs(read_quarters(shown) - [(255, 0, 0), (0, 255, 0), (0, 0, 255), (213, 115, 83)]).max() <= 10
