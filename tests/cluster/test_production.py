"""The production configuration on a local Ray with pretended GPUs and miniatures; and graphs by handle on it."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray import serve
from ray.serve.schema import ServeDeploySchema

from clients.handles import Graphs, V2VRequest, WanI2VRequest
from composition.__main__ import deploy, read_config
from composition.app import AppSettings, build
from services.errors import ConfigError, NotFound, UndecodableMedia
from services.frames import Fact, Frames, Item, Progress, StageDone, Text
from services.worker import ServiceInfo
from tests.cluster.server import CLIP, ROOT, free_port, until

pytestmark = pytest.mark.cluster

SMALL: dict[str, Any] = {"num_frames": 9, "steps": 2, "max_area": 9216, "seed": 5}


@pytest.mark.parametrize("name", ["serve_config.yaml", "serve_config.local.yaml"])
def test_both_files_pass_rays_own_schema_and_ours(name: str) -> None:
    raw = yaml.safe_load((ROOT / name).read_text())
    schema = ServeDeploySchema.model_validate(raw)
    assert set(raw) <= set(ServeDeploySchema.model_fields), "Ray passes over a misspelled key in silence"
    settings = AppSettings.model_validate(schema.applications[0].args)
    named = {deployment.name for deployment in schema.applications[0].deployments}
    assert named == {"internvl", "wan", "v2v", "wan-i2v", "jobs", "ingress"}
    assert settings.wan.max_frames >= 121


def test_the_production_file_reserves_scales_drains_and_refuses() -> None:
    raw = yaml.safe_load((ROOT / "serve_config.yaml").read_text())["applications"][0]
    of = {deployment["name"]: deployment for deployment in raw["deployments"]}
    for model in ("internvl", "wan"):
        assert of[model]["ray_actor_options"]["num_gpus"] == 1
        assert of[model]["autoscaling_config"]["max_replicas"] > 1
        assert of[model]["max_queued_requests"] > 0
    assert of["wan"]["graceful_shutdown_timeout_s"] >= 3600
    assert of["ingress"]["backpressure_config"]["status_code"] == 429
    for weights in (raw["args"]["internvl"]["weights"], raw["args"]["wan"]["weights"]):
        assert re.fullmatch(r"[0-9a-f]{40}", weights["revision"])


def test_it_does_not_start_without_a_key(tmp_path: Path) -> None:
    raw = yaml.safe_load((ROOT / "serve_config.yaml").read_text())["applications"][0]["args"]
    with pytest.raises(ConfigError, match="reel keys create"):
        build(AppSettings.model_validate({**raw, "home": str(tmp_path)}))
    build(AppSettings.model_validate({**raw, "home": str(tmp_path), "auth": "none"}))


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    home = tmp_path_factory.mktemp("production")
    raw = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    args = raw["applications"][0]["args"]
    args |= {"home": str(home), "auth": "none"}
    args["internvl"]["weights"] = {"miniature": "tiny"}
    args["wan"] |= {"weights": {"miniature": "a14b"}, "offload": "none", "dtype": "float32"}
    file = home / "serve_config.yaml"
    file.write_text(yaml.safe_dump(raw))
    ray.init(namespace="serve", num_cpus=16, num_gpus=4, include_dashboard=False, log_to_driver=False)
    try:
        deploy(read_config(file, "127.0.0.1", free_port()))
        until(lambda: serve.status().applications["reelgraph"].status == "RUNNING", 240, "the deployment")
        yield
    finally:
        serve.shutdown()
        ray.shutdown()


def test_the_models_have_a_gpu_each(production: None) -> None:
    infos: dict[str, ServiceInfo] = {
        name: serve.get_deployment_handle(name, "reelgraph").info.remote().result() for name in ("internvl", "wan")
    }
    devices = {name: info.replica.rpartition("gpu=")[2] for name, info in infos.items()}
    assert devices["internvl"].isdecimal()
    assert devices["wan"].isdecimal()
    assert devices["internvl"] != devices["wan"]


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


async def test_errors_arrive_as_ours(production: None, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        await collected(Graphs().v2v(V2VRequest(input_video=str(tmp_path / "none.mp4"), **SMALL)))
    (tmp_path / "text.mp4").write_text("not a film")
    with pytest.raises(UndecodableMedia):
        await collected(Graphs().wan_i2v(WanI2VRequest(image=str(tmp_path / "text.mp4"), **SMALL)))


async def test_leaving_a_stream_stops_the_work(production: None) -> None:
    wan = serve.get_deployment_handle("wan", "reelgraph")
    long = {**SMALL, "steps": 100, "num_frames": 81, "max_area": 320 * 176}
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
