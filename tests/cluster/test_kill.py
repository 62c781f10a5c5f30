"""Jobs survive: after the death of any process, a job completes with the frames of an undisturbed run."""

from typing import Any

import httpx
import pytest

from tests.cluster.conftest import create_video, fetch_content, wait_for_end, wait_for_stage
from tests.cluster.faults import Outcome, compare_outcomes, count_runners
from tests.cluster.server import Server
from tests.composition.beneath import read_beneath
from tests.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.fault]

JOB: dict[str, Any] = {
    "num_frames": 49,
    "steps": 12,
    "max_area": 192 * 112,
    "seed": 11,
    "describe_prompt": "描述" * 1000,
}
"""Long enough to be interrupted in the middle."""


@pytest.fixture(scope="module")
def undisturbed(http: httpx.Client, clip_id: str) -> dict[str, Any]:
    video = wait_for_end(http, create_video(http, input_video=clip_id, **JOB)["id"])
    assert video["status"] == "completed", video
    return video


@pytest.mark.parametrize(
    ("deployment", "stage"),
    [
        ("wan", "denoise"),
        ("v2v", "denoise"),
        ("jobs", "decode"),
        ("front", "denoise"),
        pytest.param("internvl", "describe", marks=pytest.mark.matrix),
        pytest.param("v2v", "describe", marks=pytest.mark.matrix),
        pytest.param("jobs", "describe", marks=pytest.mark.matrix),
        pytest.param("jobs", "denoise", marks=pytest.mark.matrix),
        pytest.param("wan", "decode", marks=pytest.mark.matrix),
    ],
)
def test_a_deployment_that_is_killed_costs_time_and_nothing_else(
    server: Server,
    http: httpx.Client,
    clip_id: str,
    undisturbed: dict[str, Any],
    record_property: Any,
    *,
    deployment: str,
    stage: str,
) -> None:
    video_id = create_video(http, input_video=clip_id, **JOB)["id"]
    wait_for_stage(http, video_id, stage)
    for process in server.replicas(deployment):
        process.kill()
    until(lambda: answers(http), what="an answer of the front door")
    video = wait_for_end(http, video_id)
    assert video["status"] == "completed", video
    made, expected = fetch_content(http, video_id), fetch_content(http, undisturbed["id"])
    assert read_beneath(made) == read_beneath(expected)
    assert made != expected, "each file has its own marks"
    assert [stage["name"] for stage in video["stages"]].count("generate") == 1
    assert count_runners(server, video_id) == (2 if deployment == "jobs" else 1), "the lease is taken over"
    record_property(Outcome.__name__, compare_outcomes(server, deployment, stage, video, undisturbed))


def answers(http: httpx.Client) -> bool:
    """Return whether the front door responds; a request in progress when it is killed gets no response."""
    try:
        return http.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False
