"""Sound through HTTP: enlarged and continued videos keep its packets, and a storyboard takes files of its own."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster.conftest import fetch_content, wait_for_end
from tests.cluster.server import ROOT
from tests.composition import beeps
from tests.composition.beeps import Take, write_take
from tests.composition.media.test_sound import read_lengths, write_sound

pytestmark = pytest.mark.cluster

FILES = ROOT / "tests" / "data" / "media"


def make(http: httpx.Client, target: Path, files: dict[str, Path], **fields: str) -> dict[str, Any]:
    """Order a video, save it, and return its record."""
    parts = {name: (path.name, path.read_bytes()) for name, path in files.items()}
    answer = http.post("/v1/videos", data=fields, files=parts)
    assert answer.status_code == 200, answer.text
    record = wait_for_end(http, answer.json()["id"])
    assert record["status"] == "completed", record
    target.write_bytes(fetch_content(http, record["id"]))
    return record


def test_an_enlarged_video_keeps_its_sound(http: httpx.Client, tmp_path: Path) -> None:
    made = tmp_path / "made.mp4"
    record = make(http, made, {"input_video": FILES / "sound.mp4"}, model="realesrgan", scale="2")
    assert (record["facts"]["sound"], record["sound"]) == ("copied: aac", "aac")
    assert beeps.read_packets(made) == beeps.read_packets(FILES / "sound.mp4")


def test_flashes_and_beeps_stay_together(http: httpx.Client, tmp_path: Path) -> None:
    made = tmp_path / "made.mp4"
    source = write_take(tmp_path / "a.webm", Take("webm", video="libvpx", audio="libopus"))
    record = make(http, made, {"input_video": source}, model="realesrgan", scale="2")
    assert record["facts"]["sound"] == "copied: opus"
    beeps.assert_in_time(made)


def test_a_joined_clip_keeps_its_sound(http: httpx.Client, tmp_path: Path) -> None:
    made = tmp_path / "made.mp4"
    source = FILES / "wide_sound.mp4"
    record = make(http, made, {"input_video": source}, model="v2v", prompt="a circle", join="true", num_frames="9")
    assert record["facts"]["sound"] == "copied: aac"
    assert beeps.read_packets(made) == beeps.read_packets(source)
    video_s, sound_s = read_lengths(made)
    assert sound_s < video_s - 0.3, "silence is behind it"


def test_a_continuation_alone_has_no_sound_and_says_so(http: httpx.Client, tmp_path: Path) -> None:
    files = {"input_video": FILES / "wide_sound.mp4"}
    record = make(http, tmp_path / "made.mp4", files, model="v2v", prompt="a circle", num_frames="9")
    assert record["facts"]["sound"] == "left out: the result shows only the continuation"
    assert record["sound"] is None


def test_a_storyboard_takes_sound_of_its_own(http: httpx.Client, tmp_path: Path) -> None:
    speech = write_sound(tmp_path / "speech.mp3", "mp3", 0.25)
    uploaded = http.post("/v1/files", files={"file": (speech.name, speech.read_bytes())})
    assert uploaded.status_code == 200, uploaded.text
    assert (uploaded.json()["kind"], uploaded.json()["sound"]) == ("sound", "mp3")
    scenes: list[dict[str, Any]] = [
        {"scene_number": number, "description": "a red star", "duration": 1} for number in (1, 2)
    ]
    scenes[1]["audio"] = uploaded.json()["id"]
    fields = {"model": "storyboard", "script": json.dumps({"scenes": scenes}), "upscale": "false"}
    music = write_sound(tmp_path / "music.wav", "pcm_s16le", 0.5, seconds=5)
    made = tmp_path / "made.mp4"
    record = make(http, made, {"audio": music}, **fields, write_prompts="false")
    assert record["facts"]["sound"] == "mixed: 2 sounds to aac"
    assert beeps.find_beeps(made) == pytest.approx([0.5, 1.25], abs=0.01)
    refused = http.post("/v1/videos", json={"model": "v2v", "input_video": uploaded.json()["id"]})
    assert refused.status_code == 422
    assert "must be a video, got a file with no video stream, only audio" in refused.json()["error"]["message"]
