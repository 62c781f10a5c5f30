"""Graphs and models by handle: which application is found, what is called there, and what a real Ray makes of it."""

from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from PIL import Image
from ray import serve

from composition.app import graphs as host_graphs
from composition.app import models as host_models
from composition.configuration.settings import GraphsSettings, ModelsSettings
from reelgraph.handles import (
    AnimateRequest,
    FilmRequest,
    FullPipelineRequest,
    Graphs,
    RollingEditRequest,
    V2VRequest,
    VideoUpscaleRequest,
    WanI2VRequest,
)
from services.errors import InvalidParameter, NotFound
from services.frames import Item, Progress, Result, StageDone

PRODUCTION = ("wan", "v2v", "rolling-edit", "full-pipeline", "single", "jobs", "front")
LOCAL = ("models", "graphs", "jobs", "front")
V2V = V2VRequest(input_video="in.mp4", models={"image-to-video": "wan-5b"})
STEPS = 3


@dataclass
class Call:
    """A streaming call: what was asked of which application, and whether it was cancelled."""

    application: str
    name: str
    method: str
    request: Any
    cancelled: bool = False

    async def __aiter__(self) -> AsyncGenerator[Item]:
        if self.name == "lost":
            raise InvalidParameter("model: there is no 'lost'", param="model")
        for step in range(STEPS):
            yield Progress("denoise", step, STEPS)

    def cancel(self) -> None:
        self.cancelled = True


class Cluster:
    """Applications, of which each has one deployment."""

    def __init__(self, applications: Sequence[str]) -> None:
        self.calls: list[Call] = []
        self.graphs = Graphs(lambda: dict.fromkeys(applications, "HEALTHY"), lambda name: Handle(self, name))

    @property
    def asked(self) -> list[tuple[str, str]]:
        """The applications that were called, each with the name of what is to be run."""
        return [(call.application, call.name) for call in self.calls]


@dataclass(frozen=True)
class Handle:
    """Stands for a `DeploymentHandle`."""

    cluster: Cluster
    application: str

    def options(self, *, method_name: str, stream: bool, _by_reference: bool) -> "Handle":
        assert (method_name, stream) == ("stream", True), "a host has one method, which streams"
        assert _by_reference, "by value, a frame is too large for one of Ray's messages"
        return self

    def remote(self, name: str, method: str, request: Any) -> Call:
        call = Call(self.application, name, method, request)
        self.cluster.calls.append(call)
        return call


async def collected(stream: AsyncGenerator[Item]) -> list[Item]:
    return [item async for item in stream]


@pytest.mark.parametrize(
    ("method", "request_", "name", "own"),
    [
        ("v2v", V2V, "v2v", "v2v"),
        ("rolling_edit", RollingEditRequest(rgb_video="in.mp4"), "rolling-edit", "rolling-edit"),
        ("full_pipeline", FullPipelineRequest(prompt="a fox"), "full-pipeline", "full-pipeline"),
        ("wan_i2v", WanI2VRequest(image="a.png", last_image="b.png", steps=4), "wan-i2v", "single"),
        ("svd", AnimateRequest(image="a.png", motion_bucket_id=9), "svd", "single"),
        ("realesrgan", VideoUpscaleRequest(input_video="in.mp4", scale=2), "realesrgan", "single"),
        ("text_to_video", FilmRequest(prompt="a fox"), "text-to-video", "single"),
    ],
)
async def test_each_is_asked_of_the_application_that_runs_it(method: str, request_: Any, name: str, own: str) -> None:
    for applications, application in ((PRODUCTION, own), (LOCAL, "graphs"), ((*LOCAL, own), own)):
        cluster = Cluster(applications)
        items = await collected(getattr(cluster.graphs, method)(request_))
        assert [item.done for item in items if isinstance(item, Progress)] == list(range(STEPS))
        assert cluster.calls == [Call(application, name, "run", request_, cancelled=True)]


async def test_any_graph_or_model_is_asked_by_its_name() -> None:
    cluster = Cluster(PRODUCTION)
    await collected(cluster.graphs.run("v2v", V2V))
    await collected(cluster.graphs.run("wan-5b", WanI2VRequest(image="a.png")))
    assert cluster.asked == [("v2v", "v2v"), ("single", "wan-5b")]


async def test_what_runs_nowhere_is_not_found() -> None:
    with pytest.raises(NotFound, match=r"v2v is run by an application named v2v or graphs; .* are models, front$"):
        await collected(Cluster(["models", "front"]).graphs.v2v(V2V))
    with pytest.raises(NotFound, match=r"svd is run by an application named single or graphs; .* are none$"):
        await collected(Cluster([]).graphs.svd(AnimateRequest(image="a.png")))


async def test_errors_arrive_as_they_are() -> None:
    with pytest.raises(InvalidParameter, match="there is no 'lost'"):
        await collected(Cluster(LOCAL).graphs.run("lost", V2V))


async def test_leaving_a_stream_stops_the_work() -> None:
    cluster = Cluster(LOCAL)
    stream = cluster.graphs.v2v(V2V)
    await anext(stream)
    (call,) = cluster.calls
    assert not call.cancelled
    await stream.aclose()
    assert call.cancelled


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Ray that serves Real-ESRGAN, whose weights are a part of the project, and the folder of its state."""
    home = tmp_path_factory.mktemp("handles")
    ray.init(namespace="serve", num_cpus=8, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(proxy_location="Disabled")
        models = {"home": home, "models": {"large": {"kind": "realesrgan", "dtype": "float32"}}}
        serve.run(host_models(ModelsSettings.model_validate(models)), name="large", route_prefix=None)
        yield home
    finally:
        serve.shutdown()
        ray.shutdown()


@pytest.mark.cluster
@pytest.mark.parametrize(("application", "hosted"), [("single", ["single"]), ("graphs", ["v2v", "single"])])
async def test_a_real_ray_runs_a_model_alone(cluster: Path, application: str, hosted: list[str]) -> None:
    settings = {"home": cluster, "application": application, "graphs": {name: {} for name in hosted}}
    Image.new("RGB", (64, 32), "red").save(cluster / "a.png")
    serve.run(host_graphs(GraphsSettings.model_validate(settings)), name=application, route_prefix=None)
    try:
        items = await collected(Graphs().run("large", VideoUpscaleRequest(image=str(cluster / "a.png"), scale=2)))
        (result,) = [item for item in items if isinstance(item, Result)]
        assert (result.name, result.still, result.frames.pixels.shape) == ("image", True, (1, 64, 128, 3))
        assert [item.model for item in items if isinstance(item, StageDone)] == ["large"]
        with pytest.raises(InvalidParameter, match="must be one of large, got 'realesrgan'"):
            await collected(Graphs().realesrgan(VideoUpscaleRequest(image=str(cluster / "a.png"))))
    finally:
        serve.delete(application)
