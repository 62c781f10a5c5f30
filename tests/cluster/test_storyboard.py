"""The storyboard on a real server: parallel scenes on two replicas, and the same film after the death of a process."""

import json
from typing import Any

import httpx
import numpy as np
import pytest

from tests.cluster.conftest import wait_for_end
from tests.cluster.faults import Outcome, compare_outcomes
from tests.cluster.server import Server
from tests.cluster.studio import FACE, SMALL, decode_frames, fetch_result, list_stages, upload
from tests.composition.beneath import read_beneath
from tests.waiting import until

pytestmark = pytest.mark.cluster

SIX: dict[str, Any] = {
    "title": "The fox",
    "scenes": [{"scene_number": n, "description": f"Scene {n}: a fox", "duration": 1} for n in range(1, 7)],
}
FILM: dict[str, Any] = {name: value for name, value in SMALL.items() if name != "prompt"}
LONG: dict[str, Any] = {**FILM, "steps": 40, "animate": {"num_frames": 6, "steps": 30, "max_area": 96 * 96}}


def create_storyboard(http: httpx.Client, **fields: Any) -> str:
    answer = http.post("/v1/videos", json={"model": "storyboard", **FILM, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def make_storyboard(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    video = wait_for_end(http, create_storyboard(http, **fields), 400)
    assert video["status"] == "completed", video
    return video


def list_scenes(http: httpx.Client, video: dict[str, Any]) -> list[dict[str, Any]]:
    return [http.get(f"/v1/videos/{child['id']}").json() for child in video["children"]]


def make_script(*durations: float, **first: Any) -> dict[str, Any]:
    scenes = [{"scene_number": n, "description": f"a fox {n}", "duration": s} for n, s in enumerate(durations, 1)]
    scenes[0].update(first)
    return {"title": "A film", "scenes": scenes}


def test_six_scenes_use_both_replicas_of_each_model(http: httpx.Client) -> None:
    video = make_storyboard(http, script=SIX, write_prompts=False)
    children = list_scenes(http, video)
    assert [child["params"]["prompt"] for child in children] == [scene["description"] for scene in SIX["scenes"]]
    assert {child["parent"] for child in children} == {video["id"]}
    assert len({child["params"]["seed"] for child in children}) == 6
    for model in ("flux", "svd", "realesrgan"):
        used = {
            stage["replica"].split()[0] for child in children for stage in child["stages"] if stage["model"] == model
        }
        assert len(used) == 2, f"{model}: {used}"
    assert (video["seconds"], video["rate"], video["size"], video["degraded"]) == ("6", "6", "128x128", None)
    film = decode_frames(fetch_result(http, video["id"]))
    first = decode_frames(fetch_result(http, children[0]["id"], "hd"))
    assert len(film) == 36
    assert np.abs(film[0].astype(int) - first[0]).mean() < 12, "the film shows the scene"


def test_a_scene_that_fails_leaves_a_card_and_a_record_that_says_so(http: httpx.Client) -> None:
    story = make_script(1, 1.5, 1)
    story["scenes"][1]["lora"] = "nowhere"
    video = make_storyboard(http, script=story, crossfade_s=0.5, interpolate=2)
    assert [child["status"] for child in video["children"]] == ["completed", "failed", "completed"]
    assert video["facts"]["placeholders"] == "2"
    assert video["degraded"] == "scene 2 is a placeholder: loras: there is no nowhere here"
    frames = decode_frames(fetch_result(http, video["id"]))
    assert len(frames) == 42 - 2 * 6 == video["frames_done"] == video["frames_total"]
    card = frames[12 - 6 + 9]
    assert np.median(card) < 60, "a plain dark card"
    story["scenes"][1].pop("lora")
    video = wait_for_end(http, create_storyboard(http, script=make_script(1, 1, lora="nowhere"), fallback="error"), 240)
    assert video["status"] == "failed"
    assert "scene 1: loras: there is no nowhere here" in video["error"]["message"]
    until(
        lambda: all(c["status"] in ("completed", "failed") for c in list_scenes(http, video)), 60, "the end of the rest"
    )


def test_a_topic_is_written_into_a_script(http: httpx.Client) -> None:
    video = make_storyboard(http, topic="A boat leaves. A storm comes! It returns.", scene_s=1, write_prompts=True)
    facts = video["facts"]
    assert facts["script_source"] in ("model", "model, repaired", "sentences")
    written = json.loads(facts["script"])
    assert len(written["scenes"]) == len(video["children"]) == len(json.loads(facts["prompts"]))
    if facts["script_source"] == "sentences":
        assert [scene["description"] for scene in written["scenes"]] == [
            "A boat leaves.",
            "A storm comes!",
            "It returns.",
        ]
        assert facts["script_refused"]
    assert [stage["name"] for stage in video["stages"]][:1] == ["script"]


def test_a_scene_has_its_own_face_and_shares_the_rest(http: httpx.Client) -> None:
    face = upload(http, FACE)
    video = make_storyboard(http, script=make_script(1, 1, face=face, style="ink"), write_prompts=False)
    first, second = list_scenes(http, video)
    assert list_stages(first) == ["face", "paint", "restyle", "animate", "upscale"]
    assert list_stages(second) == ["paint", "animate", "upscale"]
    assert first["params"]["restyle"]["prompt"] == "ink"
    answer = http.delete(f"/v1/files/{face}")
    assert answer.status_code == 200, "nothing needs it any more"


@pytest.fixture(scope="module")
def undisturbed(http: httpx.Client) -> dict[str, Any]:
    return make_storyboard(http, script=make_script(1, 1, 1), write_prompts=False, **LONG)


@pytest.mark.fault
@pytest.mark.parametrize(
    "deployment",
    [
        "storyboard",
        *(pytest.param(name, marks=pytest.mark.matrix) for name in ("jobs", "full-pipeline", "flux")),
    ],
)
def test_whichever_process_is_killed_it_is_the_same_film(
    server: Server, http: httpx.Client, undisturbed: dict[str, Any], record_property: Any, *, deployment: str
) -> None:
    video_id = create_storyboard(http, script=make_script(1, 1, 1), write_prompts=False, **LONG)

    def under_way() -> bool:
        children = http.get(f"/v1/videos/{video_id}").json()["children"]
        return any(0 < child["progress"] < 100 for child in children)

    until(under_way, 120, "a scene to be under way")
    server.busiest(deployment).kill()
    assert http.get(f"/v1/videos/{video_id}").json()["status"] == "in_progress", "interrupted in the middle"
    video = wait_for_end(http, video_id, 400)
    assert video["status"] == "completed", video
    assert video["degraded"] is None
    assert read_beneath(fetch_result(http, video_id)) == read_beneath(fetch_result(http, undisturbed["id"]))
    record_property(Outcome.__name__, compare_outcomes(server, deployment, "a scene", video, undisturbed))


def test_cancelling_the_film_cancels_its_scenes_and_keeps_the_finished(http: httpx.Client) -> None:
    video_id = create_storyboard(http, script=make_script(*[1] * 6), write_prompts=False, **LONG)
    until(
        lambda: any(c["status"] == "completed" for c in http.get(f"/v1/videos/{video_id}").json()["children"]),
        200,
        "a scene",
    )
    http.post(f"/v1/videos/{video_id}/cancel")
    video = wait_for_end(http, video_id, 60)
    assert video["error"]["code"] == "cancelled"
    until(lambda: all(c["status"] in ("completed", "failed") for c in list_scenes(http, video)), 60, "the end of all")
    children = list_scenes(http, video)
    done = [child for child in children if child["status"] == "completed"]
    assert 0 < len(done) < 6
    assert {child["error"]["code"] for child in children if child["status"] == "failed"} == {"cancelled"}
    assert decode_frames(fetch_result(http, done[0]["id"]))
    assert http.delete(f"/v1/videos/{video_id}").status_code == 200
    assert http.get(f"/v1/videos/{done[0]['id']}").status_code == 404


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({}, "script", "give either this or topic"),
        ({"script": {"title": "x", "scenes": []}}, "script", "1 to 100 scenes"),
        ({"script": {"title": "x", "scenes": [{}] * 10_000}}, "script", "1 to 100 scenes"),
        ({"script": make_script(0)}, "script", "greater than 0"),
        ({"script": make_script(1e6)}, "script", "less than or equal to 60"),
        ({"script": "{not json"}, "script", "JSON"),
        ({"script": make_script(1, scene_number=7)}, "script", "each exactly once"),
        ({"script": make_script(1, face="file_nothing")}, "script.scenes.1.face", "no file"),
        ({"topic": "  "}, "topic", "blank"),
        ({"topic": "a", "scenes": 0}, "scenes", "greater than or equal to 1"),
        ({"topic": "a", "scenes": 101}, "scenes", "less than or equal to 100"),
        ({"script": make_script(1), "scenes": 2}, "scenes", "only valid with topic"),
        ({"script": make_script(1), "interpolate": 5}, "interpolate", "less than or equal to 4"),
        ({"script": make_script(1), "crossfade_s": -1}, "crossfade_s", "greater than or equal to 0"),
        ({"script": make_script(1), "animate": False}, "animate", "cannot be turned off"),
        ({"script": make_script(1), "fallback": "none"}, "fallback", "placeholder"),
        ({"script": make_script(1), "animate": {"num_frames": 51}}, "animate.num_frames", "limit of 50"),
    ],
)
def test_what_cannot_be_is_refused_at_once(http: httpx.Client, fields: dict[str, Any], param: str, words: str) -> None:
    answer = http.post("/v1/videos", json={"model": "storyboard", **FILM, **fields})
    assert answer.status_code in (404, 422), answer.text
    error = answer.json()["error"]
    assert error["param"].startswith(param), error
    assert words in error["message"], error
    assert len(answer.text) < 2000
