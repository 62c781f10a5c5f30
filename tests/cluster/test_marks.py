"""The marks of finished files, as clients get them from a real server."""

import base64
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from composition.media.marks.label_reading import read_labels
from composition.media.marks.manifest import GENERATION
from composition.media.marks.marker import MarkedFormat, Marker
from composition.media.marks.settings import MarksSettings
from composition.media.marks.vocabulary import COMPOSITE, GENERATED
from tests.cluster.conftest import create_video, wait_for_end
from tests.cluster.studio import FACE, SMALL, fetch_result, make_small, upload
from tests.composition.media.marks.samples import MADE, get_active, get_assertion, read_store

pytestmark = pytest.mark.cluster

FORMATS: dict[str, MarkedFormat] = {
    "video/mp4": "mp4",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "image/webp": "webp",
    "image/gif": "gif",
}
PAINT: dict[str, Any] = {"prompt": "a boat", "size": "64x64", "steps": 2, "seed": 3}


def check_labels(folder: Path, data: bytes, source_type: str) -> None:
    """Check the labels that are not signed."""
    path = folder / "labelled"
    path.write_bytes(data)
    labels = read_labels(path)
    assert (labels["source_type"], labels["provider"], labels["system"]) == (source_type, "reelgraph", "reelgraph")
    assert labels["created_at"]
    assert labels["content_id"]
    assert labels["aigc"]["Label"] == "1"


def check_marks(folder: Path, data: bytes, form: MarkedFormat, source_type: str = GENERATED) -> dict[str, Any]:
    """Check that a file is signed and labelled, and return what its manifest says about the generation."""
    store = read_store(data, form)
    assert store["validation_state"] == "Valid"
    actions = next(each["data"]["actions"] for each in get_active(store)["assertions"] if "actions" in each["label"])
    assert actions[-1]["digitalSourceType"] == source_type
    check_labels(folder, data, source_type)
    return get_assertion(store, GENERATION)


def fetch(http: httpx.Client, video_id: str, **query: str) -> httpx.Response:
    answer = http.get(f"/v1/videos/{video_id}/content", params=query)
    assert answer.status_code == 200, answer.text
    return answer


@pytest.fixture(scope="module")
def pipeline(http: httpx.Client) -> dict[str, Any]:
    """A job with every kind of result."""
    return make_small(http, restyle="ink", animate={"num_frames": 6, "steps": 2, "max_area": 64 * 64})


@pytest.mark.parametrize("variant", ["painted", "image", "video", "hd", "thumbnail"])
def test_each_result_is_marked(http: httpx.Client, pipeline: dict[str, Any], tmp_path: Path, variant: str) -> None:
    answer = fetch(http, pipeline["id"], variant=variant)
    told = check_marks(tmp_path, answer.content, FORMATS[answer.headers["content-type"]])
    chain = ["flux", "hunyuan-dit", "svd", "realesrgan"]
    models = {"painted": chain[:1], "image": chain[:2], "video": chain[:3]}.get(variant, chain)
    assert [each["model"] for each in told["models"]] == models
    known = {Path(stage["source"].removeprefix("path:")).name for stage in pipeline["stages"]}
    assert {each["source"].removeprefix("path:") for each in told["models"]} <= known
    assert told["seed"] == SMALL["seed"]
    again = fetch(http, pipeline["id"], variant=variant)
    assert (again.content, again.headers["etag"]) == (answer.content, answer.headers["etag"])
    headers = {"Range": "bytes=5-50", "If-Range": answer.headers["etag"]}
    part = http.get(f"/v1/videos/{pipeline['id']}/content", params={"variant": variant}, headers=headers)
    assert (part.status_code, part.content) == (206, answer.content[5:51])


@pytest.mark.parametrize(
    ("variant", "form"), [("video", "gif"), ("video", "webp"), ("image", "jpeg"), ("image", "webp"), ("hd", "gif")]
)
def test_each_other_format_is_marked(
    http: httpx.Client, pipeline: dict[str, Any], tmp_path: Path, variant: str, form: str
) -> None:
    answer = fetch(http, pipeline["id"], variant=variant, format=form)
    told = check_marks(tmp_path, answer.content, FORMATS[answer.headers["content-type"]])
    assert [each["model"] for each in told["models"]][:2] == ["flux", "hunyuan-dit"]
    assert fetch(http, pipeline["id"], variant=variant, format=form).content == answer.content


@pytest.mark.parametrize("variant", ["video", "hd"])
def test_each_picture_of_an_archive_is_labelled(
    http: httpx.Client, pipeline: dict[str, Any], tmp_path: Path, variant: str
) -> None:
    with zipfile.ZipFile(io.BytesIO(fetch(http, pipeline["id"], variant=variant, format="png").content)) as archive:
        assert len(archive.namelist()) == 6
        for name in archive.namelist():
            check_labels(tmp_path, archive.read(name), GENERATED)


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_generated_pictures_are_marked(http: httpx.Client, tmp_path: Path, form: MarkedFormat) -> None:
    answer = http.post("/v1/images/generations", json={**PAINT, "n": 2, "output_format": form})
    assert answer.status_code == 200, answer.text
    told = [check_marks(tmp_path, base64.b64decode(each["b64_json"]), form) for each in answer.json()["data"]]
    assert [each["seed"] for each in told] == [3, 4]
    assert len({each["contentId"] for each in told}) == 2
    assert [each["model"] for each in told[0]["models"]] == ["flux"]


def read_events(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def test_streamed_pictures_and_their_previews_are_marked(http: httpx.Client, tmp_path: Path) -> None:
    asked = {**PAINT, "steps": 4, "stream": True, "partial_images": 2}
    answer = http.post("/v1/images/generations", json=asked)
    events = list(read_events(answer.text))
    assert [event["type"].rpartition(".")[2] for event in events] == ["partial_image", "partial_image", "completed"]
    for event in events:
        told = check_marks(tmp_path, base64.b64decode(event["b64_json"]), "png")
        assert ([each["model"] for each in told["models"]], told["seed"]) == (["flux"], 3)


def test_an_edited_picture_is_a_composite_of_the_person_s(http: httpx.Client, tmp_path: Path) -> None:
    with FACE.open("rb") as file:
        fields = {"prompt": "a hat", "steps": "2", "size": "64x64"}
        answer = http.post("/v1/images/edits", data=fields, files={"image": ("face.png", file)})
    assert answer.status_code == 200, answer.text
    data = base64.b64decode(answer.json()["data"][0]["b64_json"])
    told = check_marks(tmp_path, data, "png", COMPOSITE)
    assert [each["model"] for each in told["models"]] == ["qwen-edit"]
    ingredients = get_active(read_store(data, "png"))["ingredients"]
    assert len(ingredients) == 1


async def test_the_manifest_of_an_input_is_kept(http: httpx.Client, tmp_path: Path) -> None:
    signed = await Marker(MarksSettings(provider="somebody"), tmp_path).mark_bytes(FACE.read_bytes(), "png", MADE)
    inner = read_store(signed, "png")["active_manifest"]
    job = make_small(http, face=upload(http, signed), animate=False, upscale=False)
    store = read_store(fetch_result(http, job["id"]), "png")
    assert store["validation_state"] == "Valid"
    (ingredient,) = get_active(store)["ingredients"]
    assert ingredient["active_manifest"] == inner
    assert inner in store["manifests"]


def test_a_continued_clip_is_an_ingredient(http: httpx.Client, clip_id: str, tmp_path: Path) -> None:
    video = wait_for_end(http, create_video(http, input_video=clip_id)["id"])
    assert video["status"] == "completed", video
    asked: dict[MarkedFormat, dict[str, str]] = {"mp4": {}, "jpeg": {"variant": "thumbnail"}, "gif": {"format": "gif"}}
    for form, query in asked.items():
        data = fetch(http, video["id"], **query).content
        told = check_marks(tmp_path, data, form, COMPOSITE)
        assert [each["model"] for each in told["models"]] == ["internvl", "wan"]
        assert len(get_active(read_store(data, form))["ingredients"]) == 1


def test_a_storyboard_names_the_models_of_its_scenes(http: httpx.Client, tmp_path: Path) -> None:
    script = {"title": "A film", "scenes": [{"scene_number": 1, "description": "a fox", "duration": 1}]}
    fields = {name: value for name, value in SMALL.items() if name != "prompt"}
    asked = {"model": "storyboard", **fields, "script": script, "write_prompts": False, "upscale": False}
    answer = http.post("/v1/videos", json=asked)
    assert answer.status_code == 200, answer.text
    video = wait_for_end(http, answer.json()["id"], 240)
    assert video["status"] == "completed", video
    told = check_marks(tmp_path, fetch_result(http, video["id"]), "mp4")
    assert [each["model"] for each in told["models"]] == ["flux", "svd"]
