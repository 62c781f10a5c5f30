"""Jobs survive: whichever process is killed, a job that has an id ends with the frames of an undisturbed run."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.cluster.conftest import content, create, ended, staged
from tests.cluster.server import CLIP, Server, until

pytestmark = pytest.mark.cluster

JOB: dict[str, Any] = {
    "num_frames": 49,
    "steps": 12,
    "max_area": 192 * 112,
    "seed": 11,
    "describe_prompt": "描述" * 1000,
}
"""Long enough to be hit in the middle."""


@pytest.fixture(scope="module")
def http(strict: Server) -> Iterator[httpx.Client]:
    with strict.client() as client:
        yield client


@pytest.fixture(scope="module")
def file_id(http: httpx.Client) -> str:
    return http.post("/v1/files", files={"file": CLIP.open("rb")}).json()["id"]


@pytest.fixture(scope="module")
def undisturbed(http: httpx.Client, file_id: str) -> bytes:
    video = ended(http, create(http, input_video=file_id, **JOB)["id"])
    assert video["status"] == "completed", video
    return content(http, video["id"])


@pytest.mark.parametrize(
    ("deployment", "stage"),
    [("jobs", "decode"), ("wan", "denoise"), ("internvl", "describe")],
)
def test_a_killed_replica_costs_time_and_nothing_else(
    strict: Server, http: httpx.Client, file_id: str, undisturbed: bytes, deployment: str, stage: str
) -> None:
    process = until(lambda: strict.replicas(deployment), what=f"a replica of {deployment}")[0]
    video_id = create(http, input_video=file_id, **JOB)["id"]
    staged(http, video_id, stage)
    process.kill()
    video = ended(http, video_id)
    assert video["status"] == "completed", video
    assert content(http, video_id) == undisturbed
    assert [stage["name"] for stage in video["stages"]].count("generate") == 1


def test_a_killed_server_goes_on_after_its_restart(
    strict: Server, http: httpx.Client, file_id: str, undisturbed: bytes
) -> None:
    running = [create(http, input_video=file_id, **JOB)["id"] for _ in range(2)]
    waiting = [create(http, input_video=file_id, **JOB)["id"] for _ in range(2)]
    staged(http, running[0], "denoise")
    strict.kill()
    strict.start()
    for video_id in running + waiting:
        video = ended(http, video_id)
        assert video["status"] == "completed", video
        assert content(http, video_id) == undisturbed
