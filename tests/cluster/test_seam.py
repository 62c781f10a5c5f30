"""V2V over HTTP with the trained miniatures: a circle keeps its shape where the continuation begins."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
import yaml

from composition.configuration.file import LOCAL_CONFIG
from services.frames import Pixels
from tests.cluster.conftest import fetch_content, wait_for_end
from tests.cluster.server import ROOT, Server

pytestmark = pytest.mark.cluster

MEDIA = ROOT / "tests" / "data" / "media"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server of V2V with the models of the local configuration."""
    applications = yaml.safe_load(LOCAL_CONFIG.read_text())["applications"]
    blocks = [block for application in applications for block in application["args"].get("models", {}).values()]
    server = Server(tmp_path_factory.mktemp("server"), {block["kind"]: block for block in blocks}, ("v2v",)).start()
    with server.client() as client:
        yield client
    assert server.stop() == 0


def continue_clip(http: httpx.Client, clip: Path, **fields: str) -> tuple[dict[str, Any], list[Pixels]]:
    """Continue a clip, and return the job's record and the frames of its file."""
    with clip.open("rb") as file:
        asked = {"model": "v2v", "num_frames": "17", "steps": "8", "max_area": "4096", "seed": "3", **fields}
        answer = http.post("/v1/videos", data=asked, files={"input_video": (clip.name, file)})
    assert answer.status_code == 200, answer.text
    video = wait_for_end(http, answer.json()["id"])
    assert video["status"] == "completed", video
    with av.open(io.BytesIO(fetch_content(http, video["id"])), "r") as container:
        return video, [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in container.decode(video=0)]


def measure_box(picture: Pixels) -> tuple[int, int]:
    """Return the width and height of the dark circle in pixels."""
    dark = picture.sum(-1, dtype=int) < 200
    rows, columns = np.flatnonzero(dark.any(1)), np.flatnonzero(dark.any(0))
    return int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1


@pytest.mark.parametrize(("name", "size", "circle"), [("wide.mp4", (90, 50), 28), ("tall_odd.mp4", (51, 91), 24)])
@pytest.mark.parametrize("match_colour", ["false", "true"])
def test_a_circle_keeps_its_shape_at_the_seam(trained, name, size, circle, match_colour) -> None:
    video, frames = continue_clip(trained, MEDIA / name, join="true", match_colour=match_colour)
    assert video["size"] == f"{size[0]}x{size[1]}"
    assert len(frames) == video["frames_done"] == video["frames_total"] == 16 + 16
    for frame in (frames[15], frames[16]):
        assert np.abs(np.subtract(measure_box(frame), circle)).max() <= 1


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, {"size": "80x44", "canvas": "80x48"}),
        ({"size": "64x64"}, {"size": "64x64"}),
        ({"fit": "crop"}, {"size": "80x48"}),
        ({"fit": "stretch", "size": "64x64"}, {"size": "64x64"}),
    ],
)
def test_without_join_the_record_names_the_size_and_the_canvas(trained, fields, told) -> None:
    video, frames = continue_clip(trained, MEDIA / "wide.mp4", num_frames="5", steps="2", **fields)
    assert {name: video["facts"].get(name) for name in ("size", "canvas")} == {"canvas": None, **told}
    assert video["size"] == told["size"]
    assert f"{frames[0].shape[1]}x{frames[0].shape[0]}" == told["size"]


def test_another_fit_is_refused(trained) -> None:
    answer = trained.post("/v1/videos", data={"model": "v2v", "fit": "fill"}, files={"input_video": b"x"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "fit")
