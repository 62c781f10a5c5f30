"""A rolling edit survives: after the death of any process, it continues at its next frame, with the same frames."""

import json
import statistics
from typing import Any

import httpx
import numpy as np
import pytest

from tests.cluster.conftest import fetch_content, wait_for_end
from tests.cluster.edges import draw_edges, encode_png, read_clip, zip_pictures
from tests.cluster.faults import Outcome, compare_outcomes
from tests.cluster.server import Server
from tests.cluster.test_rolling_edit import upload
from tests.composition.beneath import read_beneath
from tests.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.fault]

TOTAL = 10
SAFE = 5
"""Number of stored frames when a process is killed."""
FRAMES = read_clip(TOTAL)


@pytest.fixture(scope="module")
def job(http: httpx.Client) -> dict[str, Any]:
    """Fields of a job that is slow enough to be interrupted in the middle."""
    enlarged = np.kron(FRAMES[0], np.ones((2, 2, 1), np.uint8))
    edges = upload(http, zip_pictures(draw_edges(FRAMES[1:])))
    return {
        "model": "rolling-edit",
        "init_frame": upload(http, encode_png(enlarged)),
        "edge_frames": edges,
        "seed": 3,
        "steps": 4,
    }


def start_job(http: httpx.Client, job: dict[str, Any]) -> str:
    answer = http.post("/v1/videos", json=job)
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def fetch_variant(http: httpx.Client, video_id: str, name: str) -> bytes:
    return http.get(f"/v1/videos/{video_id}/content", params={"variant": name}).content


@pytest.fixture(scope="module")
def undisturbed(http: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    video = wait_for_end(http, start_job(http, job))
    assert video["status"] == "completed", video
    return video


def list_stills(server: Server, video_id: str) -> dict[str, int]:
    """Return the frames on disk, and when each was written, in nanoseconds."""
    folder = server.home / "artifacts" / "videos" / video_id / "stills"
    return {path.name: path.stat().st_mtime_ns for path in sorted(folder.glob("*-frame-*.png"))}


@pytest.mark.parametrize(
    "deployment",
    [
        "qwen-edit",
        pytest.param("rolling-edit", marks=pytest.mark.matrix),
        pytest.param("jobs", marks=pytest.mark.matrix),
    ],
)
def test_a_killed_process_costs_no_frame(
    server: Server,
    http: httpx.Client,
    job: dict[str, Any],
    undisturbed: dict[str, Any],
    record_property: Any,
    *,
    deployment: str,
) -> None:
    video_id = start_job(http, job)
    until(lambda: http.get(f"/v1/videos/{video_id}").json()["frames_done"] >= SAFE, 120, "the first frames")
    before = list_stills(server, video_id)
    server.busiest(deployment).kill()
    assert http.get(f"/v1/videos/{video_id}").json()["status"] == "in_progress", "interrupted in the middle"
    video = wait_for_end(http, video_id)
    assert (video["status"], video["frames_done"]) == ("completed", TOTAL), video
    assert SAFE <= len(before) < TOTAL
    after = list_stills(server, video_id)
    assert {name: after[name] for name in before} == before  # no frame was generated or written again
    assert len(after) == TOTAL
    made, expected = fetch_content(http, video_id), fetch_content(http, undisturbed["id"])
    assert read_beneath(made) == read_beneath(expected)
    assert made != expected, "each file has its own marks"
    for name in ("frames", "metrics"):
        assert fetch_variant(http, video_id, name) == fetch_variant(http, undisturbed["id"], name), name
    events = http.get(f"/v1/videos/{video_id}/events").text
    assert events.count("event: frame\n") == TOTAL
    record_property(Outcome.__name__, compare_outcomes(server, deployment, "edit", video, undisturbed))


@pytest.fixture(scope="module")
def gated_job(http: httpx.Client, job: dict[str, Any], undisturbed: dict[str, Any]) -> dict[str, Any]:
    """Fields of the job with a gate that refuses about half of the pictures that it makes."""
    answer = http.get(f"/v1/videos/{undisturbed['id']}/content", params={"variant": "metrics", "format": "json"})
    losses = [frame["edge_loss"] for frame in answer.json()["frames"] if frame["edge_loss"] is not None]
    return {**job, "gate": {"edge_loss": statistics.median(losses), "tries": 3}}


def read_until_refused(http: httpx.Client, video_id: str) -> None:
    """Follow the events of a job until a frame after the first one is refused: it is then being made again."""
    with http.stream("GET", f"/v1/videos/{video_id}/events") as answer:
        kind = ""
        for line in answer.iter_lines():
            kind = line.removeprefix("event: ") if line.startswith("event: ") else kind
            if kind == "try" and line.startswith("data: ") and json.loads(line.removeprefix("data: "))["index"] > 1:
                return
    raise AssertionError("no frame was refused")


@pytest.mark.parametrize(
    "deployment", ["jobs", *(pytest.param(name, marks=pytest.mark.matrix) for name in ("qwen-edit", "rolling-edit"))]
)
def test_a_process_killed_while_a_frame_is_made_again_changes_neither_frames_nor_record(
    server: Server, http: httpx.Client, gated_job: dict[str, Any], *, deployment: str
) -> None:
    expected = wait_for_end(http, start_job(http, gated_job))
    assert (expected["status"], expected["facts"]["gate_retried"] > 0) == ("completed", True), expected
    video_id = start_job(http, gated_job)
    read_until_refused(http, video_id)
    server.busiest(deployment).kill()
    assert http.get(f"/v1/videos/{video_id}").json()["status"] == "in_progress", "interrupted in the middle"
    video = wait_for_end(http, video_id)
    assert (video["status"], video["frames_done"]) == ("completed", TOTAL), video
    assert read_beneath(fetch_content(http, video_id)) == read_beneath(fetch_content(http, expected["id"]))
    for name in ("frames", "metrics"):
        assert fetch_variant(http, video_id, name) == fetch_variant(http, expected["id"], name), name
    for name in ("gate_tries", "gate_retried", "gate_refused"):
        assert video["facts"][name] == expected["facts"][name], name
    assert video["degraded"] == expected["degraded"]
    assert (video["degraded"] is None) == (video["facts"]["gate_refused"] == 0)
