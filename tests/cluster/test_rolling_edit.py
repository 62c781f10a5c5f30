"""The rolling edit on a real server: inputs, results, branches, fairness, cancelling, and single pictures."""

import base64
import csv
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from services.frames import Pixels
from tests.cluster.conftest import create_video, fetch_content, wait_for_end
from tests.cluster.edges import (
    HEIGHT,
    WIDTH,
    draw_edges,
    encode_png,
    read_clip,
    unzip_pictures,
    write_video,
    zip_pictures,
)
from tests.cluster.server import ROOT, Server
from tests.waiting import until

pytestmark = pytest.mark.cluster

EDGES = 8
FRAMES = read_clip(EDGES + 1)
FIRST, REST = FRAMES[0], FRAMES[1:]
SCORES = ["edge_loss", "gram_loss", "temporal_loss", "lpips_to_init", "lpips_to_prev"]


def make_input(form: str, folder: Path) -> tuple[str, bytes]:
    """Return the field and the file for EDGES edges in this form."""
    if form == "zip":
        return "edge_frames", zip_pictures(draw_edges(REST))
    if form == "edge video":
        return "edge_video", write_video(draw_edges(REST), folder / "edges.mp4").read_bytes()
    return "rgb_video", write_video(REST, folder / "rgb.mp4").read_bytes()


def upload(http: httpx.Client, data: bytes) -> str:
    answer = http.post("/v1/files", files={"file": data})
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def create_edit(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    """Create a small rolling edit and return its record."""
    asked = {"model": "rolling-edit", "steps": 3, "seed": 5, **fields}
    answer = http.post("/v1/videos", json={name: value for name, value in asked.items() if value is not None})
    assert answer.status_code == 200, answer.text
    return answer.json()


def fetch_variant(http: httpx.Client, video_id: str, name: str, **more: str) -> httpx.Response:
    answer = http.get(f"/v1/videos/{video_id}/content", params={"variant": name, **more})
    assert answer.status_code == 200, answer.text
    return answer


@pytest.fixture(scope="module")
def first_id(server: Server) -> str:
    with server.client() as client:
        return upload(client, encode_png(FIRST))


@pytest.fixture(scope="module")
def edges_id(server: Server) -> str:
    with server.client() as client:
        return upload(client, zip_pictures(draw_edges(REST)))


@pytest.fixture(scope="module")
def made(server: Server, first_id: str, edges_id: str) -> dict[str, Any]:
    """A completed rolling edit with debug pictures."""
    with server.client() as client:
        job = wait_for_end(client, create_edit(client, init_frame=first_id, edge_frames=edges_id, debug=True)["id"])
    assert job["status"] == "completed", job
    return job


# Inputs.


@pytest.mark.parametrize("form", ["zip", "edge video", "rgb video"])
def test_a_frame_more_than_edges_and_the_first_as_given(http: httpx.Client, tmp_path: Path, form: str) -> None:
    field, data = make_input(form, tmp_path)
    files = {"init_frame": ("first.png", encode_png(FIRST)), field: ("edges", data)}
    answer = http.post("/v1/videos", files=files, data={"model": "rolling-edit", "steps": "2", "seed": "5"})
    assert answer.status_code == 200, answer.text
    job = wait_for_end(http, answer.json()["id"])
    assert (job["status"], job["frames_total"], job["frames_done"]) == ("completed", EDGES + 1, EDGES + 1), job
    frames = unzip_pictures(fetch_variant(http, job["id"], "frames").content)
    assert list(frames) == [f"{index:06d}.png" for index in range(EDGES + 1)]
    assert np.array_equal(frames["000000.png"], FIRST)
    with av.open(io.BytesIO(fetch_content(http, job["id"])), "r") as container:
        assert sum(1 for _ in container.decode(video=0)) == EDGES + 1
    assert job["rate"] == ("16" if form == "zip" else "12")


def test_the_video_in_other_formats(http: httpx.Client, made: dict[str, Any]) -> None:
    route = f"/v1/videos/{made['id']}/content"
    for form, kind in (("gif", "image/gif"), ("webp", "image/webp")):
        answer = http.get(route, params={"format": form})
        assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
        with Image.open(io.BytesIO(answer.content)) as picture:
            assert (getattr(picture, "n_frames", 1), picture.size) == (made["frames_total"], (WIDTH, HEIGHT))
    lossless = unzip_pictures(fetch_variant(http, made["id"], "frames").content)
    files = unzip_pictures(http.get(route, params={"format": "png"}).content)
    assert files.keys() == lossless.keys()
    assert all(np.array_equal(files[name], lossless[name]) for name in files)
    part = http.get(route, params={"format": "gif"}, headers={"Range": "bytes=0-5"})
    assert (part.status_code, part.content) == (206, b"GIF89a")


@pytest.mark.parametrize("form", ["zip", "edge video", "rgb video"])
def test_reel_edit(server: Server, tmp_path: Path, form: str) -> None:
    field, data = make_input(form, tmp_path)
    (tmp_path / "first.png").write_bytes(encode_png(FIRST))
    if form == "zip":
        (tmp_path / "edges").mkdir()
        for name, picture in unzip_pictures(data).items():
            (tmp_path / name).write_bytes(encode_png(picture))
        source = ["--edge-frames-dir", "edges"]
    else:
        (tmp_path / "in.mp4").write_bytes(data)
        source = [f"--{field.replace('_', '-')}", "in.mp4"]
    wanted = ["--out-frames-dir", "out", "--out-video", "out.mp4", "--metrics-out", "scores.json"]
    command = ["edit", "--init-frame", "first.png", *source, *wanted, "--num-inference-steps", "2", "--seed", "5"]
    environment = {**os.environ, "REELGRAPH_URL": server.url}
    reel = [str(Path(sys.executable).parent / "reel"), *command]
    done = subprocess.run(reel, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [f"{index:06d}.png" for index in range(EDGES + 1)]
    assert np.array_equal(np.array(Image.open(tmp_path / "out" / "000000.png")), FIRST)
    assert len(json.loads((tmp_path / "scores.json").read_text())["frames"]) == EDGES + 1


def test_the_first_frame_of_an_rgb_video_is_the_default(http: httpx.Client, tmp_path: Path) -> None:
    rgb = upload(http, write_video(FRAMES, tmp_path / "rgb.mp4").read_bytes())
    job = wait_for_end(http, create_edit(http, rgb_video=rgb, max_frames=3, steps=2)["id"])
    frames = unzip_pictures(fetch_variant(http, job["id"], "frames").content)
    assert len(frames) == 3
    difference = np.abs(frames["000000.png"].astype(int) - FIRST).mean()
    assert difference < 8  # after H.264 encoding


def test_a_list_of_pictures(http: httpx.Client, first_id: str) -> None:
    pictures = [("edge_frames", (f"e{index}.png", encode_png(edge))) for index, edge in enumerate(draw_edges(REST[:2]))]
    fields = {"model": "rolling-edit", "init_frame": first_id, "steps": "2", "ttlg[edge_scale]": "0"}
    answer = http.post("/v1/videos", files=pictures, data=fields)
    assert answer.status_code == 200, answer.text
    assert answer.json()["params"]["ttlg"]["edge_scale"] == 0
    assert wait_for_end(http, answer.json()["id"])["frames_done"] == 3


# Results.


def test_the_scores_in_the_table_the_json_and_the_events(http: httpx.Client, made: dict[str, Any]) -> None:
    answer = fetch_variant(http, made["id"], "metrics")
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["frame"] for row in rows] == [str(index) for index in range(EDGES + 1)]
    assert [rows[0][name] for name in SCORES] == [""] * len(SCORES)
    assert all(float(row["brightness"]) > 0 for row in rows)
    whole = fetch_variant(http, made["id"], "metrics", format="json").json()
    assert whole["facts"]["vgg16"] == whole["facts"]["lpips"] == "random weights"
    events = http.get(f"/v1/videos/{made['id']}/events").text
    scored = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: ") and '"scores"' in line]
    assert [item["index"] for item in scored] == list(range(EDGES + 1))
    assert scored[0]["scores"] is None
    for row, item, event in zip(rows[1:], whole["frames"][1:], scored[1:], strict=True):
        for name in SCORES:
            assert float(row[name]) == item[name] == event["scores"][name] > 0


def test_the_debug_pictures(http: httpx.Client, made: dict[str, Any]) -> None:
    pictures = unzip_pictures(fetch_variant(http, made["id"], "debug").content)
    shown = ("after_guidance", "before_guidance", "soft_edges", "target_edges")
    assert list(pictures) == [f"{index:06d}-{name}.png" for index in range(1, EDGES + 1) for name in shown]
    assert all(picture.std() > 1 for picture in pictures.values())
    assert not np.array_equal(pictures["000001-after_guidance.png"], pictures["000001-before_guidance.png"])


def test_the_record_of_the_job(made: dict[str, Any]) -> None:
    assert (made["stage"], made["progress"], made["size"]) == (None, 100, f"{WIDTH}x{HEIGHT}")
    stages = made["stages"]
    assert {stage["name"] for stage in stages} == {"edit"}
    assert len({stage["replica"] for stage in stages}) == len(stages), "one for each replica that had a part in it"
    assert made["facts"]["seed"] == made["params"]["seed"] == 5
    assert sorted(made["results"]) == ["debug", "frames", "metrics", "thumbnail", "video"]


def test_only_metrics_have_a_format(http: httpx.Client, made: dict[str, Any]) -> None:
    answer = http.get(f"/v1/videos/{made['id']}/content", params={"variant": "frames", "format": "json"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "format")


# Branches.


def test_a_branch_with_nothing_changed_is_the_same_video(http: httpx.Client, made: dict[str, Any]) -> None:
    old = unzip_pictures(fetch_variant(http, made["id"], "frames").content)
    job = wait_for_end(
        http, create_edit(http, seed=None, steps=None, branch_from={"video": made["id"], "frame": 5})["id"]
    )
    assert job["status"] == "completed", job
    new = unzip_pictures(fetch_variant(http, job["id"], "frames").content)
    assert len(new) == EDGES + 1 - 5
    for index, picture in enumerate(new.values()):
        assert np.array_equal(picture, old[f"{index + 5:06d}.png"]), index


def test_a_branch_with_other_settings_goes_its_own_way(http: httpx.Client, made: dict[str, Any]) -> None:
    old = unzip_pictures(fetch_variant(http, made["id"], "frames").content)
    asked = {"branch_from": {"video": made["id"], "frame": 6}, "ttlg": {"lr": 0.3}}
    job = wait_for_end(http, create_edit(http, seed=None, steps=None, **asked)["id"])
    new = unzip_pictures(fetch_variant(http, job["id"], "frames").content)
    assert np.array_equal(new["000000.png"], old["000006.png"])
    assert not np.array_equal(new["000001.png"], old["000007.png"])
    assert (job["params"]["ttlg"]["lr"], job["params"]["steps"]) == (0.3, 3)


@pytest.mark.parametrize(
    ("branch", "status", "words"),
    [
        ({"video": "video_none", "frame": 1}, 404, "there is no video"),
        ({"video": None, "frame": 99}, 422, "has no frame 99; available: 0 to 8"),
        ({"video": None, "frame": -1}, 422, "greater than or equal to 0"),
        ({"video": None}, 422, "branch_from.frame"),
        ("{", 422, "must be a JSON object"),
    ],
)
def test_a_branch_from_nowhere(http: httpx.Client, made: dict[str, Any], branch: Any, status: int, words: str) -> None:
    if isinstance(branch, dict) and branch["video"] is None:
        branch = {**branch, "video": made["id"]}
    answer = http.post("/v1/videos", json={"model": "rolling-edit", "branch_from": branch})
    assert (answer.status_code, words in answer.json()["error"]["message"]) == (status, True), answer.text


# Requests that are rejected before a job exists.

NAN = float("nan")


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"edge_frames": None}, "edge_frames", "there are no edges"),
        ({"init_frame": None}, "init_frame", "there is no first frame"),
        ({"max_frames": 10}, "max_frames", "10 frames need 9 edges, and there are 8"),
        ({"edge_start": 8}, "edge_start", "less than the number of edges (8)"),
        ({"ttlg": {"edge_scale": -1}}, "ttlg.edge_scale", "greater than or equal to 0, got -1"),
        ({"ttlg": {"lr": NAN}}, "ttlg.lr", "finite number"),
        ({"ttlg": {"lr": 0}}, "ttlg.lr", "greater than 0, got 0"),
        ({"ttlg": {"start_step": 5, "end_step": 2}}, "ttlg.start_step", "must not be after end_step, got 5 and 2"),
        ({"ttlg": {"start_step": 5}}, "ttlg.start_step", "got 5 of 3 steps"),
        ({"ttlg": {"edge_scal": 1}}, "ttlg.edge_scal", "there is no such field"),
        ({"ttlg": "edge"}, "ttlg", "must be a JSON object"),
        ({"edge_filter": "canny"}, "edge_filter", "'none', 'sobel' or 'laplacian'"),
        ({"prompt": "a <|image_pad|> b"}, "prompt", "<|…|>"),
        ({"max_area": 1 << 23}, "max_area", "the limit of 1048576"),
        ({"fps": 0}, "fps", "greater than 0"),
        ({"steps": 1}, "steps", "greater than or equal to 2, got 1"),
    ],
)
def test_bad_fields(
    http: httpx.Client, first_id: str, edges_id: str, fields: dict[str, Any], param: str, words: str
) -> None:
    asked = {"model": "rolling-edit", "steps": 3, "init_frame": first_id, "edge_frames": edges_id, **fields}
    body = json.dumps({name: value for name, value in asked.items() if value is not None})
    answer = http.post("/v1/videos", content=body, headers={"Content-Type": "application/json"})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (422, param), answer.text
    assert words in error["message"]


def test_two_kinds_of_edges(http: httpx.Client, first_id: str, edges_id: str, tmp_path: Path) -> None:
    other = upload(http, write_video(draw_edges(REST), tmp_path / "edges.mp4").read_bytes())
    asked = {"model": "rolling-edit", "init_frame": first_id, "edge_frames": edges_id, "edge_video": other}
    answer = http.post("/v1/videos", json=asked)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "edge_video")


def make_hostile_zip() -> bytes:
    """Return a zip with an entry that would be unpacked outside the target folder."""
    plain = zip_pictures(draw_edges(REST[:2]))
    return plain.replace(b"edges/e1.png", b"../../e1.png")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (make_hostile_zip(), "../../e1.png"),
        (b"no zip at all, but some text", "the file is text"),
        (zip_pictures(FRAMES[:1])[:200], "zip"),
    ],
    ids=["path tricks", "text", "cut short"],
)
def test_edges_that_are_no_pictures(http: httpx.Client, first_id: str, data: bytes, words: str) -> None:
    files = {"edge_frames": ("edges.zip", data)}
    answer = http.post("/v1/videos", files=files, data={"model": "rolling-edit", "init_frame": first_id})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (422, "edge_frames"), answer.text
    assert words in error["message"]


def test_the_schema_tells_of_the_fields(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    for path in ("/v1/videos", "/v1/images/edits"):
        body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert '"#/$defs' not in json.dumps(body)
        found = [each for each in body.get("oneOf", [body]) if "ttlg" in each["properties"]]
        assert found[0]["properties"]["ttlg"]["properties"]["lr"]["exclusiveMinimum"] == 0


# Parallel jobs.


def test_a_long_edit_does_not_starve_a_short_one(http: httpx.Client, first_id: str, tmp_path: Path) -> None:
    many = upload(http, zip_pictures(np.concatenate([draw_edges(REST)] * 12)))
    longer = create_edit(http, init_frame=first_id, edge_frames=many, steps=3)["id"]
    until(lambda: http.get(f"/v1/videos/{longer}").json()["frames_done"] > 2, 60, "the beginning of the long edit")
    short = create_edit(http, init_frame=first_id, edge_frames=many, max_frames=4, steps=3)["id"]
    assert wait_for_end(http, short)["status"] == "completed"
    standing = http.get(f"/v1/videos/{longer}").json()
    assert standing["status"] == "in_progress", standing
    assert standing["frames_done"] < 90
    http.delete(f"/v1/videos/{longer}")


@pytest.mark.parametrize("guided", [True, False])
def test_a_cancelled_edit_rests_and_keeps_its_frames(
    server: Server, http: httpx.Client, first_id: str, edges_id: str, *, guided: bool
) -> None:
    asked = {"max_area": 320 * 200, "steps": 100, "ttlg": {"edge_scale": float(guided)}}
    large = upload(http, encode_png(np.kron(FIRST, np.ones((3, 3, 1), np.uint8))))
    video_id = create_edit(http, init_frame=large, edge_frames=edges_id, **asked)["id"]
    steps = until(lambda: _steps(http, video_id), 120, "a few steps")
    until(lambda: not server.is_idle("qwen-edit"), 60, "a worker at work")
    asked_at = time.monotonic()
    assert http.post(f"/v1/videos/{video_id}/cancel").status_code == 200
    job = wait_for_end(http, video_id)
    assert (job["status"], job["error"]["code"]) == ("failed", "cancelled")
    until(lambda: server.is_idle("qwen-edit"), 30, "an idle worker")
    assert time.monotonic() - asked_at < steps + 6.0  # one step, polling, and the measurement
    assert list(unzip_pictures(fetch_variant(http, video_id, "frames").content)) == ["000000.png"]


def _steps(http: httpx.Client, video_id: str) -> float | None:
    """Return the seconds of a denoising step, or None until there are enough events."""
    job = http.get(f"/v1/videos/{video_id}").json()
    assert job["status"] in ("queued", "in_progress"), job
    done = job["progress"] * 8
    return (time.time() - job["started_at"]) / done if done > 8 else None


# Single pictures.

MIRRORED = encode_png(np.ascontiguousarray(FIRST[:, ::-1]))


def read_picture(item: Any) -> Pixels:
    return np.array(Image.open(io.BytesIO(base64.b64decode(item))))


def test_one_guided_edit(http: httpx.Client) -> None:
    images = [
        ("edges", ("edges.png", encode_png(draw_edges(REST)[0]))),
        ("image", ("first.png", encode_png(FIRST))),
    ]
    made = {}
    for scale in ("0", "1"):
        fields = {"steps": "3", "seed": "7", "n": "2", "ttlg[edge_scale]": scale, "ttlg[lr]": "0.1"}
        answer = http.post("/v1/images/edits", files=images, data=fields)
        assert answer.status_code == 200, answer.text
        made[scale] = answer.json()
    assert [item["seed"] for item in made["1"]["data"]] == [7, 8]
    assert made["1"]["size"] == f"{WIDTH}x{HEIGHT}"
    assert made["1"]["facts"]["lpips"] == "random weights"
    assert read_picture(made["1"]["data"][0]["b64_json"]).shape == FIRST.shape
    for plain, guided in zip(made["0"]["data"], made["1"]["data"], strict=True):
        assert guided["scores"]["edge_loss"] < 0.95 * plain["scores"]["edge_loss"]


def test_openais_client_edits_a_picture_with_references(server: Server) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any")
    first = ("first.png", encode_png(FIRST))
    made: list[Pixels] = []
    for images in ([first], [first, ("dark.png", encode_png(FIRST // 4))], [first, ("mirror.png", MIRRORED)]):
        answer = client.images.edit(
            model="qwen-edit", image=images, prompt="at night", size="auto", extra_body={"steps": 2, "seed": 1}
        )
        assert answer.data
        made.append(read_picture(answer.data[0].b64_json))
    jpeg = client.images.edit(
        model="qwen-edit", image=first, prompt="x", output_format="jpeg", output_compression=80, extra_body={"steps": 2}
    )
    assert jpeg.output_format == "jpeg"
    assert jpeg.data
    assert base64.b64decode(jpeg.data[0].b64_json or "").startswith(b"\xff\xd8")
    assert {pixels.shape for pixels in made} == {FIRST.shape}
    assert len({pixels.tobytes() for pixels in made}) == 3, "each reference changes the result"


@pytest.mark.parametrize(
    ("count", "fields", "param"),
    [
        (0, {"prompt": "x"}, "image"),
        (4, {"prompt": "x"}, "image"),
        (1, {}, "prompt"),
        (1, {"prompt": "x", "ttlg[edge_scale]": "1"}, "ttlg.edge_scale"),
        (1, {"prompt": "x", "n": "9"}, "n"),
        (1, {"prompt": "x", "size": "3000x3000"}, "size"),
        (1, {"prompt": "x", "response_format": "url"}, "response_format"),
    ],
)
def test_a_picture_that_cannot_be_edited(http: httpx.Client, count: int, fields: dict[str, str], param: str) -> None:
    images = [("image[]", (f"{index}.png", encode_png(FIRST))) for index in range(count)]
    sent = {"files": images} if images else {}
    answer = http.post("/v1/images/edits", data={"steps": "2", **fields}, **sent)  # pyright: ignore[reportArgumentType]
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, param), answer.text


def test_the_self_test() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "reel"), "self-test"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all gradients are right" in done.stdout


def test_v2v_still_runs_beside_it(http: httpx.Client, clip_id: str) -> None:
    assert wait_for_end(http, create_video(http, input_video=clip_id, prompt="a meadow")["id"])["status"] == "completed"
