"""Cancelling stops the model between two steps, and the next job runs."""

import io
import time

import av
import httpx
import pytest

from tests.cluster.conftest import create_video, fetch_content, wait_for_end, wait_for_stage
from tests.cluster.server import Server
from tests.waiting import until

pytestmark = pytest.mark.cluster

LONG = {"num_frames": 81, "steps": 100, "max_area": 192 * 112, "prompt": "a meadow"}
"""Several minutes of work."""


def step_s(http: httpx.Client, video_id: str) -> float:
    """Return the duration of a denoising step of a running job, from its events."""
    seen: list[tuple[float, int]] = []
    with http.stream("GET", f"/v1/videos/{video_id}/events") as answer:
        for line in answer.iter_lines():
            if '"stage": "denoise"' in line:
                done = int(line.split('"done": ')[1].split(",")[0])
                seen.append((time.monotonic(), done))
                if len(seen) > 3:
                    break
    (t0, a), (t1, b) = seen[1], seen[-1]
    return (t1 - t0) / (b - a)


@pytest.mark.parametrize("how", ["cancel", "delete"])
def test_the_worker_is_idle_a_step_and_a_second_later(
    server: Server, http: httpx.Client, clip_id: str, how: str
) -> None:
    video_id = create_video(http, input_video=clip_id, **LONG)["id"]
    wait_for_stage(http, video_id, "denoise")
    step = step_s(http, video_id)
    until(lambda: not server.is_idle("wan"), 60, "a worker at work")
    asked = time.monotonic()
    if how == "cancel":
        assert http.post(f"/v1/videos/{video_id}/cancel").status_code == 200
        video = wait_for_end(http, video_id)
        assert (video["status"], video["error"]["code"]) == ("failed", "cancelled")
    else:
        assert http.delete(f"/v1/videos/{video_id}").json()["deleted"] is True
        assert http.get(f"/v1/videos/{video_id}").status_code == 404
    until(lambda: server.is_idle("wan"), step + 1.5 + 5.0, "an idle worker")
    # Measuring takes half a second, more on a loaded machine, so only the order of magnitude is checked.
    assert time.monotonic() - asked < step + 1.0 + 5.0
    assert wait_for_end(http, create_video(http, input_video=clip_id, prompt="a meadow")["id"])["status"] == "completed"


def test_what_was_made_before_the_cancel_is_kept(http: httpx.Client, clip_id: str) -> None:
    asked = {"prompt": "a meadow", "num_frames": 121, "steps": 1, "max_area": 192 * 112}
    video_id = create_video(http, input_video=clip_id, **asked)["id"]
    until(lambda: http.get(f"/v1/videos/{video_id}").json()["frames_done"] > 0, 60, "a first segment")
    http.post(f"/v1/videos/{video_id}/cancel")
    video = wait_for_end(http, video_id)
    assert (video["status"], video["error"]["code"]) == ("failed", "cancelled")
    with av.open(io.BytesIO(fetch_content(http, video_id)), "r") as container:
        assert sum(1 for _ in container.decode(video=0)) == video["frames_done"]


def test_what_a_deleted_job_made_is_removed(server: Server, http: httpx.Client, clip_id: str) -> None:
    video_id = wait_for_end(http, create_video(http, input_video=clip_id, prompt="a meadow")["id"])["id"]
    folder = server.home / "artifacts" / "videos" / video_id
    assert list(folder.glob("video-*.mp4"))
    http.delete(f"/v1/videos/{video_id}")
    until(lambda: not folder.exists(), 10, "the removal")


def test_a_finished_job_cannot_be_cancelled(http: httpx.Client, clip_id: str) -> None:
    video_id = wait_for_end(http, create_video(http, input_video=clip_id, prompt="a meadow")["id"])["id"]
    answer = http.post(f"/v1/videos/{video_id}/cancel")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
