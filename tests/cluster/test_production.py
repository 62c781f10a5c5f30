"""The production configuration on a local Ray with pretended GPUs and random weights; and graphs by handle on it."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import yaml
from ray import serve
from ray.serve._private.build_app import build_app
from ray.serve.schema import ServeDeploySchema

from clients.handles import (
    AnimateRequest,
    FullPipelineRequest,
    Graphs,
    RollingEditRequest,
    V2VRequest,
    VideoUpscaleRequest,
    WanI2VRequest,
)
from composition.__main__ import deploy, narrow, read_config
from composition.app import PAINTERS, SERVICES, AppSettings, build
from composition.app import deployments_of as deployed_by
from services.errors import ConfigError, InvalidParameter, NotFound, UndecodableMedia
from services.frames import Fact, Frames, Item, Progress, Result, Scores, StageDone, Text
from services.worker import ServiceInfo
from tests.cluster.edges import clip, edges_of, png
from tests.cluster.server import CLIP, ROOT, free_port
from tests.waiting import until

pytestmark = pytest.mark.cluster

MODELS = {name.replace("-", "_") for name in SERVICES}
COMMENT = re.compile(r"^( +)# ( *(?:- |[a-z_]+:))", re.M)
"""A line of a configuration that is a comment; what is prose there does not begin with a key."""
SMALL: dict[str, Any] = {"num_frames": 9, "steps": 2, "max_area": 9216, "seed": 5}


@pytest.mark.parametrize("name", ["serve_config.yaml", "serve_config.local.yaml"])
@pytest.mark.parametrize("comments", [False, True])
def test_both_files_pass_rays_own_schema_and_ours(name: str, comments: bool) -> None:
    text = (ROOT / name).read_text()
    raw = yaml.safe_load(COMMENT.sub(r"\1\2", text) if comments else text)
    schema = ServeDeploySchema.model_validate(raw)
    assert set(raw) <= set(ServeDeploySchema.model_fields), "Ray passes over a misspelled key in silence"
    settings = AppSettings.model_validate(schema.applications[0].args)
    named = {deployment.name for deployment in schema.applications[0].deployments}
    assert named == deployed_by(settings)
    if comments:
        assert set(SERVICES) <= named, "both know every model"
    assert settings.wan
    assert settings.wan.max_frames >= 121


def test_the_production_file_reserves_scales_drains_and_refuses() -> None:
    raw = yaml.safe_load((ROOT / "serve_config.yaml").read_text())["applications"][0]
    of = {deployment["name"]: deployment for deployment in raw["deployments"]}
    for model in ("internvl", "wan", "qwen-edit", "flux", "svd", "realesrgan"):
        assert of[model]["ray_actor_options"]["num_gpus"] == 1
        assert of[model]["autoscaling_config"]["max_replicas"] > 1
        assert of[model]["max_queued_requests"] > 0
    assert of["wan"]["graceful_shutdown_timeout_s"] >= 3600
    assert of["ingress"]["backpressure_config"]["status_code"] == 429
    for model in ("internvl", "wan", "qwen_edit", "flux", "svd"):
        assert re.fullmatch(r"[0-9a-f]{40}", raw["args"][model]["weights"]["revision"])


def test_a_graph_is_there_when_its_models_are(tmp_path: Path) -> None:
    raw = yaml.safe_load((ROOT / "serve_config.yaml").read_text())["applications"][0]["args"]
    for models, names in (
        ({"wan"}, {"wan", "wan-i2v"}),
        ({"qwen_edit"}, {"qwen-edit", "rolling-edit"}),
        ({"internvl", "wan"}, {"internvl", "wan", "v2v", "wan-i2v"}),
        ({"svd"}, {"svd", "animate"}),
        ({"realesrgan"}, {"realesrgan", "upscale"}),
        ({"flux"}, {"flux", "full-pipeline"}),
        ({"flux", "svd"}, {"flux", "svd", "animate", "full-pipeline", "storyboard"}),
    ):
        kept = {name: value for name, value in raw.items() if name not in MODELS - models}
        settings = AppSettings.model_validate({**kept, "home": str(tmp_path), "auth": "none"})
        assert deployments_of(build(settings)) == names | {"jobs", "ingress"} == deployed_by(settings)
    with pytest.raises(ConfigError, match="name the models"):
        build(AppSettings.model_validate({"home": str(tmp_path), "auth": "none"}))


def test_text_to_video_can_make_the_scenes(tmp_path: Path) -> None:
    film = {"text_to_video": {"weights": {"path": str(tmp_path)}}, "home": str(tmp_path), "auth": "none"}
    settings = AppSettings.model_validate({**film, "scenes_by": "text-to-video"})
    names = {"text-to-video", "film", "storyboard", "jobs", "ingress"}
    assert deployments_of(build(settings)) == names == deployed_by(settings)


@pytest.mark.parametrize(
    ("only", "names"),
    [
        (["v2v"], {"internvl", "wan", "v2v", "wan-i2v"}),
        (["upscale"], None),
        (["storyboard", "realesrgan"], {"internvl", *PAINTERS, "full-pipeline", "storyboard", "animate", "upscale"}),
        (["instantid"], {"instantid"}),
    ],
)
def test_a_configuration_can_be_narrowed(only: list[str], names: set[str] | None) -> None:
    raw = yaml.safe_load((ROOT / "serve_config.local.yaml").read_text())
    if names is None:
        with pytest.raises(ConfigError, match="only: there is no 'upscale'; there are v2v, "):
            narrow(raw["applications"][0], only)
        return
    narrow(raw["applications"][0], only)
    schema = ServeDeploySchema.model_validate(raw)
    assert {deployment.name for deployment in schema.applications[0].deployments} == names | {"jobs", "ingress"}


def deployments_of(app: Any) -> set[str]:
    return {built.name for built in build_app(app, name="reelgraph").deployments}


def test_it_does_not_start_without_a_key(tmp_path: Path) -> None:
    raw = yaml.safe_load((ROOT / "serve_config.yaml").read_text())["applications"][0]["args"]
    with pytest.raises(ConfigError, match="reel keys create"):
        build(AppSettings.model_validate({**raw, "home": str(tmp_path)}))
    build(AppSettings.model_validate({**raw, "home": str(tmp_path), "auth": "none"}))


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory, untrained: dict[str, Any]) -> Iterator[None]:
    home = tmp_path_factory.mktemp("production")
    raw = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    args = raw["applications"][0]["args"]
    args |= {"home": str(home), "auth": "none"}
    for model in ("internvl", "wan", "qwen_edit", "flux", "svd"):
        args[model]["weights"] = untrained[model]["weights"]
    args["wan"] |= {"offload": "none", "dtype": "float32"}
    small = {"reference_area": 9216, "condition_area": 12544}
    args["qwen_edit"] |= {"dtype": "float32", **small}
    args["flux"]["dtype"] = "float32"
    args["svd"] |= {"variant": None, "dtype": "float32"}
    args["realesrgan"] = {"dtype": "float32"}
    file = home / "serve_config.yaml"
    file.write_text(yaml.safe_dump(raw))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OMP_NUM_THREADS", "1")  # Ray would give each model the threads of the cores it reserves
        ray.init(namespace="serve", num_cpus=32, num_gpus=7, include_dashboard=False, log_to_driver=False)
    try:
        deploy(read_config(file, "127.0.0.1", free_port()))
        until(lambda: serve.status().applications["reelgraph"].status == "RUNNING", 420, "the deployment")
        yield
    finally:
        serve.shutdown()
        ray.shutdown()


def test_the_models_have_a_gpu_each(production: None) -> None:
    infos: dict[str, ServiceInfo] = {
        name: serve.get_deployment_handle(name, "reelgraph").info.remote().result()
        for name in ("internvl", "wan", "qwen-edit", "flux", "svd", "realesrgan")
    }
    devices = [info.replica.rpartition("gpu=")[2] for info in infos.values()]
    assert all(device.isdecimal() for device in devices)
    assert len(set(devices)) == 6


async def collected(stream: Any) -> list[Item]:
    return [item async for item in stream]


async def test_a_graph_by_handle(production: None) -> None:
    items = await collected(Graphs().v2v(V2VRequest(input_video=str(CLIP), **SMALL)))
    runs = [item for item in items if isinstance(item, Frames)]
    assert [run.first for run in runs] == sorted(run.first for run in runs)
    assert sum(run.count for run in runs) == 9
    caption = next(item.value for item in items if isinstance(item, Fact) and item.name == "caption")
    assert "".join(item.piece for item in items if isinstance(item, Text)).strip() == caption
    assert [item.stage for item in items if isinstance(item, StageDone)] == ["describe", "generate"]


async def test_the_rolling_edit_by_handle(production: None, tmp_path: Path) -> None:
    (tmp_path / "edges").mkdir()
    frames = clip(4)
    (tmp_path / "first.png").write_bytes(png(frames[0]))
    for index, edge in enumerate(edges_of(frames[1:])):
        (tmp_path / "edges" / f"{index}.png").write_bytes(png(edge))
    request = RollingEditRequest(
        init_frame=str(tmp_path / "first.png"), edge_frames=str(tmp_path / "edges"), steps=2, seed=5
    )
    items = await collected(Graphs().rolling_edit(request))
    made = [item for item in items if isinstance(item, Frames)]
    assert [item.first for item in made] == [0, 1, 2, 3]
    assert np.array_equal(made[0].pixels[0], frames[0])
    scores = [item for item in items if isinstance(item, Scores)]
    assert [item.frame for item in scores] == [1, 2, 3]
    assert all(item.edge_loss and item.gram_loss is None and item.lpips_to_prev is None for item in scores)


async def test_a_picture_moves_and_is_enlarged_by_handle(production: None, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(clip(1)[0]))
    request = AnimateRequest(image=str(tmp_path / "a.png"), num_frames=6, steps=2, size="128x64", seed=5)
    items = await collected(Graphs().svd(request))
    made = [item for item in items if isinstance(item, Frames)]
    assert sum(item.count for item in made) == 6
    assert {item.pixels.shape[1:] for item in made} == {(64, 128, 3)}
    assert [item.stage for item in items if isinstance(item, StageDone)] == ["animate"]
    larger = await collected(Graphs().realesrgan(VideoUpscaleRequest(input_video=str(tmp_path / "a.png"), scale=2)))
    (frame,) = [item for item in larger if isinstance(item, Frames)]
    assert frame.pixels.shape == (1, 2 * clip(1)[0].shape[0], 2 * clip(1)[0].shape[1], 3)
    (done,) = [item for item in larger if isinstance(item, StageDone)]
    assert done.source == "realesr-animevideov3"


async def test_the_full_pipeline_by_handle(production: None) -> None:
    small = {"num_frames": 5, "steps": 2, "max_area": 64 * 64}
    fields = {"prompt": "a boat", "size": "64x64", "steps": 2, "seed": 5, "animate": small, "upscale": {"scale": 2}}
    items = await collected(Graphs().full_pipeline(FullPipelineRequest.model_validate(fields)))
    (picture,) = [item for item in items if isinstance(item, Result) and item.still]
    assert (picture.name, picture.frames.pixels.shape) == ("image", (1, 64, 64, 3))
    assert [item.first for item in items if isinstance(item, Frames)] == list(range(5))
    large = [item.frames for item in items if isinstance(item, Result) and item.name == "hd"]
    assert [(run.first, run.count, run.width) for run in large] == [(0, 4, 128), (4, 1, 128)]
    with pytest.raises(InvalidParameter, match="hunyuan-dit is not served here"):
        await collected(Graphs().full_pipeline(FullPipelineRequest.model_validate({**fields, "restyle": "ink"})))


async def test_errors_arrive_as_ours(production: None, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        await collected(Graphs().v2v(V2VRequest(input_video=str(tmp_path / "none.mp4"), **SMALL)))
    (tmp_path / "text.mp4").write_text("not a film")
    with pytest.raises(UndecodableMedia):
        await collected(Graphs().wan_i2v(WanI2VRequest(image=str(tmp_path / "text.mp4"), **SMALL)))


async def test_leaving_a_stream_stops_the_work(production: None) -> None:
    wan = serve.get_deployment_handle("wan", "reelgraph")
    long = {**SMALL, "steps": 100, "num_frames": 33, "max_area": 192 * 112}
    stream = Graphs().v2v(V2VRequest(input_video=str(CLIP), prompt="a meadow", **long))
    async for item in stream:
        if isinstance(item, Progress) and item.done >= 2:
            break
    assert (await wan.info.remote()).busy
    await stream.aclose()

    def idle() -> bool:
        return not wan.info.remote().result().busy

    await asyncio.to_thread(until, idle, 15.0, "an idle worker")
    items = await collected(Graphs().v2v(V2VRequest(input_video=str(CLIP), prompt="a meadow", **SMALL)))
    assert sum(item.count for item in items if isinstance(item, Frames)) == 9
