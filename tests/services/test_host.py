"""A host of several models: each call reaches the model that it names."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from services.errors import Cancelled, DeviceFailed, LimitExceeded, ModelFailed, ServiceBusy
from services.frames import Frames, Item, StageDone
from services.host import Host, Hosted
from services.realesrgan.request import UpscaleRequest
from services.realesrgan.settings import RealEsrganSettings
from services.worker import Outlet

PICTURE = Frames(np.random.default_rng(1).integers(0, 256, (1, 16, 24, 3), np.uint8))
TWICE = UpscaleRequest(scale=2)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    models = {
        "plain": Hosted("realesrgan", RealEsrganSettings(dtype="float32")),
        "small": Hosted("realesrgan", RealEsrganSettings(dtype="float32", max_area=100)),
    }
    return Host(models, tmp_path_factory.mktemp("home"), lambda: "host#test cpu")


async def collected(host: Host, name: str, method: str = "upscale", **options: object) -> list[Item]:
    return [item async for item in host.stream(name, method, TWICE, PICTURE, **options)]


async def test_a_stage_is_reported_by_the_id_of_the_model(host: Host) -> None:
    items = await collected(host, "plain")
    (frames,) = (item for item in items if isinstance(item, Frames))
    assert frames.pixels.shape == (1, 32, 48, 3)
    (done,) = (item for item in items if isinstance(item, StageDone))
    assert (done.model, done.source, done.replica) == ("plain", "realesr-animevideov3", "host#test cpu")
    assert (await host.info("small")).name == "small"


async def test_each_model_has_its_own_settings(host: Host) -> None:
    with pytest.raises(LimitExceeded, match="100"):
        await collected(host, "small")
    assert await collected(host, "plain")


async def test_a_model_that_is_not_here(host: Host) -> None:
    with pytest.raises(ServiceBusy, match="nothing is not on this replica, which has plain, small"):
        await collected(host, "nothing")
    with pytest.raises(ServiceBusy):
        await host.info("nothing")


async def test_stop_reaches_the_model_that_is_named_and_no_other(host: Host) -> None:
    long = Frames(np.zeros((4, 256, 256, 3), np.uint8))

    async def upscale() -> list[Item]:
        return [item async for item in host.stream("plain", "upscale", UpscaleRequest(scale=4), long, key="job")]

    working = asyncio.create_task(upscale())
    await asyncio.sleep(0)
    await host.stop("small", "job")
    await host.stop("plain", "another job")
    assert len(await working) == 2
    working = asyncio.create_task(upscale())
    await asyncio.sleep(0)
    await host.stop("plain", "job")
    with pytest.raises(Cancelled):
        await working


async def test_a_device_that_one_model_has_lost_is_the_hosts(tmp_path: Path) -> None:
    models = {name: Hosted("realesrgan", RealEsrganSettings(dtype="float32")) for name in ("one", "two")}
    host = Host(models, tmp_path, lambda: "host#test cpu")
    host.check_health()

    def lose(_outlet: Outlet[Item]) -> None:
        raise DeviceFailed("CUDA error: an illegal memory access was encountered")

    with pytest.raises(DeviceFailed):
        async for _ in host._service("two")._worker.stream(lose):
            pass
    with pytest.raises(DeviceFailed):
        host.check_health()


@pytest.mark.parametrize("method", ["animate", "check_health", "_stream"])
async def test_only_the_methods_of_its_roles_can_be_called(host: Host, method: str) -> None:
    with pytest.raises(ModelFailed, match=f"method: plain has upscale, got {method}"):
        await collected(host, "plain", method)
