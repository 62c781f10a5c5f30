"""The storyboard with a runner of jobs, without Ray: scenes as jobs, a writer that may write nonsense, lost scenes."""

import asyncio
import io
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from pydantic import ValidationError

from composition.graphs.calls import Models
from composition.graphs.run import GraphSettings
from composition.graphs.storyboard.graph import Storyboard
from composition.graphs.storyboard.request import FILM, StoryboardRequest
from composition.graphs.storyboard.scenes import FilmModel, StoryboardPlan, count_scene_frames, make_scene_job
from composition.graphs.storyboard.script import Scene, Script
from composition.jobs.runner import JobRunner, RunnerSettings
from composition.records.artifacts import Artifacts, ArtifactSettings
from composition.records.store import make_id
from composition.records.tables import Job
from services.errors import InvalidParameter, LimitExceeded, ModelFailed
from services.frames import Frames, Item, Progress, StageDone, Text
from services.internvl.request import DescribeRequest
from services.text_to_video.request import TextToVideoRequest
from services.wan.request import WanTextRequest
from tests.composition.deployed import TRANSPORT, Cluster, Hosted
from tests.composition.studio import MODELS, Studio, done, pixels_of
from tests.waiting import until

SHOT: dict[str, Any] = {"seed": 7, "animate": {"num_frames": 6}, "upscale": False}


class Writer:
    """InternVL's place: answers in turn what it is told to.

    Args:
        answers: to questions for a script; one that is an error is raised.
    """

    def __init__(self, *answers: str | Exception) -> None:
        self._answers = list(answers)
        self.asked: list[DescribeRequest] = []
        self.stopped: list[str] = []

    async def describe(self, request: DescribeRequest, frames: None = None, key: str = "") -> AsyncGenerator[Item]:
        self.asked.append(request)
        yield Progress("describe", 0, request.max_new_tokens)
        if "makes pictures of texts" in request.prompt:
            answer: str | Exception = f"a picture of {len(self.asked)}"
        else:
            answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        for piece in (answer[:5], answer[5:]):
            yield Text("describe", piece)
        yield StageDone("describe", "internvl", "nowhere", "", "internvl#0", 0.5)

    async def stop(self, key: str) -> None:
        self.stopped.append(key)


def script(*durations: float, **first: Any) -> dict[str, Any]:
    scenes: list[dict[str, Any]] = [
        {"scene_number": n, "description": f"a fox {n}", "duration": s} for n, s in enumerate(durations, 1)
    ]
    scenes[0].update(first)
    return {"title": "The fox", "scenes": scenes}


class Set:
    """What serves storyboards and their scenes, and a runner of both."""

    def __init__(self, folder: Path, studio: Studio | None = None, writer: Writer | None = None) -> None:
        self.studio = studio or Studio()
        services: dict[str, object] = dict.fromkeys(MODELS, self.studio)
        if writer is not None:
            services["internvl"] = writer
        self.cluster = Cluster(folder)
        self.cluster.host_models({kind: Hosted(kind, service) for kind, service in services.items()})
        self.cluster.host_graphs("storyboard", "full-pipeline")
        self.store = self.cluster.store
        self.artifacts = Artifacts(self.cluster.where)

    @asynccontextmanager
    async def working(self, concurrency: int = 1) -> AsyncIterator[None]:
        settings = RunnerSettings(
            database=self.cluster.url, artifacts=self.cluster.where, concurrency=concurrency, poll_s=0.02, lease_s=30
        )
        runner = JobRunner(self.cluster.served.find_graph, ["storyboard"], settings, TRANSPORT)
        try:
            yield
        finally:
            await runner.close()

    def ordered(self, media: Mapping[str, str] | None = None, **fields: Any) -> Job:
        asked = StoryboardRequest.model_validate({**SHOT, **fields})
        said: dict[str, Any] = {
            "params": asked.model_dump(mode="json"),
            "media": dict(media or {}),
            "created_at": time.time(),
        }
        return self.store.create_job(Job(id=make_id("video"), owner="ann", model="storyboard", **said), 99)

    async def ended(self, job: Job) -> Job:
        def ask() -> Job | None:
            return now if (now := self.store.get_job(job.id)).has_ended else None

        return await asyncio.to_thread(until, ask, 60, f"the end of {job.id}", 0.01)

    def video(self, job: Job) -> bytes:
        return b"".join(self.artifacts.read(str(self.store.get_job(job.id).results["video"])))


def count(data: bytes) -> int:
    with av.open(io.BytesIO(data), "r") as container:
        return sum(1 for _ in container.decode(video=0))


async def test_a_runner_with_one_place_makes_the_scenes_beside_the_film(tmp_path: Path) -> None:
    stage = Set(tmp_path)
    async with stage.working():
        films = [stage.ordered(script=script(1, 0.5, 2)) for _ in range(2)]
        done = [await stage.ended(film) for film in films]
    assert [film.status for film in done] == ["completed", "completed"]
    assert stage.video(films[0]) == stage.video(films[1]), "the same seed, the same film"
    assert count(stage.video(films[0])) == done[0].frames_done == done[0].frames_total == 6 + 3 + 12
    scenes = stage.store.list_children([films[0].id])[films[0].id]
    assert [scene.params["prompt"] for scene in scenes] == ["a fox 1", "a fox 2", "a fox 3"]
    assert [scene.params["seed"] for scene in scenes] == [7, 8, 9]
    assert [scene.params["animate"]["num_frames"] for scene in scenes] == [6, 3, 6], "the longest is shown slower"
    assert done[0].facts["script_source"] == "request"


class Films(Studio):
    """Text-to-video's place."""

    async def generate_video(self, request: TextToVideoRequest, start: int = 0, key: str = "") -> AsyncGenerator[Item]:
        self._enter("text-to-video", request)
        pixels = pixels_of(request.model_dump(), count=request.num_frames)
        yield Frames(np.ascontiguousarray(pixels[start:]), start, Fraction(request.fps))
        yield done("film", "text-to-video")


async def test_scenes_of_text_to_video_are_jobs_of_that_model(tmp_path: Path) -> None:
    films = Films()
    stage = Set(tmp_path)
    stage.cluster.host_models(
        {name: Hosted("text-to-video", films, defaults={"steps": 3, "num_frames": 8}) for name in ("films", "more")}
    )
    stage.cluster.host_graphs("single", storyboard={"scenes_by": "text-to-video", "roles": {"text-to-video": "more"}})
    async with stage.working():
        film = await stage.ended(stage.ordered(script=script(1, 0.5), upscale=None))
    assert (film.status, film.error_message) == ("completed", None)
    scenes = stage.store.list_children([film.id])[film.id]
    assert {scene.model for scene in scenes} == {"more"}
    assert [scene.params["models"] for scene in scenes] == [{"text-to-video": "more"}] * 2
    assert [(asked.steps, asked.num_frames, asked.fps) for asked in films.of("text-to-video")] == [(3, 6, 6), (3, 3, 6)]
    assert count(stage.video(film)) == film.frames_total == 6 + 3


class WanFilms(Studio):
    """The place of a Wan that generates videos from prompts."""

    async def generate_video(self, request: WanTextRequest, start: int = 0, key: str = "") -> AsyncGenerator[Item]:
        self._enter("text-to-video", request)
        pixels = pixels_of(request.model_dump(), count=request.num_frames)
        yield Frames(np.ascontiguousarray(pixels[start:]), start, Fraction(16))
        yield done("generate", "wan")


async def test_scenes_of_wan_have_its_lengths_and_rate(tmp_path: Path) -> None:
    films = WanFilms()
    stage = Set(tmp_path)
    wan = Hosted("wan", films, defaults={"steps": 3, "num_frames": 21, "fit": "crop"}, rate=16, roles=[FILM])
    stage.cluster.host_models({"films": Hosted("text-to-video", Films()), "wan": wan})
    stage.cluster.host_graphs("single", storyboard={"scenes_by": "text-to-video"})
    async with stage.working():
        film = await stage.ended(stage.ordered(script=script(1, 0.5, 2), upscale=None, models={FILM: "wan"}))
    assert (film.status, film.error_message) == ("completed", None)
    scenes = stage.store.list_children([film.id])[film.id]
    assert {scene.model for scene in scenes} == {"wan"}
    assert [scene.params["models"] for scene in scenes] == [{FILM: "wan"}] * 3
    assert [(asked.steps, asked.num_frames) for asked in films.of(FILM)] == [(3, 17), (3, 9), (3, 21)], "4k + 1"
    assert all(isinstance(asked, WanTextRequest) for asked in films.of(FILM))
    assert count(stage.video(film)) == film.frames_total == 6 + 3 + 12


@pytest.mark.parametrize(
    ("answers", "source", "told"),
    [
        ([json.dumps(script(1, 1))], "model", "a fox 1"),
        (["no JSON at all", json.dumps(script(1, 1))], "model, repaired", "a fox 1"),
        (["```json\n{", '{"title": "x", "scenes": []}'], "sentences", "It sails."),
        ([json.dumps(script(1, 1, face="file_x")), json.dumps(script(1e6, 1))], "sentences", "It sails."),
        ([LimitExceeded("prompt: too long for the model's context")], "sentences", "It sails."),
    ],
)
async def test_what_the_writer_writes_is_checked(
    tmp_path: Path, answers: list[str | Exception], source: str, told: str
) -> None:
    writer = Writer(*answers)
    stage = Set(tmp_path, writer=writer)
    async with stage.working(2):
        film = await stage.ended(stage.ordered(topic="It sails. It sinks.", scenes=2, scene_s=1))
    assert film.status == "completed", film.error_message
    assert film.facts["script_source"] == source
    written = Script.model_validate_json(film.facts["script"])
    assert written.scenes[0].description == told
    assert ("script_refused" in film.facts) == (source != "model")
    scenes = stage.store.list_children([film.id])[film.id]
    assert all(scene.params["prompt"].startswith("a picture of ") for scene in scenes)
    assert json.loads(film.facts["prompts"]) == [scene.params["prompt"] for scene in scenes]
    if source == "model, repaired":
        assert "no JSON at all" in writer.asked[1].prompt


async def test_without_a_writer_the_topic_is_split(tmp_path: Path) -> None:
    stage = Set(tmp_path)
    async with stage.working():
        film = await stage.ended(stage.ordered(topic="It sails. It sinks.", scene_s=0.5))
    assert film.facts["script_source"] == "sentences"
    assert [scene.params["prompt"] for scene in stage.store.list_children([film.id])[film.id]] == [
        "It sails.",
        "It sinks.",
    ]


async def test_a_lost_scene_is_a_card(tmp_path: Path) -> None:
    stage = Set(tmp_path, Studio({"flux:0": ModelFailed("no memory")}))
    async with stage.working():
        film = await stage.ended(stage.ordered(script=script(1, 1), crossfade_s=0.5, interpolate=2))
        assert film.status == "completed"
        assert (film.facts["placeholders"], film.degraded) == ("1", "scene 1 is a placeholder: no memory")
        assert count(stage.video(film)) == 12 + 12 - 6
        other = await stage.ended(stage.ordered(script=script(1, 1)))
        assert other.degraded is None


async def test_a_lost_scene_can_be_the_end(tmp_path: Path) -> None:
    stage = Set(tmp_path, Studio({"flux:1": ModelFailed("no memory")}))
    async with stage.working():
        film = await stage.ended(stage.ordered(script=script(1, 1, 1), fallback="error"))
        assert (film.status, film.error_message) == ("failed", "scene 2: no memory")
        kept = stage.store.list_children([film.id])[film.id][0]
        assert kept.status == "completed"


async def test_when_no_scene_can_be_made_it_has_failed(tmp_path: Path) -> None:
    stage = Set(tmp_path, Studio({f"flux:{n}": ModelFailed("no memory") for n in range(2)}))
    async with stage.working():
        film = await stage.ended(stage.ordered(script=script(1, 1)))
    assert (film.status, film.error_message) == ("failed", "all scenes failed; scene 1: no memory")


async def test_a_scene_that_was_deleted_is_lost(tmp_path: Path) -> None:
    stage = Set(tmp_path)
    film = stage.ordered(script=script(1, 1))
    asked = StoryboardRequest.model_validate(film.params)
    assert asked.script
    board = StoryboardPlan(asked, film, asked.script, ["a", "b"], 7)
    second = stage.store.create_child(make_scene_job(board, asked.script.scenes[1], 1, FilmModel()))
    stage.store.stop_job(second.id, "ann", delete_it=True)
    async with stage.working():
        done = await stage.ended(film)
    assert done.status == "completed"
    assert "scene 2 is a placeholder" in str(done.degraded)


async def test_two_films_at_once_are_the_same(tmp_path: Path) -> None:
    stage = Set(tmp_path)
    films = [stage.ordered(script=script(1, 1, 1)) for _ in range(2)]
    async with stage.working(2):
        one, other = [await stage.ended(film) for film in films]
    assert stage.video(one) == stage.video(other)
    assert stage.studio.count("flux") == 6, "each paints its own"


async def test_by_handle_it_says_how_to_ask(tmp_path: Path) -> None:
    where = ArtifactSettings(url=str(tmp_path / "artifacts"))
    settings = GraphSettings(artifacts=where, database=f"sqlite:///{tmp_path / 'store.db'}")
    graph = Storyboard(Models({}), settings, TRANSPORT)
    with pytest.raises(InvalidParameter, match="request it over HTTP"):
        async for _ in graph.run(StoryboardRequest(script=Script.model_validate(script(1)))):
            pass


PICTURES = {"text-to-image": "flux", "image-to-video": "svd"}
"""The models without which there are no scenes, by their roles."""


def board(models: Mapping[str, str] = PICTURES, **fields: Any) -> StoryboardPlan:
    asked = StoryboardRequest.model_validate({**SHOT, "script": script(1), "models": models, **fields})
    assert asked.script
    parent = Job(id="video_p", owner="ann", params={"face": "file_f"}, media={"face": "files/f"}, created_at=1.0)
    return StoryboardPlan(asked, parent, asked.script, ["a fox"], 7)


def test_what_a_scene_says_stands_before_what_all_say() -> None:
    said: dict[str, Any] = {"loras": ["oil"], "restyle": "oil", "face": "file_f"}
    said["script"] = script(1, style="ink", lora=["snow:0.5"], face="file_s")
    told = board(**said)
    told.parent.media["script.scenes.1.face"] = "files/s"
    scene = told.script.scenes[0]
    job = make_scene_job(told, scene, 0, FilmModel())
    assert (job.params["face"], job.media) == ("file_s", {"face": "files/s"})
    assert [lora["name"] for lora in job.params["loras"]] == ["snow"]
    assert job.params["prompt"] == "a fox, ink", "nothing that could restyle is served"
    restyling = board({**PICTURES, "restyle": "hunyuan-dit"}, **said)
    styled = make_scene_job(restyling, scene, 0, FilmModel())
    assert (styled.params["restyle"]["prompt"], styled.params["prompt"]) == ("ink", "a fox")
    assert styled.id == job.id, "the same scene of the same film"


def test_a_pose_is_that_of_every_scene_with_a_face() -> None:
    told = board(face="file_f", face_pose="file_p")
    told.parent.params["face_pose"], told.parent.media["face_pose"] = "file_p", "files/p"
    job = make_scene_job(told, told.script.scenes[0], 0, FilmModel())
    assert (job.params["face_pose"], job.media) == ("file_p", {"face": "files/f", "face_pose": "files/p"})
    faces = board(
        face_pose="file_p", script={"scenes": [*script(1, face="file_s")["scenes"], *script(2)["scenes"][1:]]}
    )
    del faces.parent.media["face"]
    faces.parent.params["face_pose"], faces.parent.media["face_pose"] = "file_p", "files/p"
    faces.parent.media["script.scenes.1.face"] = "files/s"
    jobs = [make_scene_job(faces, scene, index, FilmModel()) for index, scene in enumerate(faces.script.scenes[:1])]
    assert [job.params["face_pose"] for job in jobs] == ["file_p"]


def test_text_to_video_in_place_of_pictures() -> None:
    film = {"text-to-video": "films"}
    told = board(film, script=script(1, style="ink"))
    job = make_scene_job(told, told.script.scenes[0], 0, FilmModel(defaults={"steps": 3}))
    assert (job.model, job.params["prompt"], job.params["steps"], job.params["num_frames"]) == (
        "films", "a fox, ink", 3, 6,
    )  # fmt: skip
    for fields in ({"loras": ["a"]}, {"restyle": "ink"}, {"script": script(1, lora="a")}):
        told = board(film, **fields)
        with pytest.raises(InvalidParameter, match="a text-to-video model makes the scenes here"):
            make_scene_job(told, told.script.scenes[0], 0, FilmModel())


def test_a_scene_is_made_by_the_models_of_its_film() -> None:
    told = board({**PICTURES, "text-to-image": "flux-2", "describe": "internvl"})
    job = make_scene_job(told, told.script.scenes[0], 0, FilmModel())
    assert job.params["models"] == {"text-to-image": "flux-2", "image-to-video": "svd"}, "the writer makes no scene"
    film = board({"text-to-video": "films", "describe": "internvl"})
    assert make_scene_job(film, film.script.scenes[0], 0, FilmModel()).params["models"] == {"text-to-video": "films"}


def test_a_scene_has_the_frames_that_its_time_needs() -> None:
    def scene(duration: float) -> Scene:
        return Scene(scene_number=1, description="x", duration=duration)

    assert [count_scene_frames(scene(s), 6, 25) for s in (0.01, 1, 1.01, 60)] == [2, 6, 7, 25]
    told = board(script=script(1, 2), interpolate=3, crossfade_s=0.5)
    assert (told.rate, told.frames) == (Fraction(18), 18 + 36 - 9)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "give either this or topic"),
        ({"script": script(1), "topic": "x"}, "give either this or topic"),
        ({"topic": " "}, "blank"),
        ({"topic": "x" * 5000}, "4000"),
        ({"script": {"scenes": []}}, "1 to 100 scenes"),
        ({"script": script(1), "animate": "false"}, "cannot be turned off"),
        ({"script": script(1), "scenes": 3}, "only valid with topic"),
        ({"script": script(1), "crossfade_s": float("nan")}, "finite"),
    ],
)
def test_what_cannot_be(fields: dict[str, Any], words: str) -> None:
    with pytest.raises((ValidationError, InvalidParameter), match=words):
        StoryboardRequest.model_validate(fields)
