"""`POST /v1/content_provenance_checks`: OpenAI's answer, and ours beside it."""

import base64
import io
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from composition.http.ingress import Ingress
from composition.http.provenance import ProvenanceRequest
from composition.media.marks.marker import Marker
from composition.media.marks.settings import MarksSettings
from tests.composition.media.marks.generated import PROVENANCE, form_of, make_picture, write_file
from tests.composition.painting import front_door, served

CHECKS = "/v1/content_provenance_checks"
FOREIGN = {
    "nothing": b"",
    "a text": b"a plain text",
    "a picture without marks": make_picture("jpeg"),
    "what is no picture": b"\x89PNG\r\n\x1a\n" + b"\0" * 100,
}


async def write_marked(kind: str, folder: Path) -> bytes:
    path = write_file(kind, folder)
    await Marker(MarksSettings(), folder).mark_file(path, form_of(kind), PROVENANCE)
    return path.read_bytes()


async def post(door: Ingress, **request: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app=door.build_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        answer = await client.post(CHECKS, **request)
        if answer.status_code == 200 and "file_" not in str(request.get("json")):
            assert (await client.get("/v1/files")).json()["data"] == [], "nothing is stored"
        return answer


@pytest.mark.parametrize("kind", ["png", "jpeg", "lossy webp", "animated gif", "mp4"])
async def test_the_openai_client_reads_the_answer(kind: str, tmp_path: Path) -> None:
    data = await write_marked(kind, tmp_path)
    async with (
        served(front_door(tmp_path)) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused") as client,
    ):
        check = await client.content_provenance_checks.create(file=("a.bin", io.BytesIO(data)))
        changed = await client.content_provenance_checks.create(file=data[:-20] + bytes([data[-20] ^ 1]) + data[-19:])
        other = await client.content_provenance_checks.create(file=b"a text")
    assert check.object == "content_provenance_check"
    assert check.created_at > 1_700_000_000
    (result,) = check.results
    assert result.type == "c2pa"
    assert (result.outcome, result.validation_state) == ("detected", "valid")
    assert (result.issuer, result.model) == ("Self-made certificate, untrusted", "wan")
    assert result.generated_at == "2026-08-02T12:30:15Z"
    states = [(each.outcome, getattr(each, "validation_state", "")) for each in (*changed.results, *other.results)]
    assert states == [("not_detected", "invalid"), ("not_detected", "not_present")]


async def test_what_we_add(tmp_path: Path) -> None:
    answer = await post(front_door(tmp_path), files={"file": ("a.png", await write_marked("png", tmp_path))})
    assert answer.status_code == 200, answer.text
    manifest, labels = answer.json()["manifest"], answer.json()["labels"]
    assert manifest["digital_source_type"] == labels["source_type"]
    assert manifest["digital_source_type"].endswith("/trainedAlgorithmicMedia")
    assert manifest["failures"] == ["signingCredential.untrusted"]
    assert manifest["models"][0]["revision"] == "0123abcd"
    assert manifest["actions"][0]["action"] == "c2pa.created"
    assert (manifest["ingredients"], manifest["seed"], manifest["prompts"]) == ([], 7, {})
    assert labels["aigc"]["Label"] == "1"


async def test_those_whom_the_operator_trusts_are_trusted(tmp_path: Path) -> None:
    data = await write_marked("png", tmp_path)
    marks = MarksSettings(trust_anchors=tmp_path / "marks" / "root-certificate.pem")
    answer = await post(front_door(tmp_path, marks=marks, state=tmp_path), files={"file": data})
    assert answer.json()["results"][0]["validation_state"] == "trusted"
    assert answer.json()["manifest"]["failures"] == []


@pytest.mark.parametrize("kind", FOREIGN)
async def test_every_file_is_accepted(kind: str, tmp_path: Path) -> None:
    answer = await post(front_door(tmp_path), files={"file": ("x", FOREIGN[kind])})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["results"] == [
        {
            "type": "c2pa",
            "outcome": "not_detected",
            "issuer": None,
            "model": None,
            "generated_at": None,
            "validation_state": "not_present",
        }
    ]
    assert (body["manifest"], body["labels"]) == (None, None)


async def test_a_data_url_and_an_uploaded_file(tmp_path: Path) -> None:
    data = await write_marked("png", tmp_path)
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    door = front_door(tmp_path)
    assert (await post(door, json={"file": url})).json()["results"][0]["outcome"] == "detected"
    transport = httpx.ASGITransport(app=door.build_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        stored = (await client.post("/v1/files", files={"file": ("a.png", data)})).json()
        answer = await client.post(CHECKS, json={"file": stored["id"]})
    assert answer.json()["results"][0]["outcome"] == "detected"


REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"json": {}}, 422, "file: "),
    ({"json": {"file": "file_nowhere"}}, 404, "file: there is no file 'file_nowhere'"),
    ({"json": {"file": "https://example.com/a.png"}}, 422, "file: must be a file id"),
    ({"json": {"file": ["data:;base64,", "data:;base64,"]}}, 422, "file: must be a file id"),
    ({"files": {"file": b"x"}, "data": {"model": "x"}}, 422, "model: "),
    ({"files": [("file", b"x"), ("file", b"y")]}, 422, "file: must be a file id"),
    ({"files": {"file": b"x" * 3000}}, 413, "the body is larger than the limit of 2000 bytes (max_body_bytes)"),
    ({"content": b"x"}, 400, "Content-Type: must be"),
]


@pytest.mark.parametrize(("request_", "status", "message"), REFUSED)
async def test_what_is_refused(tmp_path: Path, request_: dict[str, Any], status: int, message: str) -> None:
    answer = await post(front_door(tmp_path, max_body_bytes=2000), **request_)
    assert (answer.status_code, answer.json()["error"]["message"].startswith(message)) == (status, True), answer.text


async def test_a_key_is_needed(tmp_path: Path) -> None:
    assert (await post(front_door(tmp_path, auth="keys"), files={"file": b"x"})).status_code == 401


async def test_openapi_describes_it(tmp_path: Path) -> None:
    transport = httpx.ASGITransport(app=front_door(tmp_path).build_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        route = (await client.get("/openapi.json")).json()["paths"][CHECKS]["post"]
    assert set(route["requestBody"]["content"]) == {"application/json", "multipart/form-data"}
    schema = route["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(schema["properties"]) == set(ProvenanceRequest.model_fields)
