"""Jobs of a model alone: what each is asked, what comes of it, and that nothing is made twice."""

import pickle
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError

from composition.graphs.single import SINGLES
from composition.graphs.single.request import SingleRequest
from composition.jobs.attempt import Attempt
from composition.media.encode import encode_png
from composition.media.limits import MediaLimits
from composition.records.artifacts import Artifacts
from composition.records.store import Lease, make_id
from composition.records.tables import Job
from services.catalogue import KINDS
from services.errors import InvalidParameter, LimitExceeded, ModelFailed, ServiceLost
from services.frames import Frames
from services.qwen_edit.request import DEFAULT_PROMPT
from services.wan.request import WanRequest
from tests.composition.deployed import TRANSPORT, Cluster, Hosted
from tests.composition.ordering import Counter
from tests.composition.rolling import Gone
from tests.composition.serving import EditService, MuteService, noise, results
from tests.composition.studio import HEIGHT, WIDTH, Studio, pixels_of

PICTURE, EDGES = noise(0, WIDTH, HEIGHT), noise(1, WIDTH, HEIGHT)
FLUX, HUNYUAN, QWEN = (SINGLES[kind].request for kind in ("flux", "hunyuan-dit", "qwen-edit"))


def request_of(kind: str, **fields: Any) -> Any:
    return SINGLES[kind].request.model_validate(fields)


# The requests.


@pytest.mark.parametrize(
    ("kind", "media", "reference", "main", "makes"),
    [
        ("wan", {"image": "image", "last_image": "image"}, "image", "video", {"video"}),
        ("svd", {"image": "image"}, "image", "video", {"video"}),
        ("text-to-video", {}, "", "video", {"video"}),
        ("flux", {}, "", "image", set[str]()),
        ("hunyuan-dit", {"image": "image"}, "image", "image", set[str]()),
        (
            "qwen-edit",
            {"image": "image", "edges": "image", "references": "pictures"},
            "image",
            "image",
            set[str](),
        ),
    ],
)
def test_what_a_job_takes_and_makes(
    kind: str, media: dict[str, str], reference: str, main: str, makes: set[str]
) -> None:
    graph = SINGLES[kind]
    asked = request_of(kind, prompt=None if kind == "svd" else "a fox", **dict.fromkeys(media, "pending"))
    assert (graph.request.MEDIA, graph.request.REFERENCE, asked.main_variant) == (media, reference, main)
    assert graph.request.list_videos(asked.model_dump(), graph.outputs) == makes
    assert sum(graph.stages.values()) == pytest.approx(1)
    for need in graph.needs:
        assert (need.at, KINDS[kind].find_offer(need.role, need.request) is not None) == ("", True)


def test_models_that_make_neither_frames_nor_pictures_have_no_jobs() -> None:
    assert KINDS.keys() - SINGLES.keys() == {"internvl", "instantid"}


@pytest.mark.parametrize("kind", SINGLES)
def test_a_job_has_the_fields_of_its_model_and_refuses_others(kind: str) -> None:
    for need in SINGLES[kind].needs:
        assert need.request
        assert need.request.model_fields.keys() <= SINGLES[kind].request.model_fields.keys()
    prompt = {} if kind == "svd" else {"prompt": "a fox"}
    with pytest.raises(ValidationError, match="holodeck"):
        request_of(kind, **prompt, image="x", holodeck=1)


def test_requests_are_found_again_in_another_process(tmp_path: Path) -> None:
    """Ray pickles them by the name of their class."""
    made: list[BaseModel] = [
        request_of("wan", image="a", last_image="b", num_frames=5),
        request_of("svd", image="a"),
        request_of("text-to-video", prompt="x"),
        request_of("flux", prompt="x", loras=["a:0.5"]),
        request_of("hunyuan-dit", image="a", prompt="ink", models={"restyle": "hunyuan-dit"}),
        request_of("qwen-edit", image="a", edges="b"),
        request_of("realesrgan", input_video="a"),
    ]
    (tmp_path / "requests").write_bytes(pickle.dumps(made))
    code = "import pickle, sys; print([each.model_dump() for each in pickle.load(open(sys.argv[1], 'rb'))])"
    told = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "requests"], capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == repr([each.model_dump() for each in made])
    assert {type(each).__name__ for each in made} == {
        f"{''.join(part.title() for part in kind.split('-'))}Job" for kind in SINGLES
    }


@pytest.mark.parametrize(
    ("kind", "seconds", "fields", "rate", "frames"),
    [
        ("wan", 2, {}, 16, 33),
        ("wan", 2, {}, 24, 49),
        ("wan", 0.01, {"num_frames": 81}, 16, 5),
        ("svd", 2, {}, 16, 12),
        ("svd", 2, {"fps": "10"}, 16, 20),
        ("text-to-video", 2, {}, 0, 16),
    ],
)
def test_seconds_are_read_as_frames(
    kind: str, seconds: float, fields: dict[str, Any], rate: float, frames: int
) -> None:
    assert SINGLES[kind].request.set_duration(seconds, fields, rate) == {**fields, "num_frames": frames}


@pytest.mark.parametrize("kind", ["flux", "hunyuan-dit", "qwen-edit", "realesrgan"])
def test_what_has_no_length_has_no_seconds(kind: str) -> None:
    assert SINGLES[kind].request.set_duration(2, {"prompt": "x"}, 16) == {"prompt": "x", "seconds": 2}


def test_a_job_makes_one_picture() -> None:
    assert request_of("flux", prompt="a fox").n == 1
    with pytest.raises(InvalidParameter) as caught:
        request_of("flux", prompt="a fox", n=2)
    assert (caught.value.param, caught.value.message) == ("n", "n: must be 1 for a job, got 2")


@pytest.mark.parametrize("fields", [{}, {"input_video": "a", "image": "b"}])
def test_one_thing_is_enlarged(fields: dict[str, str]) -> None:
    with pytest.raises(InvalidParameter, match="input_video: give either this or image"):
        request_of("realesrgan", **fields)
    assert request_of("realesrgan", image="a").main_variant == "image"
    graph = SINGLES["realesrgan"]
    assert graph.request.list_videos({"image": "a"}, graph.outputs) == set()
    assert graph.request.list_videos({"image": None}, graph.outputs) == {"video"}


# Edits.


def test_without_edges_an_edit_needs_a_prompt_and_follows_none() -> None:
    for fields in ({}, {"prompt": ""}, {"edges": None}):
        with pytest.raises(InvalidParameter) as caught:
            request_of("qwen-edit", image="a", **fields)
        assert (caught.value.param, caught.value.message) == (
            "prompt",
            "prompt: field required if no edges are given",
        )
    asked = request_of("qwen-edit", image="a", prompt="at night")
    assert (asked.prompt, asked.ttlg.edge_scale, asked.ttlg.on) == ("at night", 0.0, False)


@pytest.mark.parametrize(
    ("ttlg", "edge_scale", "gram_scale"),
    [({"gram_scale": 1.0}, 0.0, 1.0), ('{"gram_scale": 1.0}', 0.0, 1.0), ({"edge_scale": 2.0}, 2.0, 0.0)],
)
def test_guidance_without_edges(ttlg: Any, edge_scale: float, gram_scale: float) -> None:
    asked = request_of("qwen-edit", image="a", prompt="x", ttlg=ttlg)
    assert (asked.ttlg.edge_scale, asked.ttlg.gram_scale) == (edge_scale, gram_scale)


@pytest.mark.parametrize("ttlg", ["{", "3", [], 3])
def test_guidance_that_is_no_object(ttlg: Any) -> None:
    with pytest.raises(ValueError, match=r"ttlg|JSON object"):
        request_of("qwen-edit", image="a", prompt="x", ttlg=ttlg)


def test_with_edges_an_edit_follows_them() -> None:
    asked = request_of("qwen-edit", image="a", edges="b")
    assert (asked.prompt, asked.ttlg.edge_scale) == (DEFAULT_PROMPT, 1.0)
    again = type(asked).model_validate(asked.model_dump())
    assert again == asked, "as it is read from the database"
    alone = request_of("qwen-edit", image="a", prompt="x")
    assert type(alone).model_validate(alone.model_dump(mode="json")) == alone


async def test_an_edit_is_ordered_like_any_other_job(counter: Counter) -> None:
    counter.cluster.host_models({"qwen": Hosted("qwen-edit", limits={"steps": 20}, defaults={"steps": 4})})
    job = await counter.ordered("qwen", image=counter.first.id, prompt="at night", ttlg='{"lr": 0.5}')
    assert (job.model, job.main, job.params["steps"]) == ("qwen", "image", 4)
    assert job.params["models"] == {"guided-edit": "qwen"}
    assert (job.params["ttlg"]["lr"], job.params["ttlg"]["edge_scale"]) == (0.5, 0.0)
    assert job.media == {"image": counter.first.key}
    both = await counter.ordered("qwen", input_reference=counter.first.id, edges=counter.first.id)
    assert (both.media.keys(), both.params["ttlg"]["edge_scale"]) == ({"image", "edges"}, 1.0)
    with pytest.raises(InvalidParameter, match="prompt: field required if no edges are given"):
        await counter.ordered("qwen", image=counter.first.id)
    with pytest.raises(InvalidParameter, match="image: field required"):
        await counter.ordered("qwen", prompt="x")
    with pytest.raises(InvalidParameter, match="seconds: there is no such field"):
        await counter.ordered("qwen", image=counter.first.id, prompt="x", seconds=2)


async def test_an_edit_sees_three_pictures_at_most(counter: Counter) -> None:
    counter.cluster.host_models({"qwen": Hosted("qwen-edit")})
    first = counter.first.id
    two = await counter.ordered("qwen", image=first, prompt="x", references=[first, first])
    assert two.media.keys() == {"image", "references"}
    one = await counter.ordered("qwen", image=first, edges=first, references=first)
    assert one.media["references"] == counter.first.key
    for fields, message in (
        ({"references": [first] * 3}, "references: at most 2 beside image, got 3"),
        ({"references": [first] * 2, "edges": first}, "references: at most 1 beside image and edges, got 2"),
    ):
        with pytest.raises(LimitExceeded) as caught:
            await counter.ordered("qwen", image=first, prompt="x", **fields)
        assert (caught.value.message, caught.value.param) == (message, "references")


async def test_a_field_of_an_edit_that_cannot_be_read_is_named(counter: Counter) -> None:
    counter.cluster.host_models({"qwen": Hosted("qwen-edit")})
    for bad in ("{", "3", [1], 3):
        with pytest.raises(InvalidParameter, match="ttlg") as caught:
            await counter.ordered("qwen", image=counter.first.id, prompt="x", ttlg=bad)
        assert caught.value.param == "ttlg"


# The runs.


class Desk:
    """A store with jobs in it, a model that they are of, and what it takes to work on them."""

    def __init__(self, folder: Path, kind: str, service: object) -> None:
        self.kind = kind
        self.cluster = Cluster(folder).host_graphs("single")
        self.store = self.cluster.store
        self.artifacts = Artifacts(self.cluster.where)
        self.artifacts.put("files/image", encode_png(PICTURE))
        self.artifacts.put("files/edges", encode_png(EDGES))
        self.serve(service)

    def serve(self, service: object) -> None:
        self.cluster.host_models({self.kind: Hosted(self.kind, service)})

    def job(self, **fields: Any) -> tuple[Job, Lease]:
        media = {name: f"files/{name}" for name in fields.keys() & SINGLES[self.kind].request.MEDIA.keys()}
        seed = {"seed": 7} if "seed" in SINGLES[self.kind].request.model_fields else {}
        asked: SingleRequest = request_of(self.kind, **seed, **fields)
        said: dict[str, Any] = {"params": asked.model_dump(mode="json"), "media": media, "main": asked.main_variant}
        self.store.create_job(Job(id=make_id("video"), owner="", model=self.kind, created_at=time.time(), **said), 99)
        claimed = self.store.claim_job(60)
        assert claimed
        return claimed, Lease(claimed.id, claimed.fence)

    async def work(self, job: Job, lease: Lease, *, again: bool = False) -> Job:
        stored = self.store.get_job(job.id)
        handle, graph = self.cluster.served.find_graph(stored)
        attempt = Attempt(self.store, self.artifacts, MediaLimits(), stored, lease)
        await attempt.run(handle, graph, TRANSPORT, is_retry=again)
        return self.store.get_job(job.id)

    def picture(self, job: Job) -> bytes:
        return b"".join(self.artifacts.read(str(job.results["image"])))


FLUX_PICTURE: dict[str, Any] = {"prompt": "a fox"}
RESTYLED: dict[str, Any] = {"prompt": "ink", "image": "file_1"}
CASES = [("flux", "flux", FLUX_PICTURE), ("hunyuan-dit", "hunyuan-dit", RESTYLED)]


@pytest.mark.parametrize(("kind", "model", "fields"), CASES)
async def test_a_picture_is_what_the_model_made(tmp_path: Path, kind: str, model: str, fields: dict[str, Any]) -> None:
    studio = Studio()
    desk = Desk(tmp_path, kind, studio)
    done = await desk.work(*desk.job(**fields))
    assert (sorted(done.results), done.main) == (["image", "thumbnail"], "image")
    assert (done.width, done.height, done.frames_total) == (WIDTH, HEIGHT, None)
    assert done.facts["seed"] == 7
    (asked,) = studio.of(model)
    seen = b"" if kind == "flux" else PICTURE[None].tobytes()
    assert desk.picture(done) == encode_png(pixels_of(asked.model_dump(), seen)[0])
    (stage,) = desk.store.list_stages([done.id])[done.id]
    assert stage.model == model
    assert [event.data["variant"] for event in desk.store.list_events(done.id) if event.kind == "result"] == ["image"]


@pytest.mark.parametrize(("kind", "model", "fields"), CASES)
async def test_a_picture_that_is_there_is_not_made_again(
    tmp_path: Path, kind: str, model: str, fields: dict[str, Any]
) -> None:
    studio, after = Studio(), Studio()
    desk = Desk(tmp_path, kind, studio)
    job, lease = desk.job(**fields)
    made = desk.picture(await desk.work(job, lease))
    desk.serve(after)
    assert desk.picture(await desk.work(job, lease, again=True)) == made
    assert (studio.count(model), after.count(model), after.stopped) == (1, 0, [job.id])


@pytest.mark.parametrize(("kind", "model", "fields"), CASES)
async def test_a_model_that_is_lost_is_asked_again_for_the_same_picture(
    tmp_path: Path, kind: str, model: str, fields: dict[str, Any]
) -> None:
    broken, after = Studio({f"{model}:0": Gone()}), Studio()
    desk = Desk(tmp_path, kind, broken)
    job, lease = desk.job(**fields)
    with pytest.raises(ServiceLost):
        await desk.work(job, lease)
    desk.serve(after)
    done = await desk.work(job, lease, again=True)
    assert (after.of(model), after.stopped) == (broken.of(model), [job.id])
    assert sorted(done.results) == ["image", "thumbnail"]


@pytest.mark.parametrize("edges", [True, False])
async def test_an_edit_reaches_its_model_with_its_pictures(tmp_path: Path, edges: bool) -> None:
    service = EditService()
    desk = Desk(tmp_path, "qwen-edit", service)
    job, lease = desk.job(image="file_1", prompt="at night", steps=2, **({"edges": "file_2"} if edges else {}))
    done = await desk.work(job, lease)
    (asked,) = service.asked
    assert np.array_equal(asked.image.pixels[0], PICTURE)
    assert (asked.edges is not None, asked.first, asked.key) == (edges, None, job.id)
    assert asked.edges is None or np.array_equal(asked.edges.pixels[0], EDGES)
    assert (asked.request.prompt, asked.request.ttlg.edge_scale) == ("at night", 1.0 if edges else 0.0)
    frames = results(asked.request, asked.image, asked.edges, asked.image)[-1]
    assert isinstance(frames, Frames)
    assert desk.picture(done) == encode_png(frames.pixels[0])
    assert (done.progress, done.stage) == (1.0, "denoise")


async def test_references_of_any_size_reach_the_model(tmp_path: Path) -> None:
    service = EditService()
    desk = Desk(tmp_path, "qwen-edit", service)
    references = [noise(2, 20, 30), noise(3, 40, 16)]
    with zipfile.ZipFile(tmp_path / "artifacts" / "references.zip", "w") as archive:
        for index, pixels in enumerate(references):
            archive.writestr(f"{index:06}", encode_png(pixels))
    desk.artifacts.put("files/references", (tmp_path / "artifacts" / "references.zip").read_bytes())
    job, lease = desk.job(image="file_1", references="file_2", prompt="x", steps=2)
    await desk.work(job, lease)
    (asked,) = service.asked
    assert [np.array_equal(given.pixels[0], made) for given, made in zip(asked.references, references, strict=True)]
    assert [given.pixels.shape for given in asked.references] == [(1, 30, 20, 3), (1, 16, 40, 3)]
    assert np.array_equal(asked.image.pixels[0], PICTURE)


async def test_a_model_that_makes_nothing_has_failed(tmp_path: Path) -> None:
    desk = Desk(tmp_path, "qwen-edit", MuteService())
    job, lease = desk.job(image="file_1", prompt="x")
    with pytest.raises(ModelFailed, match="the graph produced no image"):
        await desk.work(job, lease)


async def test_a_picture_is_enlarged_once(tmp_path: Path) -> None:
    studio, after = Studio(), Studio()
    desk = Desk(tmp_path, "realesrgan", studio)
    asked = request_of("realesrgan", image="file_1", scale=2)
    said: dict[str, Any] = {"params": asked.model_dump(mode="json"), "media": {"image": "files/image"}, "main": "image"}
    desk.store.create_job(Job(id="video_1", owner="", model="realesrgan", created_at=1.0, **said), 9)
    job = desk.store.claim_job(60)
    assert job
    lease = Lease(job.id, job.fence)
    done = await desk.work(job, lease)
    assert (sorted(done.results), done.width, done.height) == (["image", "thumbnail"], 2 * WIDTH, 2 * HEIGHT)
    desk.serve(after)
    await desk.work(job, lease, again=True)
    assert (studio.count("realesrgan"), after.count("realesrgan")) == (1, 0)


def test_the_models_own_method_counts_wan_s_frames() -> None:
    assert SINGLES["wan"].request.set_duration(1.2, {}, 16)["num_frames"] == WanRequest.count_frames(1.2, 16) == 21
