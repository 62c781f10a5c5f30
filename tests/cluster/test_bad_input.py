"""Invalid input gets the right status and a message with the field and the limit, and does not harm the server."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster.conftest import check_error, create_video, wait_for_end
from tests.cluster.server import Server
from tests.composition import sample_media as media

pytestmark = pytest.mark.cluster


@pytest.fixture(autouse=True)
def check_serving(http: httpx.Client) -> Iterator[None]:
    yield
    assert http.get("/healthz").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"num_frames": 0}, "num_frames", ["greater than or equal to 1", "0"]),
        ({"num_frames": 122}, "num_frames", ["multiple of 4 plus 1", "122"]),
        ({"num_frames": 125}, "num_frames", ["125", "121"]),
        ({"num_frames": 10**9}, "num_frames", ["1000"]),
        ({"num_frames": "many"}, "num_frames", ["integer", "many"]),
        ({"steps": -1}, "steps", ["greater than or equal to 1", "-1"]),
        ({"steps": 500}, "steps", ["500", "100"]),
        ({"guidance_scale": "NaN"}, "guidance_scale", ["finite"]),
        ({"guidance_scale": "inf"}, "guidance_scale", []),
        ({"shift": 0}, "shift", ["greater than 0"]),
        ({"solver": "magic"}, "solver", ["unipc", "dpm++"]),
        ({"size": "big"}, "size", ["big"]),
        ({"size": "4000x4000"}, "size", ["16000000", "901120"]),
        ({"max_area": 10**12}, "max_area", []),
        ({"seed": 2**80}, "seed", []),
        ({"prompt": "x" * 9000}, "prompt", ["8000"]),
        ({"num_segments": 99}, "num_segments", ["16"]),
        ({"frame_num": 9}, "frame_num", ["no such field", "num_frames"]),
        ({"seconds": "soon"}, "seconds", ["soon"]),
        ({"model": "sora-9"}, "model", ["sora-9", "v2v"]),
        ({"model": None}, "model", ["v2v"]),
        ({"input_video": "/etc/passwd"}, "input_video", ["file id"]),
        ({"input_video": "file:///etc/passwd"}, "input_video", ["file id"]),
        ({"input_video": "http://169.254.169.254/"}, "input_video", ["file id"]),
        ({"input_video": ["a"]}, "input_video", ["file id"]),
        ({"input_video": "data:video/mp4;base64,????"}, "input_video", ["base64"]),
        ({"input_reference": "x", "input_video": "y"}, "input_video", ["not both"]),
    ],
)
def test_fields(http: httpx.Client, clip_id: str, fields: dict[str, Any], param: str, words: list[str]) -> None:
    asked = {"model": "v2v", "input_video": clip_id, **fields}
    check_error(http.post("/v1/videos", json=asked), 422, param, *words)


def test_a_missing_video_is_named(http: httpx.Client) -> None:
    check_error(http.post("/v1/videos", json={"model": "v2v"}), 422, "input_video", "required")


def test_nan_written_as_json_allows_it_not(http: httpx.Client, clip_id: str) -> None:
    body = json.dumps({"model": "v2v", "input_video": clip_id, "guidance_scale": float("nan")})
    answer = http.post("/v1/videos", content=body, headers={"Content-Type": "application/json"})
    check_error(answer, 422, "guidance_scale", "finite")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"[" * 60])
def test_what_is_not_json(http: httpx.Client, body: bytes) -> None:
    answer = http.post("/v1/videos", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert "JSON" in answer.json()["error"]["message"]


def test_json_that_takes_too_much_memory(http: httpx.Client) -> None:
    body = b'{"model": "v2v", "prompt": [' + b"[]," * 340_000 + b"[]]}"
    kind = {"Content-Type": "application/json"}
    check_error(
        http.post("/v1/videos", content=body, headers=kind), 413, None, "4194304 bytes of memory", "max_json_bytes"
    )
    check_error(
        http.post("/v1/videos", content=body + b" " * 100_000, headers=kind), 413, None, "1048576", "max_json_bytes"
    )
    check_error(http.post("/v1/videos", content=b"[" * 100_000, headers=kind), 422, None, "limit of 64 levels")


def test_texts_that_no_database_holds(http: httpx.Client) -> None:
    for text in (r"file_\ud800", r"file_\u0000"):
        body = f'{{"model": "v2v", "input_video": "{text}"}}'
        answer = http.post("/v1/videos", content=body, headers={"Content-Type": "application/json"})
        check_error(answer, 422, "input_video", "must not contain")
    check_error(http.get("/v1/files/%00"), 422, "file_id", "NUL")


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/openapi.json", "/v1/models", "/v1/nothing"])
def test_other_names_and_other_pages_are_refused(http: httpx.Client, path: str) -> None:
    check_error(http.get(path, headers={"Host": "attacker.example"}), 403, "Host", "attacker.example", "allowed_hosts")
    check_error(http.get(path, headers={"Origin": "null"}), 403, "Origin", "null", "allowed_origins")
    check_error(http.get(path, headers={"Sec-Fetch-Site": "cross-site"}), 403, "Sec-Fetch-Site", "cross-site")
    port = http.base_url.port
    named = http.get(path, headers={"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"})
    assert named.status_code == (404 if path == "/v1/nothing" else 200)
    guest = http.get(path, headers={"Host": "a.studio.example", "Origin": "https://studio.example"})
    assert guest.status_code == named.status_code
    assert guest.headers["access-control-allow-origin"] == "https://studio.example"


def test_another_content_type(http: httpx.Client) -> None:
    check_error(http.post("/v1/videos", content=b"x", headers={"Content-Type": "text/plain"}), 400, "Content-Type")


def test_routes_and_methods_that_are_not_there(http: httpx.Client) -> None:
    assert http.get("/v1/nothing").json()["error"]["code"] == "http_error"
    assert http.put("/v1/videos").status_code == 405
    check_error(http.get("/v1/videos/video_none"), 404, "id", "video_none")
    check_error(http.get("/v1/videos", params={"limit": 0}), 422, "limit")
    check_error(http.get("/v1/videos", params={"after": "video_none"}), 404, "after")


@pytest.mark.parametrize("name", sorted(media.BAD.keys() - {"sound.mp4"}))
def test_files_that_cannot_be_used(http: httpx.Client, tmp_path: Path, name: str) -> None:
    path, words = media.bad(name, tmp_path)
    with path.open("rb") as file:
        body = check_error(http.post("/v1/files", files={"file": (path.name, file)}), 422, "file", *words)
    assert body["code"] in ("undecodable_media", "limit_exceeded")


def test_sound_alone_is_no_video(http: httpx.Client, tmp_path: Path) -> None:
    path, words = media.bad("sound.mp4", tmp_path)
    fields = {"model": "v2v", "prompt": "a meadow"}
    with path.open("rb") as file:
        sent = http.post("/v1/videos", data=fields, files={"input_video": (path.name, file)})
    check_error(sent, 422, "input_video", *words)
    with path.open("rb") as file:
        upload = http.post("/v1/files", files={"file": file}).json()
    assert upload["kind"] == "sound"
    stored = http.post("/v1/videos", json={**fields, "input_video": upload["id"]})
    check_error(stored, 422, "input_video", "must be a video", "only audio")


def test_one_frame_is_a_video(http: httpx.Client, tmp_path: Path) -> None:
    with media.one_frame(tmp_path).open("rb") as file:
        upload = http.post("/v1/files", files={"file": file}).json()
    assert (upload["kind"], upload["frames"]) == ("video", 1)
    assert wait_for_end(http, create_video(http, input_video=upload["id"])["id"])["status"] == "completed"


def test_damage_in_the_middle_is_said_and_survived(http: httpx.Client, tmp_path: Path) -> None:
    with media.damaged_middle(tmp_path).open("rb") as file:
        upload = http.post("/v1/files", files={"file": file}).json()
    assert "132" in upload["damaged"]
    video = wait_for_end(http, create_video(http, input_video=upload["id"])["id"])
    assert video["status"] == "completed", video
    assert "input_video" in video["degraded"]


@pytest.mark.parametrize("name", ["../../etc/passwd", "..\\..\\boot.ini", "/etc/passwd", "a\x00b.mp4", "x" * 5000, ""])
def test_names_are_only_names(server: Server, http: httpx.Client, tmp_path: Path, name: str) -> None:
    before = {path for path in server.home.rglob("*") if "artifacts" not in path.parts}
    with media.one_frame(tmp_path).open("rb") as file:
        answer = http.post("/v1/files", files={"file": (name, file)})
    assert answer.status_code in (200, 400, 422), answer.text
    after = {path for path in server.home.rglob("*") if "artifacts" not in path.parts}
    assert {path.name for path in after - before} <= {"reelgraph.db-wal", "reelgraph.db-shm"}


def test_a_body_that_says_it_is_too_large_is_not_read(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 30) as connection:
        head = "POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        connection.sendall(f"{head}Content-Length: {5 << 30}\r\n\r\n--b\r\n".encode())
        answer = ""
        while "}}" not in answer:
            part = connection.recv(65536).decode()
            assert part, answer
            answer += part
    assert answer.startswith("HTTP/1.1 413"), answer
    assert "536870912" in answer
