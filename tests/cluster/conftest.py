"""One server of all models and graphs, shared by the tests that do not disturb it; the others start their own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from miniatures.random.served import random_models
from tests.cluster.server import CLIP, Server
from tests.waiting import until

HERE = Path(__file__).parent
SMALLEST: dict[str, dict[str, Any]] = {
    "wan": {"num_frames": 17, "steps": 4, "max_area": 64 * 64},
    "flux": {"size": "64x64", "steps": 4},
}
"""Defaults of requests as short as those of the README."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run modules that start their own servers first, so that no two servers share the machine, and fault tests last.

    After a fault a process restarts, which would slow the next test down.
    """
    users = {item.path for item in items if "server" in cast("pytest.Function", item).fixturenames}

    def place(item: pytest.Item) -> int:
        shares = item.path.parent == HERE and item.path in users
        return shares + (shares and item.get_closest_marker("fault") is not None)

    items.sort(key=place)


@pytest.fixture(scope="package")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Kind → block of a model with random weights, shared by all servers, and with small default requests."""
    return random_models(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory, untrained: dict[str, Any]) -> Iterator[Server]:
    """A server of every graph, with two processes that host all models, so that scenes run in parallel."""
    changes: dict[str, dict[str, Any]] = {
        "svd": {"decode_window": 2, "decode_overlap": 1, "max_frames": 50},
        **{kind: {"defaults": {**untrained[kind]["defaults"], **fields}} for kind, fields in SMALLEST.items()},
    }
    models = {kind: {**block, **changes.get(kind, {})} for kind, block in untrained.items()}
    graphs = ("v2v", "rolling-edit", "full-pipeline", "storyboard")
    home = tmp_path_factory.mktemp("server")
    guests = {"allowed_hosts": ["*.studio.example"], "allowed_origins": ["https://studio.example"]}
    made = Server(home, models, graphs, twice=("models",), lease_s=3.0, concurrency=6, **guests).start()
    yield made
    assert made.stop() == 0


@pytest.fixture(scope="package")
def http(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="package")
def clip_id(server: Server) -> str:
    """The id of the uploaded clip."""
    with server.client() as client, CLIP.open("rb") as file:
        answer = client.post("/v1/files", files={"file": file}, data={"purpose": "input"})
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def create_video(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    """Create a small video and return its record."""
    asked = {"model": "v2v", "num_frames": 9, "steps": 2, "max_area": 128 * 72, "seed": 5, **fields}
    answer = http.post("/v1/videos", json=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


def wait_for_end(http: httpx.Client, video_id: str, timeout_s: float = 120.0) -> dict[str, Any]:
    """Wait until a job has ended, and return its record."""

    def ask() -> dict[str, Any] | None:
        video = http.get(f"/v1/videos/{video_id}").json()
        return video if video["status"] in ("completed", "failed") else None

    return until(ask, timeout_s, f"the end of {video_id}")


def wait_for_stage(http: httpx.Client, video_id: str, stage: str) -> None:
    """Wait until a job has reached a stage."""

    def ask() -> bool:
        video = http.get(f"/v1/videos/{video_id}").json()
        assert video["status"] in ("queued", "in_progress"), video
        return video["stage"] == stage

    until(ask, 60.0, f"{stage} of {video_id}")


def fetch_content(http: httpx.Client, video_id: str) -> bytes:
    answer = http.get(f"/v1/videos/{video_id}/content")
    assert answer.status_code == 200, answer.text
    return answer.content


def check_error(answer: httpx.Response, status: int, param: str | None, *words: str) -> dict[str, Any]:
    """Check that a response is one of our errors, and return the error."""
    assert answer.status_code == status, answer.text
    body = answer.json()["error"]
    assert set(body) == {"message", "type", "param", "code"}
    assert body["param"] == param, body
    for word in words:
        assert word in body["message"], body
    assert "Traceback" not in body["message"]
    return body
