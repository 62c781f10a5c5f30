"""Jobs of a single model on a real server: Stable Video Diffusion and Real-ESRGAN."""

import io
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from composition.media.encode_picture import encode_picture
from tests.cluster.conftest import fetch_content, wait_for_end
from tests.cluster.edges import encode_png, read_clip
from tests.cluster.faults import Outcome, compare_outcomes
from tests.cluster.server import Server
from tests.composition import sample_media as media
from tests.composition.beneath import read_beneath
from tests.composition.serving import noise
from tests.waiting import until

pytestmark = pytest.mark.cluster

FRAMES = 40


def decode_frames(data: bytes) -> list[NDArray[np.uint8]]:
    with av.open(io.BytesIO(data), "r") as container:
        return [frame.to_ndarray(format="rgb24").astype(np.uint8) for frame in container.decode(video=0)]


def create_job(http: httpx.Client, file: Path, part: str, **fields: str) -> dict[str, Any]:
    with file.open("rb") as data:
        answer = http.post("/v1/videos", data=fields, files={part: (file.name, data)})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_video_comes_out_larger(http: httpx.Client, tmp_path: Path) -> None:
    job = create_job(http, media.count(tmp_path / "a.mp4", FRAMES), "input_reference", model="realesrgan", scale="2")
    video = wait_for_end(http, job["id"])
    assert (video["status"], video["size"], video["frames_done"]) == ("completed", "128x96", FRAMES), video
    assert {(stage["name"], stage["model"]) for stage in video["stages"]} == {("upscale", "realesrgan")}
    frames = decode_frames(fetch_content(http, job["id"]))
    assert [media.number_of(frame) for frame in frames] == list(range(FRAMES))


@pytest.mark.fault
def test_a_killed_replica_costs_no_frame(
    server: Server, http: httpx.Client, tmp_path: Path, record_property: Any
) -> None:
    large = [np.random.default_rng(n).integers(0, 256, (96, 128, 3), np.uint8) for n in range(90)]
    file = media.clip(tmp_path / "a.mp4", large)
    whole = create_job(http, file, "input_video", model="realesrgan", scale="4")
    undisturbed = wait_for_end(http, whole["id"])
    assert undisturbed["status"] == "completed", undisturbed
    job = create_job(http, file, "input_video", model="realesrgan", scale="4")
    until(lambda: http.get(f"/v1/videos/{job['id']}").json()["frames_done"] > 0, 120, "the first segment")
    server.busiest("realesrgan").kill()
    assert http.get(f"/v1/videos/{job['id']}").json()["status"] == "in_progress", "interrupted in the middle"
    video = wait_for_end(http, job["id"], 240)
    assert video["status"] == "completed", video
    made, expected = fetch_content(http, job["id"]), fetch_content(http, whole["id"])
    assert read_beneath(made) == read_beneath(expected)
    record_property(Outcome.__name__, compare_outcomes(server, "realesrgan", "upscale", video, undisturbed))


def test_a_picture_comes_out_larger(http: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode_png(read_clip(1)[0]))
    job = create_job(http, tmp_path / "a.png", "image", model="realesrgan", scale="3")
    video = wait_for_end(http, job["id"])
    height, width = read_clip(1)[0].shape[:2]
    assert (video["status"], video["main"], video["size"]) == ("completed", "image", f"{3 * width}x{3 * height}"), video
    answer = http.get(f"/v1/videos/{job['id']}/content")
    assert answer.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert picture.size == (3 * width, 3 * height)


def test_a_transparent_picture_comes_out_larger_and_transparent(http: httpx.Client, tmp_path: Path) -> None:
    alpha = np.zeros((32, 48), np.uint8)
    alpha[:, 24:] = 255
    (tmp_path / "a.png").write_bytes(encode_picture(noise(1, 48, 32), "png", alpha=alpha))
    video = wait_for_end(http, create_job(http, tmp_path / "a.png", "image", model="realesrgan", scale="2")["id"])
    assert (video["status"], video["size"]) == ("completed", "96x64"), video
    assert "alpha" not in video["facts"]
    with Image.open(io.BytesIO(fetch_content(http, video["id"]))) as picture:
        assert (picture.mode, picture.size) == ("RGBA", (96, 64))
        opacity = np.array(picture)[..., 3]
    assert (opacity[:, :44].max(), opacity[:, 53:].min()) == (0, 255)
    shown = http.get(f"/v1/videos/{video['id']}/content", params={"format": "jpeg"})
    with Image.open(io.BytesIO(shown.content)) as picture:
        assert np.array(picture)[:, :40].min() > 245


def test_a_picture_moves(http: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode_png(read_clip(1)[0]))
    fields = {"model": "svd", "num_frames": "6", "steps": "2", "size": "128x64", "fps": "5", "seed": "3"}
    job = create_job(http, tmp_path / "a.png", "input_reference", **fields)
    video = wait_for_end(http, job["id"])
    assert (video["status"], video["size"], video["frames_done"]) == ("completed", "128x64", 6), video
    assert len(decode_frames(fetch_content(http, job["id"]))) == 6


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"model": "svd", "prompt": "a dog"}, "prompt", "not supported"),
        ({"model": "svd", "num_frames": "51"}, "num_frames", "limit of 50"),
        ({"model": "svd", "motion_bucket_id": "0"}, "motion_bucket_id", "greater than or equal to 1"),
        ({"model": "svd", "guidance_scale": "3", "max_guidance_scale": "3"}, "guidance_scale", "give one of"),
        ({"model": "realesrgan", "scale": "5"}, "scale", "less than or equal to 4"),
        ({"model": "realesrgan", "image": "file_x"}, "input_video", "give either this or image"),
        ({"model": "storyboard"}, "input_reference", "there is no such media field"),
    ],
)
def test_what_cannot_be(http: httpx.Client, tmp_path: Path, fields: dict[str, str], param: str, words: str) -> None:
    (tmp_path / "a.png").write_bytes(encode_png(read_clip(1)[0]))
    with (tmp_path / "a.png").open("rb") as data:
        answer = http.post("/v1/videos", data=fields, files={"input_reference": ("a.png", data)})
    assert answer.status_code == 422, answer.text
    error = answer.json()["error"]
    assert error["param"] == param, error
    assert words in error["message"]
