"""The production configuration on a local Ray with simulated GPUs and random weights, and graphs called by handle."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import yaml
from ray import serve

from composition.configuration.file import read_configuration
from composition.server.deploying import deploy
from reelgraph.handles import (
    AnimateRequest,
    FullPipelineRequest,
    Graphs,
    RollingEditRequest,
    V2VRequest,
    VideoUpscaleRequest,
    WanI2VRequest,
)
from services.errors import InvalidParameter, NotFound, UndecodableMedia
from services.frames import Fact, Frames, Item, Progress, Result, Scores, StageDone, Text
from services.worker import ServiceInfo
from tests.cluster.edges import draw_edges, encode_png, read_clip
from tests.cluster.server import CLIP, ROOT, free_port
from tests.waiting import until

pytestmark = pytest.mark.cluster

SMALL_MODELS: dict[str, dict[str, Any]] = {
    "wan": {"offload": "none"},
    "qwen-edit": {"reference_area": 9216, "condition_area": 12544},
    "svd": {"variant": None},
}
"""Settings that make the models of the production file small."""
SMALL: dict[str, Any] = {"num_frames": 9, "steps": 2, "max_area": 9216, "seed": 5}


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory, untrained: dict[str, Any]) -> Iterator[None]:
    home = tmp_path_factory.mktemp("production")
    raw = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    for application in raw["applications"]:
        args = application["args"]
        args |= {"home": str(home)} | ({"auth": "none"} if application["name"] == "front" else {})
        for name, entry in args.get("models", {}).items():
            small = {"weights": untrained[name]["weights"]} if "weights" in untrained[name] else {}
            args["models"][name] = {**entry, "dtype": "float32", **small, **SMALL_MODELS.get(name, {})}
    file = home / "serve_config.yaml"
    file.write_text(yaml.safe_dump(raw))
    names = {application["name"] for application in raw["applications"]}
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OMP_NUM_THREADS", "1")  # else Ray gives a model one thread per core
        ray.init(
            "local",
            namespace="serve",
            num_cpus=40,
            num_gpus=7,
            _memory=400_000_000_000,  # what the file reserves is as simulated as its GPUs
            include_dashboard=False,
            log_to_driver=False,
        )
    try:
        deploy(read_configuration(file, "127.0.0.1", free_port()))
        until(lambda: list_running() == names, 420, "the deployment")
        yield
    finally:
        serve.shutdown()
        ray.shutdown()


def list_running() -> set[str]:
    """Return the names of the running applications."""
    return {name for name, application in serve.status().applications.items() if application.status == "RUNNING"}


def info_of(name: str) -> ServiceInfo:
    """Return the info of a model that is an application of its own."""
    return serve.get_deployment_handle(name, name).info.remote(name).result()


def test_the_models_have_a_gpu_each(production: None) -> None:
    names = ("internvl", "wan", "qwen-edit", "flux", "svd", "realesrgan")
    devices = [info_of(name).replica.rpartition("gpu=")[2] for name in names]
    assert all(device.isdecimal() for device in devices)
    assert len(set(devices)) == 6


async def collect_items(stream: Any) -> list[Item]:
    return [item async for item in stream]


async def test_a_graph_by_handle(production: None) -> None:
    items = await collect_items(Graphs().v2v(V2VRequest(input_video=str(CLIP), **SMALL)))
    runs = [item for item in items if isinstance(item, Frames)]
    assert [run.first for run in runs] == sorted(run.first for run in runs)
    assert sum(run.count for run in runs) == 9
    caption = next(item.value for item in items if isinstance(item, Fact) and item.name == "caption")
    assert "".join(item.piece for item in items if isinstance(item, Text)).strip() == caption
    assert [item.stage for item in items if isinstance(item, StageDone)] == ["describe", "generate"]


async def test_the_rolling_edit_by_handle(production: None, tmp_path: Path) -> None:
    (tmp_path / "edges").mkdir()
    frames = read_clip(4)
    (tmp_path / "first.png").write_bytes(encode_png(frames[0]))
    for index, edge in enumerate(draw_edges(frames[1:])):
        (tmp_path / "edges" / f"{index}.png").write_bytes(encode_png(edge))
    request = RollingEditRequest(
        init_frame=str(tmp_path / "first.png"), edge_frames=str(tmp_path / "edges"), steps=2, seed=5
    )
    items = await collect_items(Graphs().rolling_edit(request))
    made = [item for item in items if isinstance(item, Frames)]
    assert [item.first for item in made] == [0, 1, 2, 3]
    assert np.array_equal(made[0].pixels[0], frames[0])
    scores = [item for item in items if isinstance(item, Scores)]
    assert [item.frame for item in scores] == [1, 2, 3]
    assert all(item.edge_loss and item.gram_loss is None and item.lpips_to_prev is None for item in scores)


async def test_a_picture_moves_and_is_enlarged_by_handle(production: None, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode_png(read_clip(1)[0]))
    request = AnimateRequest(image=str(tmp_path / "a.png"), num_frames=6, steps=2, size="128x64", seed=5)
    items = await collect_items(Graphs().svd(request))
    made = [item for item in items if isinstance(item, Frames)]
    assert sum(item.count for item in made) == 6
    assert {item.pixels.shape[1:] for item in made} == {(64, 128, 3)}
    assert [item.stage for item in items if isinstance(item, StageDone)] == ["animate"]
    larger = await collect_items(Graphs().realesrgan(VideoUpscaleRequest(input_video=str(tmp_path / "a.png"), scale=2)))
    (frame,) = [item for item in larger if isinstance(item, Frames)]
    assert frame.pixels.shape == (1, 2 * read_clip(1)[0].shape[0], 2 * read_clip(1)[0].shape[1], 3)
    (done,) = [item for item in larger if isinstance(item, StageDone)]
    assert done.source == "realesr-animevideov3"


async def test_the_full_pipeline_by_handle(production: None) -> None:
    small = {"num_frames": 5, "steps": 2, "max_area": 64 * 64}
    fields = {"prompt": "a boat", "size": "64x64", "steps": 2, "seed": 5, "animate": small, "upscale": {"scale": 2}}
    items = await collect_items(Graphs().full_pipeline(FullPipelineRequest.model_validate(fields)))
    (picture,) = [item for item in items if isinstance(item, Result) and item.still]
    assert (picture.name, picture.frames.pixels.shape) == ("image", (1, 64, 64, 3))
    assert [item.first for item in items if isinstance(item, Frames)] == list(range(5))
    large = [item.frames for item in items if isinstance(item, Result) and item.name == "hd"]
    assert [(run.first, run.count, run.width) for run in large] == [(0, 4, 128), (4, 1, 128)]
    with pytest.raises(InvalidParameter, match="no model for restyle is served here"):
        await collect_items(Graphs().full_pipeline(FullPipelineRequest.model_validate({**fields, "restyle": "ink"})))


async def test_errors_arrive_as_ours(production: None, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        await collect_items(Graphs().v2v(V2VRequest(input_video=str(tmp_path / "none.mp4"), **SMALL)))
    (tmp_path / "text.mp4").write_text("not a film")
    with pytest.raises(UndecodableMedia):
        await collect_items(Graphs().wan_i2v(WanI2VRequest(image=str(tmp_path / "text.mp4"), **SMALL)))


async def test_leaving_a_stream_stops_the_work(production: None) -> None:
    long = {**SMALL, "steps": 100, "num_frames": 33, "max_area": 192 * 112}
    stream = Graphs().v2v(V2VRequest(input_video=str(CLIP), prompt="a meadow", **long))
    async for item in stream:
        if isinstance(item, Progress) and item.done >= 2:
            break
    assert (await asyncio.to_thread(info_of, "wan")).busy
    await stream.aclose()

    def idle() -> bool:
        return not info_of("wan").busy

    await asyncio.to_thread(until, idle, 15.0, "an idle worker")
    items = await collect_items(Graphs().v2v(V2VRequest(input_video=str(CLIP), prompt="a meadow", **SMALL)))
    assert sum(item.count for item in items if isinstance(item, Frames)) == 9
