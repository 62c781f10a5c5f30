"""Characters that the database cannot store, anywhere in a request: the error names the field, nothing is stored."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from composition.http.ingress import Ingress, IngressSettings
from composition.records.artifacts import ArtifactSettings
from composition.records.store import Page, Store
from services.catalogue import KINDS
from tests.composition.deployed import TRANSPORT, Cluster, Hosted

JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application, without Ray. Checks at the end that nothing was stored."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    settings = IngressSettings(database=url, artifacts=ArtifactSettings(url=str(tmp_path / "artifacts")), auth="none")
    cluster = Cluster(tmp_path).host_models({kind: Hosted(kind) for kind in KINDS})
    cluster.host_graphs("v2v", "rolling-edit", "full-pipeline", "storyboard", "single")
    api = Ingress(settings, cluster.served, TRANSPORT).build_app()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://localhost") as client:
        yield client
    store = Store(url)
    assert store.list_jobs("", Page()) == ([], False)
    assert store.list_files("", Page()) == ([], False)
    store.close()
    assert [path for path in (tmp_path / "artifacts").rglob("*") if path.is_file()] == []


def named(answer: httpx.Response, param: str) -> None:
    assert answer.status_code == 422, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_parameter", param)
    assert "must not contain" in error["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (r'{"model": "text-to-video", "prompt": "a\u0000"}', "prompt"),
        (r'{"model": "text-to-video", "prompt": "a", "negative_prompt": "\udc00"}', "negative_prompt"),
        (r'{"model": "v2v\u0000", "input_video": "file_a"}', "model"),
        (r'{"model": "v2v", "input_video": "file_\ud800"}', "input_video"),
        (r'{"model": "v2v", "input_reference": {"file_id": "file_\u0000"}}', "input_reference.file_id"),
        (r'{"model": "rolling-edit", "edge_frames": ["file_a", "file_\ud800"]}', "edge_frames.1"),
        (r'{"model": "rolling-edit", "branch_from": {"video": "\ud800", "frame": 1}}', "branch_from.video"),
        (r'{"model": "storyboard", "script": {"scenes": [{"face": "\ud800"}]}}', "script.scenes.0.face"),
    ],
)
async def test_in_json(http: httpx.AsyncClient, body: str, param: str) -> None:
    named(await http.post("/v1/videos", content=body, headers=JSON), param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": "a\0"}, "prompt"),
        ({"model": "rolling-edit", "ttlg": r'{"lr": "\u0000"}'}, "ttlg"),
        ({"model": "rolling-edit", "branch_from": r'{"video": "\ud800", "frame": 1}'}, "branch_from"),
        ({"model": "storyboard", "script": r'{"title": "\u0000", "scenes": []}'}, "script"),
    ],
)
async def test_in_forms_and_in_the_json_of_their_fields(
    http: httpx.AsyncClient, fields: dict[str, Any], param: str
) -> None:
    given = {"model": "text-to-video", **fields}
    named(await http.post("/v1/videos", data=given), param)
    media = "face" if given["model"] == "storyboard" else "init_frame"
    named(await http.post("/v1/videos", data=given, files={media: ("a", b"")}), param)


async def test_in_an_upload(http: httpx.AsyncClient) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a\0.png"\r\n\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    named(await http.post("/v1/files", content=head + b"x\r\n--b--\r\n", headers=kind), "file")
    purpose = {"purpose": "a\0"}
    named(await http.post("/v1/files", data=purpose, files={"file": ("a.png", b"x")}), "purpose")


@pytest.mark.parametrize(
    ("method", "path", "param"),
    [
        ("GET", "/v1/files/file_%00", "file_id"),
        ("DELETE", "/v1/files/%00", "file_id"),
        ("GET", "/v1/videos/video_%00", "video_id"),
        ("DELETE", "/v1/videos/%00", "video_id"),
        ("POST", "/v1/videos/%00/cancel", "video_id"),
        ("GET", "/v1/videos/%00/events", "video_id"),
        ("GET", "/v1/videos/a/content?variant=%00", "variant"),
        ("GET", "/v1/videos?after=%00", "after"),
        ("GET", "/v1/files?after=file_%00", "after"),
        ("GET", "/v1/files?%00=1", "\\x00"),
    ],
)
async def test_in_paths_and_queries(http: httpx.AsyncClient, method: str, path: str, param: str) -> None:
    named(await http.request(method, path), param)


@pytest.mark.parametrize("path", ["/v1/files/%ED%A0%80", "/v1/videos/%ED%A0%80", "/v1/videos?after=%ED%A0%80"])
async def test_what_is_not_utf_8_is_there_no_more_than_anything(http: httpx.AsyncClient, path: str) -> None:
    assert (await http.get(path)).status_code == 404
