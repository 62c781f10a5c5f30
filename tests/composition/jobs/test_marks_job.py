"""The marks of the files that a job leaves: one signature for each, when all that made it is known."""

import asyncio
import io
import json
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from composition.jobs.provenance import OriginReader
from composition.jobs.publishing import OutputSettings, change_pictures
from composition.jobs.recorder import Output, Recorder
from composition.media.encode import encode_png
from composition.media.marks.manifest import GENERATION
from composition.media.marks.marker import MarkedFormat, Marker
from composition.media.marks.provenance import ModelUse, Provenance
from composition.media.marks.settings import MARKS_OFF, MarksSettings, VisibleLabel
from composition.media.visible_label import draw_label
from composition.records.events import StageEvent
from composition.records.store import EventDraft, Lease, make_id
from composition.records.tables import COPIED_FRAMES, Job
from services.errors import LeaseLost, ModelFailed, ServiceLost
from services.frames import Pixels, StageDone
from tests.composition.beneath import read_beneath
from tests.composition.jobs.test_full_pipeline_job import Desk
from tests.composition.jobs.test_recorder import Room, runs
from tests.composition.media.marks.samples import get_assertion, read_store
from tests.composition.rolling import Gone
from tests.composition.serving import noise
from tests.composition.studio import Studio

FORMATS: dict[str, MarkedFormat] = {
    "painted": "png",
    "image": "png",
    "video": "mp4",
    "hd": "mp4",
    "thumbnail": "jpeg",
}
CHAIN = ["flux", "hunyuan-dit", "svd", "realesrgan"]
USED = {"painted": CHAIN[:1], "image": CHAIN[:2], "video": CHAIN[:3], "hd": CHAIN, "thumbnail": CHAIN}
"""Result → the models that made it. The thumbnail is that of the main result, `hd`."""


def make_desk(folder: Path, **marks: Any) -> Desk:
    folder.mkdir(exist_ok=True)
    settings = MarksSettings(**marks) if marks.pop("on", True) else MARKS_OFF.model_copy(update=marks)
    return Desk(folder, OutputSettings(marker=Marker(settings, folder)))


async def run_job(desk: Desk, studio: Studio | None = None, **fields: Any) -> Job:
    job, lease = desk.job(**fields)
    await desk.work(studio or Studio(), job, lease)
    return desk.store.get_job(job.id)


def read_stills(desk: Desk, job: Job) -> list[bytes]:
    return [b"".join(desk.artifacts.read(still.key)) for still in desk.store.list_stills(job.id, frames=True)]


async def test_each_file_names_exactly_the_models_that_made_it(tmp_path: Path) -> None:
    desk = make_desk(tmp_path)
    job = await run_job(desk)
    for name, form in FORMATS.items():
        store = read_store(desk.bytes_of(job.id, name), form)
        assert store["validation_state"] == "Valid", name
        told = get_assertion(store, GENERATION)
        assert [each["model"] for each in told["models"]] == USED[name], name
        assert (told["seed"], told["task"]) == (7, "full-pipeline")
        assert told["contentId"].startswith(f"{job.id}/{name}."), name
        assert "prompts" not in told


async def test_beneath_the_marks_nothing_differs(tmp_path: Path) -> None:
    marked, plain = make_desk(tmp_path / "marked"), make_desk(tmp_path / "plain", on=False)
    first, second = await run_job(marked), await run_job(plain)
    for name in FORMATS:
        data, bare = marked.bytes_of(first.id, name), plain.bytes_of(second.id, name)
        assert (b"jumb" in data, b"jumb" in bare) == (True, False)
        assert read_beneath(data) == read_beneath(bare), name
    assert read_stills(marked, first) == read_stills(plain, second)
    segments = [
        [b"".join(desk.artifacts.read(each.key)) for each in desk.store.list_segments(job.id)]
        for desk, job in ((marked, first), (plain, second))
    ]
    assert segments[0] == segments[1]


@pytest.mark.parametrize("place", ["hunyuan-dit:0", "svd:0", "window:9", "run:8"])
async def test_what_was_published_before_a_kill_stays_as_it_was(tmp_path: Path, place: str) -> None:
    desk = make_desk(tmp_path)
    job, lease = desk.job()
    with pytest.raises(ServiceLost):
        await desk.work(Studio({place: Gone()}), job, lease)
    published = [name for name in FORMATS if name in desk.store.get_job(job.id).results and name != "thumbnail"]
    assert published
    before = {name: desk.bytes_of(job.id, name) for name in published}
    await desk.work(Studio(), job, lease, again=True)
    assert {name: desk.bytes_of(job.id, name) for name in published} == before, "each file is signed once"
    told = get_assertion(read_store(desk.bytes_of(job.id, "hd"), "mp4"), GENERATION)
    assert [each["model"] for each in told["models"]] == CHAIN, "also those of the first attempt"


async def test_no_result_is_there_before_the_stage_that_made_it_is_recorded(tmp_path: Path) -> None:
    desk = make_desk(tmp_path)
    job = await run_job(desk)
    told = [(each.kind, each.data) for each in desk.store.list_events(job.id) if each.kind in ("stage", "result")]
    order = [data["model"] if kind == "stage" else data["variant"] for kind, data in told]
    assert order == ["flux", "painted", "hunyuan-dit", "image", "svd", "video", "realesrgan", "hd"]


def read_png(data: bytes) -> Pixels:
    with Image.open(io.BytesIO(data)) as picture:
        return np.array(picture)


@pytest.mark.parametrize("place", [None, "hunyuan-dit:0", "svd:0"])
async def test_models_never_see_the_visible_label(tmp_path: Path, place: str | None) -> None:
    label = VisibleLabel(text="AI", height=0.3)
    labelled, plain = make_desk(tmp_path / "labelled", visible=label), make_desk(tmp_path / "plain")
    job, lease = labelled.job()
    if place is not None:
        with pytest.raises(ServiceLost):
            await labelled.work(Studio({place: Gone()}), job, lease)
    await labelled.work(Studio(), job, lease, again=place is not None)
    other = await run_job(plain)
    assert read_stills(labelled, job) == read_stills(plain, other), "made from the same pictures"
    for name in ("painted", "image"):
        clean = read_png(plain.bytes_of(other.id, name))
        shown = read_png(labelled.bytes_of(job.id, name))
        assert np.array_equal(shown, draw_label(clean, label))
        assert not np.array_equal(shown, clean)
    for name in ("video", "hd", "thumbnail"):
        data, bare = labelled.bytes_of(job.id, name), plain.bytes_of(other.id, name)
        assert read_beneath(data) != read_beneath(bare), name


async def test_prompts_are_told_only_if_the_setting_is_on(tmp_path: Path) -> None:
    desk = make_desk(tmp_path, prompts=True)
    job = await run_job(desk, animate=False, upscale=False, restyle="ink")
    told = get_assertion(read_store(desk.bytes_of(job.id, "image"), "png"), GENERATION)
    assert told["prompts"] == {"prompt": "a red fox", "restyle.prompt": "ink"}


class BrokenMarker(Marker):
    """A marker whose key service is away."""

    async def mark_bytes(self, data: bytes, form: MarkedFormat, provenance: Provenance) -> bytes:
        raise ModelFailed("the file could not be signed; the reason has been logged")


async def test_a_file_that_cannot_be_signed_is_not_published(tmp_path: Path) -> None:
    desk = Desk(tmp_path, OutputSettings(marker=BrokenMarker(MarksSettings(), tmp_path)))
    job, lease = desk.job()
    with pytest.raises(ModelFailed, match="could not be signed"):
        await desk.work(Studio(), job, lease)
    assert desk.store.get_job(job.id).results == {}
    assert not any(path.is_file() for path in (tmp_path / "artifacts").rglob("*"))


async def test_a_runner_that_lost_its_lease_does_not_change_the_file_of_its_successor(tmp_path: Path) -> None:
    room = Room(tmp_path)
    output = Output(settings=OutputSettings(marker=Marker(MarksSettings(), tmp_path)))
    stale = room.held(lease_s=-1.0)
    slow = Recorder(room.store, room.artifacts, stale, output)
    for run in runs():
        await slow.take(run)
    resumed = room.again()
    quick = Recorder(room.store, room.artifacts, resumed, output)
    for run in runs(quick.frames // 7 * 7):
        await quick.take(run)
    await quick.finish()
    published = room.bytes_of(resumed)
    with pytest.raises(LeaseLost):
        await slow.finish()
    assert room.bytes_of(resumed) == published
    assert read_store(published, "mp4")["validation_state"] == "Valid"


class SlowMarker(Marker):
    """A marker whose key service takes its time."""

    def __init__(self, settings: MarksSettings, state: Path) -> None:
        super().__init__(settings, state)
        self.signs, self.may_go_on, self.has_ended = asyncio.Event(), asyncio.Event(), False

    async def mark_file(self, path: Path, form: MarkedFormat, provenance: Provenance) -> None:
        self.signs.set()
        await self.may_go_on.wait()
        await super().mark_file(path, form, provenance)
        self.has_ended = True


async def test_a_job_that_is_cancelled_while_a_file_is_signed_leaves_nothing(tmp_path: Path) -> None:
    marker = SlowMarker(MarksSettings(), tmp_path)
    desk = Desk(tmp_path, OutputSettings(marker=marker))
    job, lease = desk.job(restyle=None)
    working = asyncio.create_task(desk.work(Studio(), job, lease))
    await marker.signs.wait()
    working.cancel()
    marker.may_go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert marker.has_ended, "its draft is removed after that"
    assert "video" not in desk.store.get_job(job.id).results
    assert list((tmp_path / "artifacts" / ".drafts").iterdir()) == []


# What files were made from, by the records.


def store_job(desk: Desk, stage: str, *, fails: bool = False, **fields: Any) -> Job:
    """Store a job with one stage, named like its model."""
    said: dict[str, Any] = {"params": {}, "media": {}, "facts": {}, "model": "rolling-edit", **fields}
    job = Job(id=make_id("video"), owner="ann", created_at=time.time(), **said)
    desk.store.create_job(job, 99)
    claimed = desk.store.claim_job(60.0)
    assert claimed
    done = StageDone(stage, stage, "nowhere", "1", "a", 1.0)
    desk.store.update_job(Lease(claimed.id, claimed.fence), {}, [EventDraft.of(StageEvent.from_stage(done))])
    desk.store.end_job(Lease(claimed.id, claimed.fence), "failed" if fails else "completed")
    return claimed


def put_picture(desk: Desk, key: str) -> str:
    desk.artifacts.put(key, encode_png(noise(1)))
    return key


async def test_a_storyboard_names_the_models_of_its_scenes(tmp_path: Path) -> None:
    desk = make_desk(tmp_path)
    face = put_picture(desk, "files/face")
    film = store_job(desk, "script", media={"face": face}, facts={"seed": 5, "script": "a fox"})
    store_job(desk, "upscale", fails=True, parent=film.id)
    for stage in ("paint", "animate", "paint"):
        hashes = json.dumps({"ink": "a" * 64})
        store_job(desk, stage, parent=film.id, media={"face": face}, facts={"lora_sha256": hashes})
    async with OriginReader(desk.store, desk.artifacts).open(film.id, "video", "mp4") as origin:
        assert [use.stage for use in origin.models] == ["script", "paint", "animate"]
        assert origin.models[0] == ModelUse("script", "script", "nowhere", "1")
        assert [each.field for each in origin.ingredients] == ["face"]
        assert (origin.loras, origin.seed, origin.prompts) == ({"ink": "a" * 64}, 5, {"script": "a fox"})
        assert origin.content_id == f"{film.id}/video.mp4"
        assert origin.created_at.tzinfo is not None


async def test_a_branch_names_the_models_and_files_of_the_older_job_and_not_its_frame(tmp_path: Path) -> None:
    desk = make_desk(tmp_path)
    old = store_job(
        desk, "first", media={"init_frame": put_picture(desk, "files/a"), "edge_frames": put_picture(desk, "files/b")}
    )
    frame = put_picture(desk, f"{COPIED_FRAMES}file_c")
    branch = {"branch_from": {"video": old.id, "frame": 3}}
    new = store_job(desk, "second", params=branch, media={"init_frame": frame, "edge_frames": "files/b"})
    origins = OriginReader(desk.store, desk.artifacts)
    async with origins.open(new.id, "video", "mp4") as origin:
        assert [use.stage for use in origin.models] == ["second", "first"]
        assert [(each.field, each.path.name) for each in origin.ingredients] == [
            ("edge_frames", "b"),
            ("init_frame", "a"),
        ]
    desk.store.stop_job(old.id, "ann", delete_it=True)
    async with origins.open(new.id, "video", "mp4") as origin:
        assert [each.path.name for each in origin.ingredients] == ["file_c", "b"], "who made the frame is not known"


@pytest.mark.parametrize(
    ("stage", "params", "fields", "parents"),
    [
        ("upscale", {}, ["input_video"], ["input_video"]),
        ("edit", {}, ["edges", "image", "references"], ["image"]),
        ("restyle", {}, ["image"], ["image"]),
        ("edit", {}, ["init_frame", "edge_video"], []),
        ("generate", {"join": True}, ["input_video"], ["input_video"]),
        ("generate", {"join": False}, ["input_video"], []),
        ("animate", {}, ["image"], []),
    ],
)
async def test_the_file_of_which_a_result_is_an_edited_version_is_its_parent(
    tmp_path: Path, stage: str, params: dict[str, Any], fields: list[str], parents: list[str]
) -> None:
    desk = make_desk(tmp_path)
    job = store_job(desk, stage, params=params, media={name: put_picture(desk, f"files/{name}") for name in fields})
    async with OriginReader(desk.store, desk.artifacts).open(job.id, "video", "mp4") as origin:
        assert [each.field for each in origin.ingredients if each.is_parent] == parents
        assert {each.owner for each in origin.ingredients} == {"ann"}


async def test_a_file_that_was_deleted_since_still_makes_it_a_composite(tmp_path: Path) -> None:
    desk = make_desk(tmp_path)
    job = store_job(desk, "restyle", media={"image": put_picture(desk, "files/a")})
    origins = OriginReader(desk.store, desk.artifacts)
    async with origins.open(job.id, "image", "webp") as origin:
        assert (len(origin.ingredients), origin.is_composite) == (1, True)
    desk.artifacts.remove("files/a")
    async with origins.open(job.id, "image", "webp") as origin:
        assert (len(origin.ingredients), origin.is_composite) == (0, True)


def test_pictures_of_an_archive_are_changed_one_by_one(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as made:
        for name in ("0.png", "1.png"):
            made.writestr(name, name)
    change_pictures(archive, lambda name, data: data + name.encode())
    with zipfile.ZipFile(archive) as made:
        assert [made.read(name) for name in made.namelist()] == [b"0.png0.png", b"1.png1.png"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
