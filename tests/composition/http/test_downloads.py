"""Content of jobs in other file formats, over HTTP."""

import asyncio
import io
import time
import zipfile
from collections.abc import AsyncGenerator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from composition.http.ingress import Ingress, IngressSettings
from composition.http.renditions import Renditions
from composition.media.encode import encode_jpeg, encode_png
from composition.media.encode_picture import encode_picture
from composition.media.limits import MediaLimits
from composition.records.artifacts import Artifacts
from composition.records.store import Lease
from composition.records.tables import Job, Segment, Still
from services.errors import NotFound
from tests.composition.animations import read_animation, write_video
from tests.composition.cards import draw_card, read_code
from tests.composition.deployed import TRANSPORT, Cluster
from tests.composition.serving import noise

FRAMES = 7
JOB = "video_a"
CONTENT = f"/v1/videos/{JOB}/content"


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def open_door(cluster: Cluster, **settings: Any) -> Ingress:
    base = IngressSettings(database=cluster.url, artifacts=cluster.where, auth="none", **settings)
    return Ingress(base, cluster.served, TRANSPORT)


@pytest.fixture
async def http(cluster: Cluster) -> AsyncGenerator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(open_door(cluster).build_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


def store_job(
    cluster: Cluster, files: Mapping[str, tuple[str, bytes]], *, main: str = "video", is_complete: bool = True
) -> Lease:
    """Store a job with these results: variant → (extension, content)."""
    fields: dict[str, Any] = {"params": {}, "media": {}, "main": main, "created_at": time.time()}
    cluster.store.create_job(Job(id=JOB, owner="", model="gone", **fields), 9)
    job = cluster.store.claim_job(60)
    assert job
    lease, artifacts = Lease(job.id, job.fence), Artifacts(cluster.where)
    keys = {variant: f"videos/{JOB}/{variant}.{extension}" for variant, (extension, _) in files.items()}
    for variant, (_, data) in files.items():
        artifacts.put(keys[variant], data)
    cluster.store.update_job(lease, {"results": keys, "frames_done": 3, "frames_total": FRAMES}, [])
    if is_complete:
        cluster.store.end_job(lease, "completed")
    return lease


def make_video(folder: Path, **how: Any) -> tuple[str, bytes]:
    return "mp4", write_video(folder / "made.mp4", FRAMES, **how).read_bytes()


def check_error(answer: httpx.Response, status: int, message: str) -> None:
    error = answer.json()["error"]
    assert (answer.status_code, error["message"], error["param"]) == (status, message, "format")


# Videos.


@pytest.mark.parametrize(("form", "kind"), [("gif", "image/gif"), ("webp", "image/webp")])
@pytest.mark.parametrize("variant", [None, "hd"])
async def test_a_video_as_an_animation(
    tmp_path: Path, cluster: Cluster, http: httpx.AsyncClient, form: str, kind: str, variant: str | None
) -> None:
    store_job(cluster, {"video": make_video(tmp_path), "hd": make_video(tmp_path, width=130, height=98)})
    query = {"format": form} | ({"variant": variant} if variant else {})
    answer = await http.get(CONTENT, params=query)
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    (tmp_path / "got").write_bytes(answer.content)
    frames, durations, loops = read_animation(tmp_path / "got")
    assert [read_code(frame) for frame in frames] == list(range(FRAMES))
    assert (frames[0].shape, durations, loops) == ((98, 130, 3) if variant else (50, 66, 3), [40] * FRAMES, 0)


async def test_a_video_as_png_files(tmp_path: Path, cluster: Cluster, http: httpx.AsyncClient) -> None:
    store_job(cluster, {"video": make_video(tmp_path)})
    answer = await http.get(CONTENT, params={"format": "png"})
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.namelist() == [f"{index:06d}.png" for index in range(FRAMES)]


async def test_png_files_of_a_graph_that_keeps_its_frames_are_those_frames(
    tmp_path: Path, cluster: Cluster, http: httpx.AsyncClient
) -> None:
    lease = store_job(cluster, {"video": make_video(tmp_path)}, is_complete=False)
    kept = [encode_png(noise(index)) for index in range(3)]
    rows: list[Any] = []
    for index, data in enumerate(kept):
        Artifacts(cluster.where).put(f"videos/{JOB}/stills/{index}", data)
        rows.append(Still(job_id=JOB, index=index, name="frame", key=f"videos/{JOB}/stills/{index}"))
    cluster.store.update_job(lease, {"results": {"frames": "stills"}}, [], rows)
    cluster.store.end_job(lease, "completed")
    answer = await http.get(CONTENT, params={"format": "png", "variant": "video"})
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert [archive.read(name) for name in archive.namelist()] == kept


async def test_mp4_is_what_is_stored(tmp_path: Path, cluster: Cluster, http: httpx.AsyncClient) -> None:
    video = make_video(tmp_path)
    store_job(cluster, {"video": video})
    plain, named = await http.get(CONTENT), await http.get(CONTENT, params={"format": "mp4"})
    assert plain.content == named.content == video[1]
    assert plain.headers["etag"] == named.headers["etag"]


@pytest.mark.parametrize("form", ["gif", "webp", "png"])
async def test_ranges_and_conditions(tmp_path: Path, cluster: Cluster, http: httpx.AsyncClient, form: str) -> None:
    store_job(cluster, {"video": make_video(tmp_path)})
    query = {"format": form}
    head = await http.head(CONTENT, params=query)
    whole = await http.get(CONTENT, params=query)
    names = ("content-length", "content-type", "etag", "accept-ranges")
    assert [head.headers[name] for name in names] == [whole.headers[name] for name in names]
    assert (head.content, head.headers["content-length"]) == (b"", str(len(whole.content)))
    part = await http.get(CONTENT, params=query, headers={"Range": "bytes=10-19", "If-Range": whole.headers["etag"]})
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    same = await http.get(CONTENT, params=query, headers={"If-None-Match": whole.headers["etag"]})
    assert same.status_code == 304
    beyond = await http.get(CONTENT, params=query, headers={"Range": f"bytes={len(whole.content)}-"})
    assert beyond.status_code == 416
    others = [(await http.head(CONTENT, params={"format": other})).headers["etag"] for other in ("gif", "webp", "mp4")]
    assert len({*others, whole.headers["etag"]}) == len({"gif", "webp", "mp4", form})


async def test_a_file_is_made_once(tmp_path: Path, cluster: Cluster, http: httpx.AsyncClient) -> None:
    store_job(cluster, {"video": make_video(tmp_path)})
    several = await asyncio.gather(*(http.get(CONTENT, params={"format": "gif"}) for _ in range(5)))
    assert len({answer.content for answer in several}) == 1
    made = tmp_path / "artifacts" / "videos" / JOB / "formats" / "video.gif"
    assert made.read_bytes() == several[0].content
    made.write_bytes(b"kept")
    assert (await http.get(CONTENT, params={"format": "gif"})).content == b"kept"
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(open_door(cluster).build_app()), base_url="http://localhost"
    ) as other:
        assert (await other.get(CONTENT, params={"format": "gif"})).content == b"kept", "after a restart, too"
    assert not list((tmp_path / "artifacts" / ".drafts").iterdir())


async def test_a_client_that_leaves_does_not_stop_the_conversion_for_others(
    tmp_path: Path, cluster: Cluster, http: httpx.AsyncClient
) -> None:
    store_job(cluster, {"video": make_video(tmp_path)})
    leaving = asyncio.create_task(http.get(CONTENT, params={"format": "gif"}))
    staying = asyncio.create_task(http.get(CONTENT, params={"format": "gif"}))
    await asyncio.sleep(0)
    leaving.cancel()
    assert (await staying).content.startswith(b"GIF89a")


async def test_converted_files_are_deleted_with_the_job(
    tmp_path: Path, cluster: Cluster, http: httpx.AsyncClient
) -> None:
    store_job(cluster, {"video": make_video(tmp_path)})
    converting = asyncio.create_task(http.get(CONTENT, params={"format": "gif"}))
    made = tmp_path / "artifacts" / "videos" / JOB / "formats" / "video.gif"
    assert (await converting).status_code == 200
    assert made.is_file()
    assert (await http.delete(f"/v1/videos/{JOB}")).status_code == 200
    assert (await http.get(CONTENT, params={"format": "gif"})).status_code == 404
    Artifacts(cluster.where).remove(f"videos/{JOB}")  # as the runner does
    assert not made.exists()


async def test_a_conversion_that_ends_after_its_job_leaves_nothing(tmp_path: Path, cluster: Cluster) -> None:
    store_job(cluster, {"video": make_video(tmp_path)})
    artifacts = Artifacts(cluster.where)
    renditions = Renditions(cluster.store, artifacts, MediaLimits(), 10**9)
    job = cluster.store.get_job(JOB)
    cluster.store.stop_job(JOB, "", delete_it=True)
    with pytest.raises(NotFound, match="there is no video"):
        await renditions.find_file(job, "video", "gif")
    assert not (tmp_path / "artifacts" / "videos" / JOB).exists()


@pytest.mark.parametrize("form", ["gif", "webp", "png"])
async def test_a_video_that_is_not_complete(cluster: Cluster, http: httpx.AsyncClient, form: str) -> None:
    lease = store_job(cluster, {}, is_complete=False)
    Artifacts(cluster.where).put(f"videos/{JOB}/0", b"segment")
    row = Segment(job_id=JOB, variant="video", index=-1, key=f"videos/{JOB}/0", first=0, frames=3)
    cluster.store.update_job(lease, {}, [], [row])
    message = f"format: {form} is available when the video is complete; the job is in_progress, with 3 of 7 frames"
    check_error(await http.get(CONTENT, params={"format": form}), 409, message)
    assert (await http.head(CONTENT, params={"format": "mp4"})).status_code == 200
    jpeg = await http.get(CONTENT, params={"format": "jpeg"})
    check_error(jpeg, 422, "format: must be one of mp4, gif, webp, png with variant=video, got 'jpeg'")
    cluster.store.end_job(lease, "failed", ("cancelled", "the job was cancelled"))
    message = f"format: {form} is available when the video is complete; the job is failed, with 3 of 7 frames"
    check_error(await http.get(CONTENT, params={"format": form}), 409, message)


async def test_a_video_beyond_the_limit(tmp_path: Path, cluster: Cluster) -> None:
    store_job(cluster, {"video": make_video(tmp_path)})
    app = open_door(cluster, max_conversion_pixels=20_000).build_app()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        answer = await client.get(CONTENT, params={"format": "gif"})
        assert (await client.get(CONTENT)).status_code == 200
    amount = "7 frames of 66x50 are 23100 pixels; at most 20000 are converted to gif (max_conversion_pixels)"
    check_error(answer, 422, f"format: {amount}")
    assert not list((tmp_path / "artifacts" / ".drafts").iterdir())


async def test_limits_on_uploads_are_not_limits_on_results(tmp_path: Path, cluster: Cluster) -> None:
    store_job(cluster, {"video": make_video(tmp_path, rate=Fraction(7, 2))})
    small = {"max_pixels": 100, "max_side": 20, "max_frames": 2, "max_duration_s": 1.0}
    app = open_door(cluster, media=small).build_app()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        assert (await client.get(CONTENT, params={"format": "gif"})).status_code == 200


# Pictures.


@pytest.mark.parametrize(("form", "kind", "most"), [("png", "png", 0), ("jpeg", "jpeg", 4), ("webp", "webp", 0)])
async def test_a_picture_in_another_format(
    cluster: Cluster, http: httpx.AsyncClient, form: str, kind: str, most: int
) -> None:
    card = draw_card(5, 65, 49)
    store_job(cluster, {"image": ("png", encode_png(card))}, main="image")
    answer = await http.get(CONTENT, params={"format": form})
    assert (answer.status_code, answer.headers["content-type"]) == (200, f"image/{kind}")
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert picture.format == form.upper()
        assert np.abs(np.array(picture).astype(int) - card).max() <= most
    assert (await http.get(CONTENT)).headers["content-type"] == "image/png"


async def test_a_transparent_picture_as_jpeg_is_on_white(cluster: Cluster, http: httpx.AsyncClient) -> None:
    alpha = np.zeros((48, 64), np.uint8)
    alpha[:, 32:] = 255
    stored = encode_picture(draw_card(5), "png", alpha=alpha)
    store_job(cluster, {"image": ("png", stored)}, main="image")
    jpeg = await http.get(CONTENT, params={"format": "jpeg"})
    with Image.open(io.BytesIO(jpeg.content)) as picture:
        assert np.array(picture)[:, :28].min() >= 253
    webp = await http.get(CONTENT, params={"format": "webp"})
    with Image.open(io.BytesIO(webp.content)) as picture:
        assert np.array_equal(np.array(picture)[..., 3], alpha)


async def test_formats_that_a_variant_has_not(tmp_path: Path, cluster: Cluster, http: httpx.AsyncClient) -> None:
    results = {
        "video": make_video(tmp_path),
        "thumbnail": ("jpg", encode_jpeg(noise(1), 64)),
        "image": ("png", encode_png(noise(1))),
    }
    store_job(cluster, results)
    for variant, form, message in (
        ("video", "jpeg", "must be one of mp4, gif, webp, png with variant=video, got 'jpeg'"),
        ("video", "csv", "must be one of mp4, gif, webp, png with variant=video, got 'csv'"),
        ("image", "gif", "must be one of png, jpeg, webp with variant=image, got 'gif'"),
        ("thumbnail", "mp4", "must be one of png, jpeg, webp with variant=thumbnail, got 'mp4'"),
        ("frames", "png", "must not be given with variant=frames, got 'png'"),
        ("metrics", "gif", "must be one of csv, json with variant=metrics, got 'gif'"),
    ):
        answer = await http.get(CONTENT, params={"variant": variant, "format": form})
        check_error(answer, 422, f"format: {message}")
    unknown = await http.get(CONTENT, params={"format": "bmp"})
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (422, "format")
    jpeg = await http.get(CONTENT, params={"variant": "thumbnail", "format": "jpeg"})
    assert jpeg.content == results["thumbnail"][1]
