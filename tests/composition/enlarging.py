"""Jobs of the upscaler over HTTP without Ray: the front door, a runner, and a fake model that repeats pixels."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from composition.jobs.runner import JobRunner, RunnerSettings
from services.errors import ModelFailed
from services.frames import Frames, Item, StageDone
from services.realesrgan.request import UpscaleRequest
from tests.composition.deployed import TRANSPORT, Cluster, Hosted
from tests.composition.painting import open_door

WAIT_S = 120


class Enlarger:
    """A fake Real-ESRGAN: each pixel becomes `scale` × `scale` equal ones.

    Args:
        fails_at: number of a frame at which it fails.
    """

    def __init__(self, fails_at: int | None = None) -> None:
        self._fails_at = fails_at

    async def upscale(self, request: UpscaleRequest, frames: Frames, key: str = "") -> AsyncGenerator[Item]:
        if self._fails_at is not None and frames.stop > self._fails_at:
            raise ModelFailed("out of memory")
        large = np.ascontiguousarray(frames.pixels.repeat(request.scale, 1).repeat(request.scale, 2))
        yield Frames(large, frames.first, frames.rate, frames.times)
        yield StageDone("upscale", "realesrgan", "nowhere", "", "realesrgan#0", 0.5)

    async def stop(self, key: str) -> None:
        pass


class Shop:
    """The front door and the artifacts of a cluster that enlarges."""

    def __init__(self, cluster: Cluster, http: httpx.AsyncClient) -> None:
        self.cluster = cluster
        self._http = http

    async def upload(self, path: Path) -> str:
        data = await asyncio.to_thread(path.read_bytes)
        answer = await self._http.post("/v1/files", files={"file": (path.name, data)})
        assert answer.status_code == 200, answer.text
        return answer.json()["id"]

    async def order(self, path: Path, **fields: Any) -> httpx.Response:
        """Request that a video be enlarged; return the response."""
        body = {"model": "realesrgan", "scale": 2, "input_video": await self.upload(path), **fields}
        return await self._http.post("/v1/videos", json=body)

    async def enlarge(self, path: Path, **fields: Any) -> dict[str, Any]:
        """Return the video object of a job that has ended."""
        answer = await self.order(path, **fields)
        assert answer.status_code == 200, answer.text
        async with asyncio.timeout(WAIT_S):
            while (video := await self.read(answer.json()["id"]))["status"] not in ("completed", "failed"):
                pass
        return video

    async def list_fields(self, model: str) -> dict[str, Any]:
        """Return the fields of requests to a model, as the server lists them."""
        models = (await self._http.get("/v1/models")).json()["data"]
        return next(each["fields"] for each in models if each["id"] == model)

    async def read(self, video: str) -> dict[str, Any]:
        return (await self._http.get(f"/v1/videos/{video}")).json()

    async def fetch(self, video: str, variant: str = "video") -> bytes:
        answer = await self._http.get(f"/v1/videos/{video}/content", params={"variant": variant})
        assert answer.status_code == 200, answer.text
        return answer.content


@asynccontextmanager
async def open_shop(folder: Path, model: Enlarger | None = None, **settings: Any) -> AsyncIterator[Shop]:
    """Serve the upscaler inside the `async with` block. `settings` are those of the HTTP application."""
    cluster = Cluster(folder).host_models({"realesrgan": Hosted("realesrgan", model or Enlarger())})
    cluster.host_graphs("single")
    runner = JobRunner(
        cluster.served.find_graph,
        [],
        RunnerSettings(database=cluster.url, artifacts=cluster.where, poll_s=0.02, lease_s=60),
        TRANSPORT,
    )
    transport = httpx.ASGITransport(open_door(cluster, **settings).build_app())
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield Shop(cluster, client)
    finally:
        await runner.close()
