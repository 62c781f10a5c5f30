"""The whole application on a separate Ray, for the duration of a benchmark."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import ray
import yaml
from ray import serve

from benchmarks.local_ray import free_port
from composition.configuration.file import LOCAL_CONFIG, read_configuration
from composition.server.deploying import deploy
from miniatures.random.served import use_random_weights

CLIP = Path(__file__).parent.parent / "clients" / "media" / "bigbuckbunny.mp4"
START_S = 300.0


@contextmanager
def serve_application(
    front: dict[str, Any] | None = None, *, database: str | None = None, run_jobs: bool = True
) -> Iterator[httpx.Client]:
    """Serve the local configuration with random weights, and yield an HTTP client of it.

    Args:
        front: settings that replace those of the front door.
        database: URL of the database; by default a new one.
        run_jobs: whether a job runner is started.
    """
    with tempfile.TemporaryDirectory(prefix="reelgraph-bench-") as home:
        state = {"home": home, "database": database or f"sqlite:///{home}/reelgraph.db"}
        raw = use_random_weights(yaml.safe_load(LOCAL_CONFIG.read_text()), Path(home))
        for application in raw["applications"]:
            application["args"] |= {**state, **((front or {}) if application["name"] == "front" else {})}
            if application["name"] == "jobs" and not run_jobs:  # nothing calls it, so it stays at 0 replicas
                application["deployments"][0]["autoscaling_config"] = {"min_replicas": 0, "max_replicas": 1}
        config = Path(home) / "serve_config.yaml"
        config.write_text(yaml.safe_dump(raw))
        port = free_port()
        ray.init(address="local", namespace="serve", include_dashboard=False, log_to_driver=False)
        try:
            deploy(read_configuration(config, "127.0.0.1", port))
            _wait(len(raw["applications"]))
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
                yield client
        finally:
            serve.shutdown()
            ray.shutdown()


def _wait(count: int) -> None:
    deadline = time.monotonic() + START_S
    while [each.status for each in serve.status().applications.values()] != ["RUNNING"] * count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the applications were not ready within {START_S:g} s")
        time.sleep(0.2)


def upload(client: httpx.Client, path: Path) -> str:
    """Upload a file and return its id."""
    with path.open("rb") as file:
        answer = client.post("/v1/files", files={"file": file})
    answer.raise_for_status()
    return answer.json()["id"]


def create_job(client: httpx.Client, **fields: Any) -> str:
    """Create a job, of V2V by default, and return its id."""
    answer = client.post("/v1/videos", json={"model": "v2v", **fields})
    answer.raise_for_status()
    return answer.json()["id"]


def fetch_job(client: httpx.Client, video_id: str) -> dict[str, Any]:
    """Return the record of a job."""
    return client.get(f"/v1/videos/{video_id}").raise_for_status().json()


def wait_for_job(client: httpx.Client, video_id: str) -> dict[str, Any]:
    """Wait until a job is completed, and return its record. Raises RuntimeError if it fails."""
    while (video := fetch_job(client, video_id))["status"] not in ("completed", "failed"):
        time.sleep(0.1)
    if video["status"] == "failed":
        raise RuntimeError(str(video["error"]))
    return video
