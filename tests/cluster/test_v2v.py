"""V2V over HTTP: a clip is uploaded, and its continuation is watched while it is generated."""

import io
import json
from fractions import Fraction
from typing import Any

import av
import httpx
import numpy as np
import pytest

from services.weights.weights import Weights
from tests.cluster.conftest import create_video, fetch_content, wait_for_end, wait_for_stage
from tests.cluster.server import CLIP
from tests.composition.beneath import read_beneath

pytestmark = pytest.mark.cluster

GRAPHS = {"v2v", "rolling-edit", "full-pipeline", "storyboard"}
ALONE = {"wan", "flux", "qwen-edit", "hunyuan-dit", "svd", "realesrgan"}
"""Models whose jobs need no graph."""


def decode_frames(data: bytes) -> list[np.ndarray]:
    with av.open(io.BytesIO(data), "r") as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def list_events(http: httpx.Client, video_id: str, after: int = 0) -> list[tuple[int, str, dict[str, Any]]]:
    found = []
    with http.stream("GET", f"/v1/videos/{video_id}/events", headers={"Last-Event-ID": str(after)}) as answer:
        event: dict[str, str] = {}
        for line in answer.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                event[name] = value
            elif "id" in event:
                found.append((int(event["id"]), event["event"], json.loads(event["data"])))
                event = {}
    return found


def test_the_record_tells_all_that_was_used(http: httpx.Client, clip_id: str, untrained: dict[str, Any]) -> None:
    video = wait_for_end(http, create_video(http, input_video=clip_id, seed=-1)["id"])
    assert video["status"] == "completed", video
    assert video["caption"]
    assert video["facts"]["caption"] == video["caption"]
    assert video["params"]["seed"] >= 0
    assert video["facts"]["seed"] == video["params"]["seed"]
    assert [(stage["name"], stage["model"]) for stage in video["stages"]] == [
        ("describe", "internvl"),
        ("generate", "wan"),
    ]
    weights = [Weights.model_validate(untrained[model]["weights"]) for model in ("internvl", "wan")]
    assert [stage["source"] for stage in video["stages"]] == [one.source for one in weights]
    assert all(stage["seconds"] > 0 for stage in video["stages"])
    assert (video["frames_done"], video["frames_total"], video["rate"]) == (9, 9, "16")
    assert sorted(video["results"]) == ["thumbnail", "video"]
    width, height = map(int, video["size"].split("x"))
    assert width * height <= 128 * 72
    assert abs(width / height - 1280 / 720) < 0.02
    made = decode_frames(fetch_content(http, video["id"]))
    assert len(made) == 9
    assert made[0].shape == (height, width, 3)


def test_the_same_seed_gives_the_same_frames_and_another_does_not(http: httpx.Client, clip_id: str) -> None:
    ids = [create_video(http, input_video=clip_id, prompt="a meadow", seed=seed)["id"] for seed in (5, 5, 6)]
    files = [fetch_content(http, wait_for_end(http, video_id)["id"]) for video_id in ids]
    first, again, other = [read_beneath(data) for data in files]
    assert first == again
    assert first != other


def test_with_a_prompt_internvl_is_not_asked(http: httpx.Client, clip_id: str) -> None:
    video = wait_for_end(http, create_video(http, input_video=clip_id, prompt="a meadow")["id"])
    assert [stage["model"] for stage in video["stages"]] == ["wan"]
    assert (video["prompt"], video["caption"]) == ("a meadow", None)


def test_the_video_plays_before_the_job_has_ended(http: httpx.Client, clip_id: str) -> None:
    video_id = create_video(http, input_video=clip_id, num_frames=81, max_area=192 * 112, prompt="a meadow")["id"]
    got = b""
    with http.stream("GET", f"/v1/videos/{video_id}/content") as answer:
        assert answer.headers["content-type"] == "video/mp4"
        chunks = answer.iter_bytes()
        while got.count(b"moof") < 2:  # the second segment begins when the first is complete
            got += next(chunks)
        assert http.get(f"/v1/videos/{video_id}").json()["status"] == "in_progress"
        assert len(decode_frames(got[: got.rindex(b"moof") - 4])) == 8
        for chunk in chunks:
            got += chunk
    whole = decode_frames(fetch_content(http, wait_for_end(http, video_id)["id"]))
    live = decode_frames(got)
    assert len(live) == len(whole) == 81
    assert all(np.array_equal(a, b) for a, b in zip(live, whole, strict=True))


def test_join_keeps_the_times_of_the_clip_and_continues_at_the_models_rate(http: httpx.Client, clip_id: str) -> None:
    video = wait_for_end(http, create_video(http, input_video=clip_id, prompt="a meadow", join=True)["id"])
    assert video["status"] == "completed", video
    assert video["size"] == "1280x720"
    data = fetch_content(http, video["id"])
    # The clip has 132 frames at 25 per second. Of the 9 at 16 per second, the first one is the clip's last.
    assert video["frames_total"] == video["frames_done"] == 132 + 8
    made, given = decode_frames(data), decode_frames(CLIP.read_bytes())
    for index in (0, 60, 131):
        assert np.abs(made[index].astype(int) - given[index]).mean() < 6.0, index
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.video[0]
        times = sorted(packet.pts * packet.time_base for packet in container.demux(stream) if packet.pts is not None)
        assert stream.duration is not None
        assert stream.time_base is not None
        assert stream.duration * stream.time_base == Fraction(131, 25) + Fraction(9, 16)
    assert times == [Fraction(n, 25) for n in range(132)] + [Fraction(131, 25) + Fraction(n, 16) for n in range(1, 9)]


def test_ranges_thumbnail_and_head(http: httpx.Client, clip_id: str) -> None:
    video_id = wait_for_end(http, create_video(http, input_video=clip_id, prompt="a meadow")["id"])["id"]
    url = f"/v1/videos/{video_id}/content"
    whole = http.get(url)
    assert whole.headers["accept-ranges"] == "bytes"
    part = http.get(url, headers={"Range": "bytes=10-99"})
    assert (part.status_code, part.content) == (206, whole.content[10:100])
    assert part.headers["content-range"] == f"bytes 10-99/{len(whole.content)}"
    assert http.get(url, headers={"Range": "bytes=99999999-"}).status_code == 416
    assert http.get(url, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    head = http.head(url)
    assert (head.content, head.headers["content-length"]) == (b"", str(len(whole.content)))
    picture = http.get(url, params={"variant": "thumbnail"})
    assert picture.headers["content-type"] == "image/jpeg"
    assert picture.content[:2] == b"\xff\xd8"
    missing = http.get(url, params={"variant": "hologram"})
    assert (missing.status_code, missing.json()["error"]["param"]) == (404, "variant")


def test_events_tell_every_stage_and_resume(http: httpx.Client, clip_id: str) -> None:
    video_id = create_video(http, input_video=clip_id, steps=12, num_frames=33, max_area=192 * 112)["id"]
    found = list_events(http, video_id)
    kinds = [kind for _, kind, _ in found]
    assert kinds[0] == "status"
    assert (kinds[-1], found[-1][2]["status"]) == ("status", "completed")
    assert {"text", "fact", "stage", "segment", "progress"} <= set(kinds)
    text = "".join(data["piece"] for _, kind, data in found if kind == "text")
    assert text.strip() == wait_for_end(http, video_id)["caption"]
    steps = [data["done"] for _, kind, data in found if kind == "progress" and data["stage"] == "denoise"]
    assert len(steps) > 2
    assert steps == sorted(steps)
    numbers = [number for number, _, _ in found]
    assert numbers == sorted(set(numbers))
    assert [number for number, _, _ in list_events(http, video_id, numbers[-3])] == numbers[-2:]


def test_i2v_runs_alone_with_a_first_and_a_last_picture(http: httpx.Client, clip_id: str) -> None:
    video_id = wait_for_end(http, create_video(http, input_video=clip_id, prompt="a meadow")["id"])["id"]
    picture = http.get(f"/v1/videos/{video_id}/content", params={"variant": "thumbnail"}).content
    parts = {"image": ("first.jpg", picture), "last_image": ("last.jpg", picture)}
    asked = {"model": "wan-i2v", "num_frames": "9", "steps": "2", "max_area": "9216"}
    answer = http.post("/v1/videos", data=asked, files=parts)
    assert answer.status_code == 200, answer.text
    assert wait_for_end(http, answer.json()["id"])["status"] == "completed"


def test_models_health_and_metrics(http: httpx.Client, clip_id: str) -> None:
    wait_for_end(http, create_video(http, input_video=clip_id, prompt="a meadow")["id"])
    models = {model["id"]: model for model in http.get("/v1/models").json()["data"]}
    assert set(models) == {*GRAPHS, *ALONE, "internvl", "instantid", "wan-i2v"}
    assert all(model["ready"] for model in models.values())
    assert http.get("/healthz").json() == {"status": "ok"}
    metrics = http.get("/metrics").text
    assert 'reelgraph_jobs{model="v2v",status="completed"}' in metrics
    assert 'reelgraph_stage_seconds{model="wan",stage="generate"}' in metrics
    schema = http.get("/openapi.json").json()
    bodies = schema["paths"]["/v1/videos"]["post"]["requestBody"]["content"]["application/json"]["schema"]["oneOf"]
    assert {name for body in bodies for name in body["properties"]["model"]["enum"]} == GRAPHS | ALONE | {"wan-i2v"}


def test_a_job_in_progress_says_when_to_ask_again(http: httpx.Client, clip_id: str) -> None:
    video_id = create_video(http, input_video=clip_id, prompt="a meadow", num_frames=121, max_area=320 * 176, steps=50)[
        "id"
    ]
    wait_for_stage(http, video_id, "denoise")
    answer = http.get(f"/v1/videos/{video_id}")
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["openai-poll-after-ms"] == "1000"
    http.delete(f"/v1/videos/{video_id}")
