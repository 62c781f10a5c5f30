"""The runner and what is served: jobs of what is gone, of an older version, and of models that were chosen."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from composition.jobs.runner import JobRunner, RunnerSettings
from composition.media.encode import encode_png
from composition.records.artifacts import Artifacts
from composition.records.store import make_id
from composition.records.tables import Job
from services.errors import ModelFailed
from tests.composition.deployed import TRANSPORT, Cluster, Hosted
from tests.composition.rolling import Gone
from tests.composition.serving import noise
from tests.composition.studio import MODELS, Studio
from tests.composition.test_graph_host import WanService

PAINTED: dict[str, Any] = {"prompt": "a fox", "seed": 7, "animate": None, "upscale": None, "size": "32x16"}
"""A stored request of the full pipeline, as a version before models could be chosen has left it."""


class Line:
    """A cluster with a runner of its jobs."""

    def __init__(self, folder: Path, **models: Hosted) -> None:
        self.cluster = Cluster(folder)
        self.cluster.host_models({name.replace("_", "-"): hosted for name, hosted in models.items()})
        self.cluster.host_graphs("v2v", "full-pipeline", "storyboard", "single")
        self.store = self.cluster.store
        self.artifacts = Artifacts(self.cluster.where)
        self.artifacts.put("files/image", encode_png(noise(0, 32, 16)))

    @asynccontextmanager
    async def working(self, transport: Any = TRANSPORT) -> AsyncIterator[None]:
        settings = RunnerSettings(database=self.cluster.url, artifacts=self.cluster.where, poll_s=0.02, lease_s=30)
        runner = JobRunner(self.cluster.served.find_graph, ["storyboard"], settings, transport)
        try:
            yield
        finally:
            await runner.close()

    def order(self, model: str, params: dict[str, Any], media: tuple[str, ...] = (), main: str | None = None) -> Job:
        said: dict[str, Any] = {"params": params, "media": dict.fromkeys(media, "files/image"), "main": main}
        return self.store.create_job(Job(id=make_id("video"), owner="", model=model, created_at=time.time(), **said), 9)

    async def ended(self, job: Job) -> Job:
        async with asyncio.timeout(60):
            while not (now := await asyncio.to_thread(self.store.get_job, job.id)).has_ended:
                pass
        return now


# What is served no longer.


@pytest.mark.parametrize(
    ("model", "params", "message"),
    [
        ("rolling-edit", {}, "model: must be one of full-pipeline, flux, got 'rolling-edit'"),
        ("svd", {}, "model: must be one of full-pipeline, flux, got 'svd'"),
        ("v2v", {}, "model: v2v needs a model for describe, which is not served here"),
        (
            "full-pipeline",
            {**PAINTED, "models": {"text-to-image": "flux-2"}},
            "models.text-to-image: must be one of flux, got 'flux-2'",
        ),
    ],
)
async def test_a_job_of_what_is_no_longer_served_says_so(
    tmp_path: Path, model: str, params: dict[str, Any], message: str
) -> None:
    line = Line(tmp_path, flux=Hosted("flux", Studio()))
    async with line.working():
        gone, job = line.order(model, params), line.order("full-pipeline", PAINTED, main="image")
        failed = await line.ended(gone)
        assert (failed.status, failed.error_code, failed.attempts) == ("failed", "model_failed", 1)
        assert failed.error_message == f"the job can no longer be run: {message}"
        done = await line.ended(job)
        assert done.status == "completed", "others go on"


@pytest.mark.parametrize("application", ["models", "graphs"])
async def test_what_waited_over_a_restart_is_run_when_its_application_is_there(
    tmp_path: Path, application: str
) -> None:
    """One that is being built counts by what it has written down before, and has no deployment yet."""
    line = Line(tmp_path, flux=Hosted("flux", Studio()))
    cluster = line.cluster
    cluster.states[application], handle = "DEPLOYING", cluster.handles.pop(application)
    job = line.order("flux", {"prompt": "a fox", "seed": 1}, main="image")
    async with line.working():
        assert await asyncio.to_thread(cluster.refused.wait, 60)
        cluster.states[application], cluster.handles[application] = "HEALTHY", handle
        done = await line.ended(job)
    assert (done.status, done.error_message) == ("completed", None)


# What an older version has left.


@pytest.mark.parametrize(
    ("model", "params", "media", "main", "result"),
    [
        ("wan-i2v", {"image": "file_1", "last_image": None, "num_frames": 5, "steps": 2}, ("image",), None, "video"),
        ("svd", {"image": "file_1", "num_frames": 5, "steps": 2, "seed": 1}, ("image",), None, "video"),
        ("realesrgan", {"image": "file_1", "input_video": None, "scale": 2}, ("image",), "image", "image"),
        ("full-pipeline", PAINTED, (), "image", "image"),
    ],
)
async def test_a_job_of_an_older_version_is_run(
    tmp_path: Path, model: str, params: dict[str, Any], media: tuple[str, ...], main: str | None, result: str
) -> None:
    studio = Studio()
    hosted = {kind.replace("-", "_"): Hosted(kind, studio) for kind in MODELS}
    line = Line(tmp_path, wan_5b=Hosted("wan", WanService()), **hosted)
    async with line.working():
        done = await line.ended(line.order(model, params, media, main))
    assert (done.status, done.error_message) == ("completed", None)
    assert result in done.results
    assert "models" not in done.params


async def test_an_older_storyboard_makes_its_scenes_by_what_is_served(tmp_path: Path) -> None:
    hosted = {kind.replace("-", "_"): Hosted(kind, Studio()) for kind in ("flux", "svd")}
    line = Line(tmp_path, **hosted)
    scenes = [{"scene_number": 1, "description": "a fox", "duration": 0.5}]
    params = {"script": {"scenes": scenes}, "seed": 7, "animate": {"num_frames": 3}, "upscale": None}
    async with line.working():
        done = await line.ended(line.order("storyboard", params))
    assert (done.status, done.error_message) == ("completed", None)
    (scene,) = line.store.list_children([done.id])[done.id]
    assert scene.params["models"] == {"text-to-image": "flux", "image-to-video": "svd"}


# Models that were chosen.


async def test_a_storyboard_s_scenes_are_made_by_the_models_that_it_chose(tmp_path: Path) -> None:
    schnell, dev, studio = Studio(), Studio(), Studio()
    line = Line(tmp_path, schnell=Hosted("flux", schnell), dev=Hosted("flux", dev), svd=Hosted("svd", studio))
    scenes = [{"scene_number": n, "description": "a fox", "duration": 0.5} for n in (1, 2)]
    params = {"script": {"scenes": scenes}, "seed": 7, "animate": {"num_frames": 3}, "upscale": None}
    async with line.working():
        done = await line.ended(line.order("storyboard", {**params, "models": {"text-to-image": "dev"}}))
        assert (done.status, done.error_message) == ("completed", None)
    children = line.store.list_children([done.id])[done.id]
    assert [child.params["models"] for child in children] == [{"text-to-image": "dev", "image-to-video": "svd"}] * 2
    assert (schnell.count("flux"), dev.count("flux"), studio.count("svd")) == (0, 2, 2)


async def test_a_job_goes_on_at_the_model_that_it_began_with(tmp_path: Path) -> None:
    """What is served first may be another one when the job is run again."""
    first, lost = Studio(), Studio({"flux:0": Gone()})
    line = Line(tmp_path, dev=Hosted("flux", lost), schnell=Hosted("flux", first))
    params = {**PAINTED, "models": {"text-to-image": "dev"}}
    async with line.working():
        done = await line.ended(line.order("full-pipeline", params, main="image"))
    assert (done.status, done.error_message) == ("completed", None)
    assert (first.count("flux"), lost.count("flux"), lost.stopped) == (0, 2, [done.id])


async def test_a_model_s_own_error_ends_the_job(tmp_path: Path) -> None:
    line = Line(tmp_path, flux=Hosted("flux", Studio({"flux:0": ModelFailed("no memory")})))
    async with line.working():
        done = await line.ended(line.order("flux", {"prompt": "a fox", "seed": 1}, main="image"))
    assert (done.status, done.error_message) == ("failed", "no memory")


async def test_a_storyboard_s_scenes_are_encoded_as_it_is(tmp_path: Path) -> None:
    hosted = {kind.replace("-", "_"): Hosted(kind, Studio()) for kind in ("flux", "svd")}
    line = Line(tmp_path, **hosted)
    scenes = [{"scene_number": 1, "description": "a fox", "duration": 0.5}]
    params = {"script": {"scenes": scenes}, "seed": 7, "animate": {"num_frames": 3}, "upscale": None}
    async with line.working():
        done = await line.ended(line.order("storyboard", {**params, "encoding": {"codec": "av1", "crf": 30}}))
    assert (done.status, done.error_message) == ("completed", None)
    (scene,) = line.store.list_children([done.id])[done.id]
    assert (scene.params["encoding"]["codec"], scene.params["encoding"]["crf"]) == ("av1", 30)
    assert [video.videos and video.videos["video"]["codec"] for video in (scene, done)] == ["av1", "av1"]
