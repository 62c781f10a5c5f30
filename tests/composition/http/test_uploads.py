"""Uploads: checks of kind and owner, and lists of pictures stored as one file."""

import asyncio
import base64
import io
import time
import zipfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from composition.http import uploads
from composition.http.bodies import MediaValue
from composition.http.forms import Part
from composition.http.ingress import Ingress, IngressSettings
from composition.http.uploads import Uploads
from composition.media.decode import Decoder
from composition.media.limits import MediaKind, MediaLimits
from composition.records.artifacts import Artifacts, ArtifactSettings
from composition.records.store import Page, Store
from composition.records.tables import File
from services.errors import InvalidParameter, LimitExceeded, NotFound, ReelError, UndecodableMedia
from tests.composition import albums, heif
from tests.composition import sample_media as media
from tests.composition.albums import encoded, noisy, numbered
from tests.composition.cards import draw_card, read_code
from tests.composition.deployed import TRANSPORT, Cluster, Hosted
from tests.composition.media.test_decode import numbers, pulled, workers
from tests.composition.records.test_artifacts import artifacts, s3  # noqa: F401 - fixtures


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(f"sqlite:///{tmp_path / 'store.db'}")
    yield made
    made.close()


@pytest.fixture
def disk(tmp_path: Path) -> Artifacts:
    return Artifacts(ArtifactSettings(url=str(tmp_path / "artifacts")))


@pytest.fixture
def takes(store: Store, disk: Artifacts) -> Uploads:
    return Uploads(store, disk, MediaLimits(), 1 << 30)


def part(data: bytes, name: str = "x") -> Part:
    return Part(io.BytesIO(data), name)


def url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def sample(kind: MediaKind, folder: Path) -> bytes:
    makes = {"image": lambda: numbered(7), "pictures": lambda: albums.album(folder / "a.zip", 3).read_bytes()}
    return makes.get(kind, lambda: media.one_frame(folder).read_bytes())()


async def shown(file: File, store: Artifacts) -> list[int]:
    """The numbers that a stored file's frames bear."""
    async with store.open_local(store.get_url(file.key)) as path, Decoder.open(path) as decoder:
        return numbers(await pulled(decoder))


def drafts(store: Artifacts) -> list[Path]:
    return list(Path(store.get_url(".drafts")).glob("*"))


async def test_a_zip_is_kept_with_its_facts(takes: Uploads, disk: Artifacts, tmp_path: Path) -> None:
    data = sample("pictures", tmp_path)
    file = await takes.store_part(part(data, "edges.zip"), "ann", "input", "file")
    facts = {name: file.facts[name] for name in ("kind", "width", "height", "frames", "rate", "duration_s", "codec")}
    assert list(facts.values()) == ["pictures", 64, 48, 3, None, 0.0, "png"]
    assert (file.filename, file.bytes) == ("edges.zip", len(data))
    assert await shown(file, disk) == [0, 1, 2]


REFUSED = {
    ("video", "image"): "must be a picture, got a video",
    ("pictures", "image"): "must be a picture, got a zip of pictures",
    ("pictures", "video"): "must be a video, got a zip of pictures",
    ("video", "pictures"): "must be pictures, got a video",
}
KINDS: tuple[MediaKind, ...] = ("image", "video", "pictures")


@pytest.mark.parametrize("wanted", KINDS)
@pytest.mark.parametrize("given", KINDS)
async def test_a_field_takes_its_kind_in_every_form(
    takes: Uploads, tmp_path: Path, given: MediaKind, wanted: MediaKind
) -> None:
    data = sample(given, tmp_path)
    stored = await takes.store_part(part(data), "ann", "input", "file")
    for value in (part(data), url(data), stored.id):
        if (given, wanted) in REFUSED:
            with pytest.raises(InvalidParameter) as caught:
                await takes.store_media(value, wanted, "ann", "field")
            assert caught.value.message == f"field: {REFUSED[given, wanted]}"
            assert caught.value.param == "field"
        else:
            assert (await takes.store_media(value, wanted, "ann", "field")).facts["kind"] == given


async def test_a_list_becomes_one_file_in_its_order(
    store: Store,
    artifacts: Artifacts,  # noqa: F811
) -> None:
    """On disk and on S3."""
    takes = Uploads(store, artifacts, MediaLimits(), 1 << 30)
    stored = await takes.store_part(part(numbered(5)), "ann", "input", "file")
    jpeg, webp = encoded(media.numbered(3), "jpeg", quality=95), encoded(media.numbered(2), "webp", lossless=True)
    values: MediaValue = [stored.id, url(numbered(4)), part(jpeg), part(webp), *(part(numbered(n)) for n in range(9))]
    file = await takes.store_media(values, "pictures", "ann", "edge_frames")
    assert (file.facts["kind"], file.facts["frames"], file.facts["codec"]) == ("pictures", 13, "png")
    assert (file.filename, file.owner) == ("edge_frames.zip", "ann")
    assert await shown(file, artifacts) == [5, 4, 3, 2, *range(9)]
    async with artifacts.open_local(artifacts.get_url(file.key)) as path:
        with zipfile.ZipFile(path) as archive:
            assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
            assert archive.read("000002") == jpeg
    assert store.get_file(file.id, "ann").bytes == file.bytes
    await takes.delete_file(stored.id, "ann")
    assert await shown(file, artifacts) == [5, 4, 3, 2, *range(9)]


async def test_a_list_may_be_of_one_and_of_several_sizes(takes: Uploads, disk: Artifacts) -> None:
    one = await takes.store_media([part(numbered(9))], "pictures", "ann", "edge_frames")
    assert (one.facts["kind"], one.facts["frames"]) == ("pictures", 1)
    mixed: MediaValue = [part(numbered(1)), part(numbered(2, 96, 64))]
    file = await takes.store_media(mixed, "pictures", "ann", "edge_frames")
    async with disk.open_local(disk.get_url(file.key)) as path, Decoder.open(path) as decoder:
        assert [run.width async for run in decoder.stream_runs()] == [64, 96]


async def test_what_a_list_may_not_have(takes: Uploads, store: Store, disk: Artifacts, tmp_path: Path) -> None:
    video, foreign = [
        await takes.store_part(part(data), owner, "input", "file")
        for data, owner in ((sample("video", tmp_path), "ann"), (numbered(1), "bob"))
    ]
    archive = await takes.store_part(part(sample("pictures", tmp_path)), "ann", "input", "file")
    first = part(numbered(0))
    many: MediaValue = ["file_" for _ in range(uploads.MAX_LIST + 1)]
    bad: list[tuple[MediaValue, type[ReelError], str]] = [
        ([], InvalidParameter, "edge_frames: the list must not be empty"),
        ([first, video.id], InvalidParameter, r"edge_frames\[1\]: must be a picture, got a video"),
        ([first, archive.id], InvalidParameter, r"edge_frames\[1\]: must be a picture, got a zip"),
        ([first, foreign.id], NotFound, rf"edge_frames\[1\]: there is no file '{foreign.id}'"),
        ([first, "/etc/passwd"], InvalidParameter, r"edge_frames\[1\]: must be a file id"),
        ([first, "http://127.0.0.1/"], InvalidParameter, r"edge_frames\[1\]: must be a file id"),
        (
            [first, "data:image/png;base64,????"],
            InvalidParameter,
            r"edge_frames\[1\]: the data: URL is not valid base64",
        ),
        ([first, "data:image/png;base64,é"], InvalidParameter, r"edge_frames\[1\]: the data: URL is not valid base64"),
        ([first, "data:image/png,abc"], InvalidParameter, r"edge_frames\[1\]: a data: URL must be"),
        ([first, part(b"text")], UndecodableMedia, "edge_frames: '000001': the file is text, not a picture"),
        (
            [first, part(sample("video", tmp_path))],
            UndecodableMedia,
            "edge_frames: '000001': the format must be one of",
        ),
        (
            [first, part(sample("pictures", tmp_path))],
            UndecodableMedia,
            "edge_frames: '000001': the format must be one of",
        ),
        ([first, part(albums.spoiled(encoded(noisy())))], UndecodableMedia, "edge_frames: '000001': .*damaged"),
        (many, LimitExceeded, "has 10001 pictures; the limit is 10000"),
    ]
    before = {file.id for owner in ("ann", "bob") for file in store.list_files(owner, Page(limit=100))[0]}
    for values, kind, message in bad:
        with pytest.raises(kind, match=message) as caught:
            await takes.store_media(values, "pictures", "ann", "edge_frames")
        assert caught.value.param == "edge_frames"
    after = {file.id for owner in ("ann", "bob") for file in store.list_files(owner, Page(limit=100))[0]}
    assert after == before
    assert drafts(disk) == []
    assert workers() == []
    with pytest.raises(InvalidParameter, match=r"init_frame: must be a file id .*only one"):
        await takes.store_media([first], "image", "ann", "init_frame")


async def test_a_list_cannot_make_much_of_little(store: Store, disk: Artifacts) -> None:
    """A list with the same file many times."""
    takes = Uploads(store, disk, MediaLimits(), 100_000)
    stored = await takes.store_part(part(encoded(noisy(), compress_level=0)), "ann", "input", "file")
    ten: MediaValue = [stored.id for _ in range(10)]
    eleven: MediaValue = [stored.id for _ in range(11)]
    assert (await takes.store_media(ten, "pictures", "ann", "edge_frames")).facts["frames"] == 10
    with pytest.raises(
        LimitExceeded, match=r"edge_frames: .* larger in total than the limit of 100000 bytes \(max_body_bytes\)"
    ):
        await takes.store_media(eleven, "pictures", "ann", "edge_frames")
    assert drafts(disk) == []


async def test_a_long_list_is_taken_in_seconds(takes: Uploads) -> None:
    began = time.monotonic()
    values: MediaValue = [part(numbered(n % 256)) for n in range(1000)]
    file = await takes.store_media(values, "pictures", "ann", "edge_frames")
    assert file.facts["frames"] == 1000
    assert time.monotonic() - began < 30


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application, without Ray. It serves rolling edits, which have a media field of each kind."""
    cluster = Cluster(tmp_path).host_models({"qwen-edit": Hosted("qwen-edit")}).host_graphs("rolling-edit")
    settings = IngressSettings(database=cluster.url, artifacts=cluster.where, auth="none")
    api = Ingress(settings, cluster.served, TRANSPORT).build_app()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://localhost") as client:
        yield client


def fields(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_zip_is_uploaded_over_http(http: httpx.AsyncClient, tmp_path: Path) -> None:
    data = sample("pictures", tmp_path)
    file = fields(await http.post("/v1/files", files={"file": ("edges.zip", data)}))
    assert (file["kind"], file["frames"], file["rate"], file["codec"]) == ("pictures", 3, None, "png")
    assert fields(await http.get(f"/v1/files/{file['id']}")) == file
    several = await http.post("/v1/files", files=[("file", ("a", data)), ("file", ("b", data))])
    assert (several.status_code, several.json()["error"]["param"]) == (422, "file")
    bad = await http.post("/v1/files", files={"file": ("a.zip", data[:-30])})
    assert (bad.status_code, bad.json()["error"]["code"]) == (422, "undecodable_media")
    assert "truncated" in bad.json()["error"]["message"]


@pytest.mark.parametrize("name", ["edge_frames", "edge_frames[]"])
async def test_a_list_is_asked_for_over_http(http: httpx.AsyncClient, name: str) -> None:
    stored = fields(await http.post("/v1/files", files={"file": ("a.png", numbered(1))}))
    files = [(name, (f"{n}.png", numbered(n))) for n in (3, 2, 1)]
    first = ("input_reference", ("first.png", numbered(0)))
    video = fields(await http.post("/v1/videos", data={"model": "rolling-edit"}, files=[*files, first]))
    packed = fields(await http.get(f"/v1/files/{video['params']['edge_frames']}"))
    assert (packed["kind"], packed["frames"], packed["filename"]) == ("pictures", 3, "edge_frames.zip")
    assert fields(await http.get(f"/v1/files/{video['params']['init_frame']}"))["kind"] == "image"
    body = {"model": "rolling-edit", "init_frame": stored["id"]}
    several = [stored["id"], url(numbered(2)), {"file_id": stored["id"]}]
    video = fields(await http.post("/v1/videos", json={**body, "edge_frames": several}))
    assert fields(await http.get(f"/v1/files/{video['params']['edge_frames']}"))["frames"] == 3
    one = fields(await http.post("/v1/videos", json={**body, "edge_frames": stored["id"]}))
    assert one["params"]["edge_frames"] == stored["id"]


async def test_only_pictures_may_be_several_over_http(http: httpx.AsyncClient) -> None:
    files = [("init_frame", ("a.png", numbered(1))), ("init_frame", ("b.png", numbered(2)))]
    for answer in (
        await http.post("/v1/videos", data={"model": "rolling-edit"}, files=files),
        await http.post("/v1/videos", json={"model": "rolling-edit", "init_frame": ["file_a", "file_b"]}),
    ):
        assert answer.status_code == 422
        error = answer.json()["error"]
        assert (error["param"], error["code"]) == ("init_frame", "invalid_parameter")
        assert "only one" in error["message"]
    unknown = await http.post("/v1/videos", data={"model": "rolling-edit"}, files={"face": ("a.png", numbered(1))})
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (422, "face")
    repeated = await http.post("/v1/videos", data={"model": "rolling-edit", "seed": ["1", "2"]}, files=files[:1])
    assert (repeated.status_code, repeated.json()["error"]["param"]) == (422, "seed")


async def test_the_schema_says_what_a_media_field_takes(http: httpx.AsyncClient) -> None:
    document = fields(await http.get("/openapi.json"))
    body = document["paths"]["/v1/videos"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    (properties,) = (each["properties"] for each in body["oneOf"] if "edge_frames" in each["properties"])
    assert [each["type"] for each in properties["edge_frames"]["anyOf"]] == ["string", "array"]
    single = [properties[name] for name in ("input_reference", "init_frame", "edge_video")]
    assert [each["type"] for each in single] == ["string"] * 3
    assert all("A file id, a data: URL" in each["description"] for each in single)
    assert properties["edge_video"]["type"] == "string"


async def test_taking_two_lists_at_once(takes: Uploads, disk: Artifacts) -> None:
    lists: list[MediaValue] = [[part(numbered(n + offset)) for n in range(20)] for offset in (0, 100)]
    files = await asyncio.gather(*(takes.store_media(each, "pictures", "ann", "edge_frames") for each in lists))
    assert [await shown(file, disk) for file in files] == [list(range(20)), list(range(100, 120))]


@pytest.mark.parametrize("form", ["heic", "avif"])
async def test_a_phone_s_picture_is_taken_wherever_a_picture_is(
    takes: Uploads, disk: Artifacts, tmp_path: Path, form: str
) -> None:
    card = draw_card(5, 96, 72)
    data = heif.write_tiled(card, 64) if form == "heic" else media.picture(tmp_path / "a.avif", card).read_bytes()
    for value in (part(data, f"IMG_0001.{form.upper()}"), url(data)):
        file = await takes.store_media(value, "image", "ann", "image")
        assert [file.facts[name] for name in ("kind", "width", "height")] == ["image", 96, 72]
        for given in (value, file.id):
            async with takes.open_value(given, "ann", "image") as path:
                assert read_code((await takes.decode_path(path, "ann", "image")).frames.pixels[0]) == 5
    several = await takes.store_media([part(data), file.id, url(numbered(7))], "pictures", "ann", "edge_frames")
    assert [several.facts[name] for name in ("kind", "frames")] == ["pictures", 3]
    async with disk.open_local(disk.get_url(several.key)) as path, Decoder.open(path) as decoder:
        runs = [run async for run in decoder.stream_runs()]
    assert [(run.count, run.width, run.height) for run in runs] == [(2, 96, 72), (1, 64, 48)]


async def test_what_is_known_of_an_animation_and_of_a_cut_recording_is_kept(takes: Uploads) -> None:
    files = Path(__file__).parents[2] / "data" / "media"
    moving = await takes.store_part(part((files / "durations.gif").read_bytes()), "ann", "input", "file")
    assert [moving.facts[name] for name in ("kind", "frames", "is_variable", "duration_s")] == ["video", 4, True, 2.0]
    cut = await takes.store_part(part((files / "frag_cut.mp4").read_bytes()), "ann", "input", "file")
    assert (cut.facts["frames"], cut.facts["damaged"]) == (12, "truncated: 12 of 15 frames")
    turned = await takes.store_part(part((files / "resize.webm").read_bytes()), "ann", "input", "file")
    assert turned.facts["changes"] == {"resized": "64x48 to 48x64"}
    with pytest.raises(InvalidParameter, match="image: must be a picture, got a video"):
        await takes.store_media(part((files / "anim.png").read_bytes()), "image", "ann", "image")
