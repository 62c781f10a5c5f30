"""Videos as other programs see them: ffprobe and the record agree, ffmpeg decodes without a word, Chromium plays."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium.webdriver.chrome.webdriver import WebDriver

from composition.media.encoding import Codec
from services.frames import Pixels
from tests.browser.servers import Running
from tests.composition import beeps
from tests.composition import sample_media as media
from tests.composition.deployed import Cluster
from tests.composition.enlarging import Enlarger, open_shop
from tests.composition.painting import open_door

PLAY = (Path(__file__).parent / "play.js").read_text()
NEEDED = "this test needs ffmpeg and ffprobe; scripts/browser installs them or prints how to"
CODECS: tuple[Codec, ...] = ("h264", "hevc", "av1")
LOSSLESS = media.Coding(pix_fmt="yuv444p", options={"crf": "0", "preset": "ultrafast"})
FRAMES = 40
CORNERS = ((200, 40, 40), (40, 200, 40), (40, 40, 200))
"""Colours of the top left, the top right and the bottom left of a picture."""


def draw(width: int, height: int) -> list[Pixels]:
    """Return frames with coloured corners, and a bar that moves."""
    frames = np.full((FRAMES, height, width, 3), 90, np.uint8)
    h, w = height // 3, width // 3
    frames[:, :h, :w], frames[:, :h, -w:], frames[:, -h:, :w] = CORNERS
    for number, pixels in enumerate(frames):
        pixels[h + 2 : -h - 2, number : number + 5] = 240
    return list(frames)


def plain(path: Path) -> Path:
    return media.clip(path, draw(80, 48), Fraction(30000, 1001), LOSSLESS)


def odd(path: Path) -> Path:
    return media.clip(path, draw(97, 65), 25, LOSSLESS)


def variable(path: Path) -> Path:
    times = [number + 7 * (number > 20) for number in range(FRAMES)]
    return media.clip(path, draw(64, 48), 25, LOSSLESS, times)


def sounding(path: Path) -> Path:
    return beeps.write_take(path, beeps.Take(size=(96, 64)))


CLIPS: tuple[Callable[[Path], Path], ...] = (plain, odd, variable, sounding)


@dataclass(frozen=True)
class Made:
    """Jobs that have ended, and their files."""

    cluster: Cluster
    videos: dict[tuple[str, Codec], dict[str, Any]]
    """Name of the clip and codec → the job, as HTTP answers."""
    files: dict[tuple[str, Codec], Path]
    """Name of the clip and codec → the content."""


async def enlarge(folder: Path, clips: tuple[Callable[[Path], Path], ...], model: Enlarger) -> Made:
    async with open_shop(folder, model) as shop:
        made = Made(shop.cluster, {}, {})
        for clip in clips:
            source = clip(folder / f"{clip.__name__}-source.mp4")
            for codec in CODECS:
                video = await shop.enlarge(source, scale=3, encoding={"codec": codec, "crf": 8})
                key = clip.__name__, codec
                made.videos[key], made.files[key] = video, folder / f"{clip.__name__}-{codec}.mp4"
                made.files[key].write_bytes(await shop.fetch(video["id"]))
        return made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return asyncio.run(enlarge(tmp_path_factory.mktemp("made"), CLIPS, Enlarger()))


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Jobs that failed at frame 36, whose content is a fragmented stream as it is sent while a job runs."""
    return asyncio.run(enlarge(tmp_path_factory.mktemp("cut"), (plain, odd), Enlarger(fails_at=36)))


@pytest.fixture(scope="module")
def server(made: Made) -> Iterator[str]:
    with Running(open_door(made.cluster).build_app()) as running:
        yield running.url()


@pytest.fixture(scope="module")
def live_server(cut: Made) -> Iterator[str]:
    with Running(open_door(cut.cluster).build_app()) as running:
        yield running.url()


def run(program: str, *arguments: str) -> str:
    """Return what a program prints, on both streams."""
    if shutil.which(program) is None:
        pytest.fail(NEEDED)
    command = [program, "-v", "error", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True, timeout=60)
    return done.stdout


KEYS = [(clip.__name__, codec) for clip in CLIPS for codec in CODECS]


@pytest.mark.parametrize("key", KEYS, ids="-".join)
def test_ffprobe_s_facts_are_the_record_s(made: Made, key: tuple[str, Codec]) -> None:
    video = made.videos[key]
    assert video["status"] == "completed", video["error"]
    probed = json.loads(run("ffprobe", "-show_streams", "-count_frames", "-of", "json", str(made.files[key])))
    streams = {stream["codec_type"]: stream for stream in probed["streams"]}
    picture, sound = streams["video"], streams.get("audio")
    assert video["size"] == f"{picture['width']}x{picture['height']}"
    assert (video["codec"], video["sound"]) == (picture["codec_name"], sound and sound["codec_name"])
    assert (sound is not None) == (key[0] == "sounding")
    assert video["frames_total"] == int(picture["nb_frames"]) == int(picture["nb_read_frames"])
    assert Fraction(video["rate"]) == Fraction(picture["avg_frame_rate"])
    assert float(video["seconds"]) == pytest.approx(float(picture["duration"]), abs=0.001)
    assert picture["codec_tag_string"] == {"h264": "avc1", "hevc": "hvc1", "av1": "av01"}[key[1]]
    colours = [picture[f"color_{name}"] for name in ("space", "transfer", "primaries", "range")]
    assert (colours, picture["pix_fmt"]) == (["bt709", "bt709", "bt709", "tv"], "yuv420p")


@pytest.mark.parametrize("key", KEYS, ids="-".join)
def test_ffmpeg_decodes_the_file_without_a_word(made: Made, key: tuple[str, Codec]) -> None:
    assert run("ffmpeg", "-i", str(made.files[key]), "-f", "null", "-") == ""


@pytest.mark.parametrize("key", [(clip.__name__, codec) for clip in (plain, odd) for codec in CODECS], ids="-".join)
def test_ffmpeg_decodes_the_live_stream_without_a_word(cut: Made, key: tuple[str, Codec]) -> None:
    assert cut.videos[key]["status"] == "failed"
    assert run("ffmpeg", "-i", str(cut.files[key]), "-f", "null", "-") == ""
    counted = run(
        "ffprobe", "-count_frames", "-show_entries", "stream=nb_read_frames", "-of", "csv=p=0", str(cut.files[key])
    )
    assert int(counted.strip().rstrip(",")) == 8


def play(browser: WebDriver, server: str, video: dict[str, Any]) -> dict[str, Any]:
    browser.get(f"{server}/healthz")
    played = browser.execute_async_script(PLAY, f"{server}/v1/videos/{video['id']}/content")
    assert isinstance(played, dict), played
    assert "error" not in played, played
    return played


def check_corners(played: dict[str, Any]) -> None:
    for shown, drawn in zip(played["corners"], CORNERS, strict=True):
        assert np.abs(np.array(shown) - drawn).max() <= 12, played


@pytest.mark.parametrize("key", [key for key in KEYS if key[1] != "hevc"], ids="-".join)
def test_chromium_plays_the_file(browser: WebDriver, server: str, made: Made, key: tuple[str, Codec]) -> None:
    """Debian's Chromium has no decoder for HEVC."""
    video = made.videos[key]
    played = play(browser, server, video)
    assert f"{played['size'][0]}x{played['size'][1]}" == video["size"]
    assert played["time"] == pytest.approx(played["duration"])
    assert played["duration"] == pytest.approx(float(video["seconds"]), abs=0.05)
    assert played["frames"] >= 2
    assert (played["sound"] > 0) == (key[0] == "sounding")
    if key[0] != "sounding":
        check_corners(played)


@pytest.mark.parametrize(
    "key", [(clip.__name__, codec) for clip in (plain, odd) for codec in ("h264", "av1")], ids="-".join
)
def test_chromium_plays_the_live_stream(
    browser: WebDriver, live_server: str, cut: Made, key: tuple[str, Codec]
) -> None:
    played = play(browser, live_server, cut.videos[key])
    assert f"{played['size'][0]}x{played['size'][1]}" == cut.videos[key]["size"]
    assert played["time"] > 0.2
    check_corners(played)
