"""One server for all tests that leave it as they found it; tests that break a server start their own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from miniatures.random.served import random_args
from tests.cluster.server import CLIP, Server, until

Create = Callable[..., dict[str, Any]]


@pytest.fixture(scope="package")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """`args` with random weights, which all servers share, and with small requests."""
    return random_args(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory, untrained: dict[str, Any]) -> Iterator[Server]:
    guests = {"allowed_hosts": ["*.studio.example"], "allowed_origins": ["https://studio.example"]}
    made = Server(tmp_path_factory.mktemp("server"), untrained | guests).start()
    yield made
    assert made.stop() == 0


@pytest.fixture(scope="package")
def strict(tmp_path_factory: pytest.TempPathFactory, untrained: dict[str, Any]) -> Iterator[Server]:
    """A server with keys, small limits and short leases, for tests that break in or break it."""
    limits = {"max_body_bytes": 2 << 20, "max_queued_jobs": 20, "lease_s": 3.0, "auth": "keys"}
    made = Server(tmp_path_factory.mktemp("strict"), untrained | limits)
    made.add_key("ann")
    made.add_key("bob")
    made.start()
    yield made
    made.kill()


@pytest.fixture(scope="package")
def studio(tmp_path_factory: pytest.TempPathFactory, untrained: dict[str, Any]) -> Iterator[Server]:
    """A server of the full pipeline and the storyboard, with two replicas of each model that every scene needs."""
    svd = {
        "weights": untrained["svd"]["weights"],
        "dtype": "float32",
        "decode_window": 2,
        "decode_overlap": 1,
        "max_frames": 50,
    }
    arguments = {**untrained, "svd": svd, "lease_s": 3.0, "concurrency": 6}
    home, twice = tmp_path_factory.mktemp("studio"), ("flux", "svd", "realesrgan")
    made = Server(home, arguments, ("full-pipeline", "storyboard"), twice).start()
    yield made
    made.kill()


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="package")
def clip_id(server: Server) -> str:
    """The shipped clip as an upload."""
    with server.client() as client, CLIP.open("rb") as file:
        answer = client.post("/v1/files", files={"file": file}, data={"purpose": "input"})
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def create(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    """Ask for a small video."""
    asked = {"model": "v2v", "num_frames": 9, "steps": 2, "max_area": 128 * 72, "seed": 5, **fields}
    answer = http.post("/v1/videos", json=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ended(http: httpx.Client, video_id: str, timeout_s: float = 120.0) -> dict[str, Any]:
    """Wait until a job has ended."""

    def ask() -> dict[str, Any] | None:
        video = http.get(f"/v1/videos/{video_id}").json()
        return video if video["status"] in ("completed", "failed") else None

    return until(ask, timeout_s, f"the end of {video_id}")


def staged(http: httpx.Client, video_id: str, stage: str) -> None:
    """Wait until a job is in a stage."""

    def ask() -> bool:
        video = http.get(f"/v1/videos/{video_id}").json()
        assert video["status"] in ("queued", "in_progress"), video
        return video["stage"] == stage

    until(ask, 60.0, f"{stage} of {video_id}")


def content(http: httpx.Client, video_id: str) -> bytes:
    answer = http.get(f"/v1/videos/{video_id}/content")
    assert answer.status_code == 200, answer.text
    return answer.content


def write_clip(path: Path) -> Path:
    path.write_bytes(CLIP.read_bytes())
    return path
