"""The marks of the pictures that are answered without a job, and of results in other formats."""

import asyncio
import base64
import io
import time
import zipfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from composition.http.ingress import Ingress
from composition.media.encode import encode_png
from composition.media.marks.label_reading import read_labels
from composition.media.marks.manifest import GENERATION
from composition.media.marks.marker import MarkedFormat
from composition.media.marks.settings import MARKS_OFF, MarksSettings, VisibleLabel
from composition.media.marks.vocabulary import COMPOSITE, GENERATED
from composition.media.visible_label import draw_label
from composition.records.artifacts import Artifacts
from composition.records.events import ResultEvent, StageEvent
from composition.records.store import EventDraft, Lease
from composition.records.tables import Deployed, Job, Still
from services.flux.request import FluxRequest
from services.frames import Face, Fact, Item, StageDone
from tests.composition.animations import write_video
from tests.composition.beneath import read_beneath
from tests.composition.deployed import Cluster, Hosted
from tests.composition.media.marks.samples import get_active, get_assertion, read_store
from tests.composition.painting import FaceService, PaintService, flux, front_door, open_door
from tests.composition.serving import EditService, noise

JOB = "video_a"
CONTENT = f"/v1/videos/{JOB}/content"
PICTURE = f"data:image/png;base64,{base64.b64encode(encode_png(noise(1))).decode()}"
PAINT: dict[str, Any] = {"prompt": "a boat", "seed": 3, "steps": 4}
FORMS: tuple[MarkedFormat, ...] = ("png", "jpeg", "webp")


class LoraService(PaintService):
    """A fake Flux that reports the LoRA files that it used, before the pictures."""

    async def generate_image(
        self, request: FluxRequest, face: Face | None = None, key: str = "", pose: Face | None = None
    ) -> AsyncGenerator[Item]:
        yield Fact("lora_sha256", '{"ink": "abc"}')
        async for item in super().generate_image(request, face, key, pose):
            yield item


def open_marked(folder: Path, *models: Hosted, marks: MarksSettings | None = None) -> Ingress:
    return front_door(folder, *models, marks=marks or MarksSettings(), state=folder)


async def post(door: Ingress, route: str, **fields: Any) -> httpx.Response:
    transport = httpx.ASGITransport(door.build_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
        answer = await client.post(route, json=fields)
    assert answer.status_code == 200, answer.text
    return answer


def list_pictures(answer: httpx.Response) -> list[bytes]:
    return [base64.b64decode(each["b64_json"]) for each in answer.json()["data"]]


def read_source_type(data: bytes, form: MarkedFormat) -> str:
    actions = get_assertion(read_store(data, form), "c2pa.actions.v2")["actions"]
    return str(actions[-1]["digitalSourceType"])


# Pictures without a job.


@pytest.mark.parametrize("form", FORMS)
async def test_generated_pictures_say_who_made_each(tmp_path: Path, form: MarkedFormat) -> None:
    marked, plain = tmp_path / "marked", tmp_path / "plain"
    for folder in (marked, plain):
        folder.mkdir()
    asked = {**PAINT, "n": 2, "output_format": form}
    pictures = list_pictures(await post(open_marked(marked, flux(LoraService())), "/v1/images/generations", **asked))
    door = open_marked(plain, flux(LoraService()), marks=MARKS_OFF)
    bare = list_pictures(await post(door, "/v1/images/generations", **asked))
    told = [get_assertion(read_store(data, form), GENERATION) for data in pictures]
    assert [each["seed"] for each in told] == [3, 4]
    assert [each["models"][0]["model"] for each in told] == ["flux"] * 2
    assert told[0]["loras"] == [{"name": "ink", "sha256": "abc"}]
    assert told[0]["contentId"] != told[1]["contentId"]
    assert read_source_type(pictures[0], form) == GENERATED
    assert not any(b"jumb" in data or b"xmpmeta" in data for data in bare)
    for data, without in zip(pictures, bare, strict=True):
        with Image.open(io.BytesIO(data)) as shown, Image.open(io.BytesIO(without)) as expected:
            assert np.array_equal(np.array(shown), np.array(expected))


async def test_streamed_pictures_and_previews_are_complete_when_they_are_sent(tmp_path: Path) -> None:
    """The end of the stage comes after all pictures, so the model is named as it is served."""
    cluster = Cluster(tmp_path).host_models({"flux": flux(PaintService(preview_every=1))})
    (row,) = cluster.store.list_deployed()
    facts = {**row.facts, "source": "black-forest-labs/FLUX.1-dev", "revision": "c" * 40}
    served = Deployed(application=row.application, name=row.name, position=0, kind=row.kind, facts=facts)
    cluster.store.replace_deployed(row.application, [served])
    door = open_door(cluster, marks=MarksSettings(), state=tmp_path)
    answer = await post(door, "/v1/images/generations", **PAINT, n=2, stream=True, partial_images=1)
    pictures = [
        base64.b64decode(line.partition('"b64_json": "')[2].partition('"')[0])
        for line in answer.text.splitlines()
        if '"b64_json"' in line
    ]
    assert len(pictures) == 4
    told = [get_assertion(read_store(data, "png"), GENERATION) for data in pictures]
    assert [each["seed"] for each in told] == [3, 3, 4, 4]
    assert len({each["contentId"] for each in told}) == 4
    for each in told:
        (model,) = each["models"]
        assert (model["model"], model["source"]) == ("flux", "black-forest-labs/FLUX.1-dev")
        assert model["revision"] == "c" * 40


@pytest.mark.parametrize("streams", [False, True])
async def test_a_picture_of_a_face_is_an_ingredient(tmp_path: Path, streams: bool) -> None:
    door = open_marked(tmp_path, flux(PaintService()), Hosted("instantid", FaceService()))
    answer = await post(door, "/v1/images/generations", **PAINT, face=PICTURE, stream=streams)
    data = base64.b64decode(answer.text.partition('"b64_json": "')[2].partition('"')[0]) if streams else None
    store = read_store(data or list_pictures(answer)[0], "png")
    assert len(get_active(store)["ingredients"]) == 1
    assert [each["model"] for each in get_assertion(store, GENERATION)["models"]] == ["instantid", "flux"]


async def test_edited_pictures_have_all_pictures_as_ingredients(tmp_path: Path) -> None:
    door = open_marked(tmp_path, Hosted("qwen-edit", EditService(), {"max_area": 64 * 64, "steps": 9}))
    given = {"prompt": "at night", "steps": 2, "max_area": 4096, "image": [PICTURE, PICTURE], "edges": PICTURE, "n": 2}
    for data in list_pictures(await post(door, "/v1/images/edits", **given)):
        store = read_store(data, "png")
        assert len(get_active(store)["ingredients"]) == 3
        assert [each["model"] for each in get_assertion(store, GENERATION)["models"]] == ["qwen-edit"]
        assert read_source_type(data, "png") == COMPOSITE


async def test_the_visible_label_is_drawn_into_answers(tmp_path: Path) -> None:
    label = VisibleLabel(text="AI", height=0.4)
    shown, clean = tmp_path / "shown", tmp_path / "clean"
    for folder in (shown, clean):
        folder.mkdir()
    settings = MARKS_OFF.model_copy(update={"visible": label})
    (data,) = list_pictures(
        await post(open_marked(shown, flux(PaintService()), marks=settings), "/v1/images/generations", **PAINT)
    )
    (bare,) = list_pictures(
        await post(open_marked(clean, flux(PaintService()), marks=MARKS_OFF), "/v1/images/generations", **PAINT)
    )
    with Image.open(io.BytesIO(data)) as picture, Image.open(io.BytesIO(bare)) as expected:
        assert np.array_equal(np.array(picture), draw_label(np.array(expected), label))


# Results in other formats.


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def store_job(cluster: Cluster, folder: Path) -> None:
    """Store a completed job that keeps its frames: a picture of one model, and a video of two."""
    fields: dict[str, Any] = {"params": {"seed": 7}, "media": {}, "main": "video", "created_at": time.time()}
    cluster.store.create_job(Job(id=JOB, owner="", model="full-pipeline", **fields), 9)
    job = cluster.store.claim_job(60)
    assert job
    lease, artifacts = Lease(job.id, job.fence), Artifacts(cluster.where)
    video = write_video(folder / "made.mp4", 3)
    artifacts.put(f"videos/{JOB}/video.mp4", video.read_bytes())
    artifacts.put(f"videos/{JOB}/image.png", encode_png(noise(1)))
    rows: list[Any] = []
    for index in range(3):
        artifacts.put(f"videos/{JOB}/stills/{index}", encode_png(noise(index)))
        rows.append(Still(job_id=JOB, index=index, name="frame", key=f"videos/{JOB}/stills/{index}"))
    news = [
        EventDraft.of(StageEvent.from_stage(StageDone("paint", "flux", "nowhere", "", "a", 1.0))),
        EventDraft.of(ResultEvent(variant="image")),
        EventDraft.of(StageEvent.from_stage(StageDone("animate", "svd", "nowhere", "", "a", 1.0))),
        EventDraft.of(ResultEvent(variant="video")),
    ]
    results = {"image": f"videos/{JOB}/image.png", "video": f"videos/{JOB}/video.mp4", "frames": "stills"}
    cluster.store.update_job(lease, {"results": results}, news, rows)
    cluster.store.end_job(lease, "completed")


async def get(door: Ingress, **query: str) -> httpx.Response:
    transport = httpx.ASGITransport(door.build_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
        answer = await client.get(CONTENT, params=query)
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.parametrize(
    ("variant", "form", "models"),
    [
        ("video", "gif", ["flux", "svd"]),
        ("video", "webp", ["flux", "svd"]),
        ("image", "jpeg", ["flux"]),
        ("image", "webp", ["flux"]),
    ],
)
async def test_a_converted_result_names_the_models_of_that_result(
    tmp_path: Path, cluster: Cluster, variant: str, form: MarkedFormat, models: list[str]
) -> None:
    store_job(cluster, tmp_path)
    door = open_door(cluster, marks=MarksSettings(), state=tmp_path)
    data = (await get(door, variant=variant, format=form)).content
    store = read_store(data, form)
    assert store["validation_state"] == "Valid"
    assert [each["model"] for each in get_assertion(store, GENERATION)["models"]] == models
    assert (await get(door, variant=variant, format=form)).content == data


async def test_two_servers_that_convert_at_the_same_time_send_the_same_file(tmp_path: Path, cluster: Cluster) -> None:
    store_job(cluster, tmp_path)
    doors = [open_door(cluster, marks=MarksSettings(), state=tmp_path) for _ in range(2)]
    answers = await asyncio.gather(*(get(door, format="gif") for door in doors))
    assert len({answer.content for answer in answers}) == 1
    assert len({answer.headers["etag"] for answer in answers}) == 1
    assert list((tmp_path / "artifacts" / ".drafts").iterdir()) == []


async def test_the_tag_of_a_result_changes_with_its_bytes(tmp_path: Path, cluster: Cluster) -> None:
    store_job(cluster, tmp_path)
    door = open_door(cluster)
    first = await get(door, variant="image")
    assert (await get(door, variant="image")).headers["etag"] == first.headers["etag"]
    Artifacts(cluster.where).put(f"videos/{JOB}/image.png", encode_png(noise(2)))
    assert (await get(door, variant="image")).headers["etag"] != first.headers["etag"]


@pytest.mark.parametrize("is_labelled", [False, True])
async def test_kept_frames_are_labelled_when_they_leave(tmp_path: Path, cluster: Cluster, is_labelled: bool) -> None:
    store_job(cluster, tmp_path)
    label = VisibleLabel(text="AI", height=0.4) if is_labelled else None
    door = open_door(cluster, marks=MarksSettings(visible=label), state=tmp_path)
    data = (await get(door, variant="video", format="png")).content
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for index, name in enumerate(archive.namelist()):
            path = tmp_path / name
            path.write_bytes(archive.read(name))
            labels = read_labels(path)
            assert (labels["source_type"], labels["content_id"]) == (GENERATED, f"{JOB}/video.zip/{name}")
            expected = noise(index) if label is None else draw_label(noise(index), label)
            with Image.open(path) as picture:
                assert np.array_equal(np.array(picture), expected)
    stored = b"".join(Artifacts(cluster.where).read(f"videos/{JOB}/stills/1"))
    assert stored == encode_png(noise(1)), "a model may get it later"


async def test_without_marks_an_archive_has_the_stored_files(tmp_path: Path, cluster: Cluster) -> None:
    store_job(cluster, tmp_path)
    data = (await get(open_door(cluster, marks=MARKS_OFF), variant="video", format="png")).content
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert [archive.read(name) for name in archive.namelist()] == [encode_png(noise(n)) for n in range(3)]
    jpeg = (await get(open_door(cluster, marks=MARKS_OFF), variant="image", format="jpeg")).content
    assert read_beneath(jpeg) == jpeg
