"""Fake models for pictures and faces, without Ray, and the HTTP application that serves them."""

import asyncio
import socket
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn

from composition.http.image_generation import ImageGenerator
from composition.http.ingress import Ingress, IngressSettings
from services.flux.request import FluxRequest
from services.frames import Face, Fact, Frames, Item, Pixels, Progress, StageDone
from tests.composition.deployed import TRANSPORT, Cluster, Hosted, served_model
from tests.composition.serving import Handle, noise

LIMITS = {"max_area": 64 * 64, "steps": 40, "n": 4}


class PaintService:
    """A fake Flux: it yields the same kinds of items, with pixels that depend on the same inputs.

    Args:
        failing: number of finished steps, over all pictures → the exception raised then; 0 is before the first item.
        hanging: number of finished steps after which it waits for `may_go_on`.
        preview_every: steps between previews, as in Flux's settings; 0 disables them.
        forgets: index of a picture that is not yielded.
    """

    def __init__(
        self,
        failing: Mapping[int, Exception] | None = None,
        hanging: int | None = None,
        preview_every: int = 0,
        forgets: int | None = None,
    ) -> None:
        self._failing = failing or {}
        self._hanging = hanging
        self._preview_every = preview_every
        self._forgets = forgets
        self.asked: list[tuple[FluxRequest, Face | None, str]] = []
        self.poses: list[Face | None] = []
        self.working = 0
        self.hangs = asyncio.Event()
        self.may_go_on = asyncio.Event()

    async def generate_image(
        self, request: FluxRequest, face: Face | None = None, key: str = "", pose: Face | None = None
    ) -> AsyncGenerator[Item]:
        self.asked.append((request, face, key))
        self.poses.append(pose)
        self.working += 1
        try:
            await self._at(0)
            yield Fact("seed", request.seed)
            yield Fact("size", request.size)
            total = request.n * request.steps
            yield Progress("paint", 0, total)
            for done in range(1, total + 1):
                index, step = divmod(done - 1, request.steps)
                preview = None
                if self._preview_every and (step + 1) % self._preview_every == 0:
                    preview = Frames(noise(done, 8, 6)[None], first=index)
                yield Progress("paint", done, total, preview)
                await self._at(done)
                if step + 1 == request.steps and index != self._forgets:
                    yield Frames(painted(request, index, face), first=index)
            yield StageDone("paint", "flux", "nowhere", "", "flux#1", 0.5)
        finally:
            self.working -= 1

    async def _at(self, done: int) -> None:
        if done == self._hanging:
            self.hangs.set()
            await self.may_go_on.wait()
        if done in self._failing:
            raise self._failing[done]


def painted(request: FluxRequest, index: int, face: Face | None = None) -> Pixels:
    """Return the pixels of the fake picture with this index, (1, h, w, 3) uint8."""
    width, height = map(int, request.size.split("x"))
    mixed = zlib.crc32(b"" if face is None else face.embedding.tobytes())
    return np.random.default_rng([request.seed + index, mixed]).integers(0, 256, (1, height, width, 3), dtype=np.uint8)


class FaceService:
    """A fake InstantID: the face depends on the pixels of the picture.

    Args:
        failing: the exception to raise, if given.
        left_out: classes of items that are not yielded.
    """

    def __init__(self, failing: Exception | None = None, left_out: tuple[type, ...] = ()) -> None:
        self._failing = failing
        self._left_out = left_out
        self.asked: list[tuple[Frames, str]] = []

    async def find_face(self, image: Frames, key: str = "") -> AsyncGenerator[Item]:
        self.asked.append((image, key))
        if self._failing is not None:
            raise self._failing
        items: list[Item] = [Fact("faces", 2), Fact("notice", "2 faces were found"), seen_in(image)]
        for item in (*items, StageDone("face", "instantid", "nowhere", "", "instantid#1", 0.25)):
            if not isinstance(item, self._left_out):
                yield item


def seen_in(image: Frames) -> Face:
    random = np.random.default_rng(zlib.crc32(image.pixels.tobytes()))
    embedding = random.normal(size=512).astype(np.float32)
    embedding /= np.sqrt(np.cumsum(embedding**2)[-1])  # length 1 within float32 precision, as a model returns it
    places = random.uniform(-0.1, 1.1, (7, 2)).astype(np.float32)
    crop = Frames(random.integers(0, 256, (1, 112, 112, 3), dtype=np.uint8))
    return Face(embedding, places[:5], places[5:].reshape(4), crop)


def flux(service: object, **defaults: Any) -> Hosted:
    """Return a deployed fake Flux."""
    return Hosted("flux", service, LIMITS, {"size": "32x16", "steps": 4, **defaults})


def painter(service: object, instantid: object | None = None, **defaults: Any) -> ImageGenerator:
    found = None if instantid is None else Handle(instantid)
    return ImageGenerator(Handle(service), served_model(flux(service, **defaults)), found, TRANSPORT)


def front_door(folder: Path, *models: Hosted, **settings: Any) -> Ingress:
    """Return an HTTP application that serves these models; their ids are their kinds."""
    return open_door(Cluster(folder).host_models({hosted.kind: hosted for hosted in models}), **settings)


def open_door(cluster: Cluster, **settings: Any) -> Ingress:
    """Return an HTTP application for all graphs and models of a cluster."""
    given = IngressSettings(database=cluster.url, artifacts=cluster.where, **{"auth": "none", **settings})
    return Ingress(given, cluster.served, TRANSPORT)


@asynccontextmanager
async def served(door: Ingress, **config: Any) -> AsyncIterator[str]:
    """Serve on a local socket, in this event loop; yield the URL. `config` is passed to uvicorn."""
    server = uvicorn.Server(
        uvicorn.Config(door.build_app(), log_level="critical", timeout_graceful_shutdown=1, **config)
    )
    with socket.create_server(("127.0.0.1", 0)) as listening:
        task = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task
