"""The full pipeline on a real server: stages, results, invalid requests, and killed processes."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import save_file

from tests.cluster.conftest import wait_for_end, wait_for_stage
from tests.cluster.faults import Outcome, compare_outcomes
from tests.cluster.server import Server
from tests.cluster.studio import (
    FACE,
    SMALL,
    create_small,
    decode_frames,
    fetch_result,
    list_stages,
    make_small,
    mirror_face,
    paint_picture,
    upload,
)
from tests.composition.beneath import read_beneath
from tests.services.flux_loras import QUERIES, VALUES, tensors_of
from tests.waiting import until

pytestmark = pytest.mark.cluster

LONG: dict[str, Any] = {
    "restyle": {"prompt": "watercolour", "steps": 60},
    "steps": 60,
    "animate": {"num_frames": 24, "steps": 30, "max_area": 96 * 96},
}
"""Long enough to be interrupted in the middle."""


@pytest.fixture(scope="module")
def loras(server: Server) -> list[str]:
    """Names of two LoRAs that fit the model."""
    folder = server.home / "loras"
    save_file(tensors_of(QUERIES, rank=2, seed=1), folder / "ink.safetensors")
    save_file(tensors_of(VALUES, rank=4, seed=2), folder / "oil.safetensors")
    return ["ink", "oil"]


def test_every_stage_runs_and_each_result_can_be_had(http: httpx.Client, loras: list[str]) -> None:
    fields = {"prompt": "a red fox in snow", "seed": "5", "size": "64x64", "steps": "2", "restyle": "watercolour"}
    form = {**fields, "model": "full-pipeline", "animate": json.dumps(SMALL["animate"]), "upscale": '{"scale": 3}'}
    with FACE.open("rb") as face:
        answer = http.post("/v1/videos", data={**form, "loras": loras}, files={"face": ("me.png", face)})
    assert answer.status_code == 200, answer.text
    video = wait_for_end(http, answer.json()["id"], 240)
    assert video["status"] == "completed", video
    assert list_stages(video) == ["face", "paint", "restyle", "animate", "upscale"]
    assert (video["main"], video["size"], video["frames_done"]) == ("hd", "192x192", 6)
    assert set(video["results"]) == {"frames", "hd", "image", "painted", "thumbnail", "video"}
    assert [frame.shape for frame in decode_frames(fetch_result(http, video["id"], "video"))] == [(64, 64, 3)] * 6
    large = fetch_result(http, video["id"])
    assert large == fetch_result(http, video["id"], "hd"), "the large video is what the job is for"
    assert [frame.shape for frame in decode_frames(large)] == [(192, 192, 3)] * 6
    for name in ("image", "painted"):
        assert fetch_result(http, video["id"], name).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("fields", "stages", "main"),
    [
        ({"upscale": False}, ["paint", "animate"], "video"),
        ({"animate": False, "upscale": False}, ["paint"], "image"),
        ({"animate": False, "restyle": "ink"}, ["paint", "restyle", "upscale"], "image"),
    ],
)
def test_each_stage_can_be_left_out(http: httpx.Client, fields: dict[str, Any], stages: list[str], main: str) -> None:
    video = make_small(http, **fields)
    assert (list_stages(video), video["main"]) == (stages, main)
    assert fetch_result(http, video["id"])
    if main == "image":
        answer = http.get(f"/v1/videos/{video['id']}/content", params={"variant": "video"})
        assert answer.status_code == 404
        assert "available: " in answer.json()["error"]["message"]


def test_faces_make_pictures_different_and_a_strength_of_nothing_is_no_face(http: httpx.Client) -> None:
    plain, ann, bob = paint_picture(http), upload(http, FACE), upload(http, mirror_face())
    with_ann = paint_picture(http, face=ann)
    assert len({plain, with_ann, paint_picture(http, face=bob)}) == 3
    assert paint_picture(http, face=ann) == with_ann
    assert paint_picture(http, face=ann, identity_strength=0) == plain
    found = http.post("/v1/faces", json={"image": ann}).json()
    assert paint_picture(http, identity=found["identity"]) == with_ann
    only = {"animate": False, "upscale": False, "size": "64x64"}
    first, second = (make_small(http, **only, **whose) for whose in ({"face": ann}, {"identity": found["identity"]}))
    assert read_beneath(fetch_result(http, first["id"])) == read_beneath(fetch_result(http, second["id"]))


@pytest.mark.parametrize("count", [40, pytest.param(400, marks=pytest.mark.matrix)])
def test_loras_in_turn_by_four_clients_never_mix(
    server: Server, http: httpx.Client, loras: list[str], count: int
) -> None:
    plain = paint_picture(http)
    assert paint_picture(http, loras=[{"name": "ink", "weight": 0}]) == plain
    alone = {name: paint_picture(http, loras=[name]) for name in loras}
    assert len({plain, *alone.values()}) == 3
    before = sum(process.memory_info().rss for process in server.replicas("flux"))

    def ask(number: int) -> bool:
        name = loras[number % 2]
        with server.client() as client:
            return paint_picture(client, loras=[name]) == alone[name]

    with ThreadPoolExecutor(4) as clients:
        assert all(clients.map(ask, range(count)))
    after = sum(process.memory_info().rss for process in server.replicas("flux"))
    assert after < before * 1.1 + (64 << 20)


def test_requests_go_to_a_replica_that_holds_their_loras(http: httpx.Client, loras: list[str]) -> None:
    def replica() -> str:
        given = {"prompt": "a boat", "size": "32x32", "steps": 1, "loras": loras}
        answer = http.post("/v1/images/generations", json=given)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["stages"][-1]["replica"])

    # Serve learns of a replica's LoRAs after a moment. By chance, all twelve agree once in two thousand attempts.
    until(lambda: len({replica() for _ in range(12)}) == 1, 40, "twelve requests at one replica")


def test_the_first_large_frames_are_there_before_the_last_is_decoded(http: httpx.Client) -> None:
    video_id = create_small(http, animate={"num_frames": 30, "steps": 2, "max_area": 96 * 96}, upscale={"scale": 2})
    kinds: list[str] = []
    with http.stream("GET", f"/v1/videos/{video_id}/events", timeout=240) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: ") and "preview" not in line:
                data = json.loads(line[6:])
                kinds += [f"{data['variant']} {data['first']}"] if "first" in data else []
                kinds += [data["name"]] if "replica" in data else []
    assert kinds.index("hd 0") < kinds.index("animate"), kinds
    assert kinds.index("video 0") < kinds.index("hd 0")


@pytest.fixture(scope="module")
def undisturbed(http: httpx.Client) -> dict[str, Any]:
    return make_small(http, **LONG)


def fetch_results(http: httpx.Client, video: dict[str, Any]) -> dict[str, object]:
    names = ("painted", "image", "video", "hd")
    return {name: read_beneath(fetch_result(http, video["id"], name)) for name in names}


@pytest.mark.fault
@pytest.mark.parametrize(
    ("deployment", "stage"),
    [
        ("svd", "animate"),
        *(
            pytest.param(*case, marks=pytest.mark.matrix)
            for case in (
                ("flux", "paint"),
                ("hunyuan-dit", "restyle"),
                ("realesrgan", "upscale"),
                ("full-pipeline", "animate"),
                ("jobs", "animate"),
            )
        ),
    ],
)
def test_a_killed_process_costs_time_and_nothing_else(
    server: Server,
    http: httpx.Client,
    undisturbed: dict[str, Any],
    record_property: Any,
    *,
    deployment: str,
    stage: str,
) -> None:
    video_id = create_small(http, **LONG)
    wait_for_stage(http, video_id, stage)
    server.busiest(deployment).kill()
    assert http.get(f"/v1/videos/{video_id}").json()["status"] == "in_progress", "interrupted in the middle"
    video = wait_for_end(http, video_id, 240)
    assert video["status"] == "completed", video
    assert fetch_results(http, video) == fetch_results(http, undisturbed)
    if stage in ("animate", "upscale"):
        painted_s = [each["seconds"] for each in video["stages"] if each["name"] == "paint"]
        assert len(painted_s) == 1, "the picture that was there is not painted again"
    record_property(Outcome.__name__, compare_outcomes(server, deployment, stage, video, undisturbed))


def test_cancel_stops_whichever_stage_it_is_at(server: Server, http: httpx.Client) -> None:
    slow = {"steps": 100, "size": "256x256", "animate": {"num_frames": 25, "steps": 100, "max_area": 256 * 256}}
    for model, stage, fields in (("flux", "paint", slow), ("svd", "animate", {**slow, "steps": 2})):
        video_id = create_small(http, **fields)
        wait_for_stage(http, video_id, stage)
        http.post(f"/v1/videos/{video_id}/cancel")
        video = wait_for_end(http, video_id, 60)
        assert (video["status"], video["error"]["code"]) == ("failed", "cancelled")
        until(lambda model=model: server.is_idle(model), 30, f"{model} to rest")


def write_pickle(server: Server) -> str:
    torch.save({"a": torch.zeros(1)}, server.home / "loras" / "evil.safetensors")
    return "evil"


def write_foreign_lora(server: Server) -> str:
    save_file({"unet.down.lora_A.weight": torch.zeros(2, 8)}, server.home / "loras" / "foreign.safetensors")
    return "foreign"


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"prompt": ""}, "prompt", "at least 1"),
        ({"animate": {"num_frames": 51}}, "animate.num_frames", "limit of 50"),
        ({"animate": {"num_frames": 0}}, "animate.num_frames", "greater than or equal to 2"),
        ({"animate": {"prompt": "dog"}}, "prompt", "not supported"),
        ({"steps": 101}, "steps", "limit of 100"),
        ({"upscale": {"scale": 7}}, "upscale.scale", "less than or equal to 4"),
        ({"size": "9000x9000"}, "size", "limit"),
        ({"restyle": {"strength": 2, "prompt": "x"}}, "restyle.strength", "less than or equal to 1"),
        ({"identity": {"embedding": [1]}}, "identity.embedding", "512"),
        ({"promt": "x"}, "promt", "did you mean prompt"),
        ({"face": "file_nothing"}, "face", "no file"),
        ({"loras": [{"name": "a", "weight": 50}]}, "loras.0.weight", "less than or equal to 10"),
    ],
)
def test_what_cannot_be_is_refused_at_once(http: httpx.Client, fields: dict[str, Any], param: str, words: str) -> None:
    answer = http.post("/v1/videos", json={"model": "full-pipeline", **SMALL, **fields})
    assert answer.status_code in (404, 422), answer.text
    error = answer.json()["error"]
    assert error["param"] == param, error
    assert words in error["message"]


@pytest.mark.parametrize("route", ["videos", "images"])
def test_loras_that_cannot_be_used(server: Server, http: httpx.Client, route: str) -> None:
    cases = {
        "nothing": "there is no nothing here",
        "../outside": "inside the LoRA directory",
        "/etc/passwd": "inside the LoRA directory",
        "style.bin": "other formats can run code",
        write_pickle(server): "is not a safetensors file",
        write_foreign_lora(server): "loras: foreign ",
    }
    for name, words in cases.items():
        if route == "images":
            answer = http.post(
                "/v1/images/generations", json={"prompt": "x", "size": "64x64", "steps": 2, "loras": [name]}
            )
            assert answer.status_code == 422, answer.text
            error = answer.json()["error"]
        else:
            video = wait_for_end(http, create_small(http, loras=[name], animate=False, upscale=False), 60)
            assert video["status"] == "failed"
            error = video["error"]
        assert words in error["message"], error
        assert error["code"] in ("invalid_parameter", "limit_exceeded")
    assert paint_picture(http), "the replica still works"


def test_a_picture_without_a_face(http: httpx.Client, tmp_path: Path) -> None:
    from tests.cluster.edges import encode_png, read_clip

    plain = upload(http, encode_png(read_clip(1)[0] * 0))
    video = wait_for_end(http, create_small(http, face=plain, animate=False, upscale=False), 60)
    assert (video["status"], video["error"]["message"]) == ("failed", "face: there is no face in this picture")
    answer = http.post("/v1/faces", json={"image": plain})
    assert answer.status_code == 422
    assert "no face" in answer.json()["error"]["message"]
