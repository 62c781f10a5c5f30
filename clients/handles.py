"""Graphs and models as Python streams, over Ray: for a driver on the cluster, or for another deployment.

    graphs = Graphs()
    async for item in graphs.v2v(V2VRequest(input_video="/data/clip.mp4")):
        ...

The one file of the client that needs the server's code, and so a checkout or an image. Nothing is stored: a stream that
breaks is gone; for work that survives, make a job over HTTP. A storyboard is made of such jobs, so it has no stream
here.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

from reelgraph.checkout import require_server_code

require_server_code()

from composition.app import TRANSPORT, fetch_states, open_handle
from composition.configuration.registry import FetchStates
from composition.graphs.calls import Handle, opened, stream
from composition.graphs.catalogue import BY_NAME
from composition.graphs.full_pipeline.request import FullPipelineRequest
from composition.graphs.graph import Runnable
from composition.graphs.request import GraphRequest
from composition.graphs.rolling_edit.request import RollingEditRequest
from composition.graphs.single import NAME as SINGLE
from composition.graphs.single import SINGLES
from composition.graphs.v2v.request import V2VRequest
from services.errors import NotFound
from services.frames import Item

__all__ = [
    "AnimateRequest",
    "FilmRequest",
    "FullPipelineRequest",
    "Graphs",
    "RollingEditRequest",
    "V2VRequest",
    "VideoUpscaleRequest",
    "WanI2VRequest",
]

WanI2VRequest: type[Any] = SINGLES["wan"].request
"""`image`, perhaps `last_image`, and Wan's fields."""
AnimateRequest: type[Any] = SINGLES["svd"].request
"""`image`, and Stable Video Diffusion's fields."""
VideoUpscaleRequest: type[Any] = SINGLES["realesrgan"].request
"""`input_video` or `image`, and Real-ESRGAN's fields."""
FilmRequest: type[Any] = SINGLES["text-to-video"].request
"""text-to-video's fields."""

HOST = "graphs"
"""The application that hosts a graph which has none of its own."""


class Graphs:
    """The graphs and models that are served on the connected Ray cluster.

    Args:
        fetch_states: requests the states of applications from Serve.
        open_handle: opens an application's deployment.
    """

    def __init__(
        self, fetch_states: FetchStates = fetch_states, open_handle: Callable[[str], Any] = open_handle
    ) -> None:
        self._fetch_states = fetch_states
        self._open_handle = open_handle

    def v2v(self, request: V2VRequest) -> AsyncGenerator[Item]:
        """Continue a video. `input_video` is a path or URL that the graph's replica can open.

        Closing the iterator, or leaving an `async for` over it, stops the work within one denoising step.

        Raises:
            ReelError: of `services.errors`; `retryable` says whether the same request may succeed later. NotFound where
                no application runs it, InvalidParameter where a model that it needs is not served.
        """
        return self.run("v2v", request)

    def rolling_edit(self, request: RollingEditRequest) -> AsyncGenerator[Item]:
        """Redraw a first frame along a sequence of edges. Otherwise as `v2v`.

        `edge_frames` may be a folder of pictures. Each frame comes behind its Scores.
        """
        return self.run("rolling-edit", request)

    def full_pipeline(self, request: FullPipelineRequest) -> AsyncGenerator[Item]:
        """Make a picture of a prompt, and a video of the picture. Otherwise as `v2v`.

        The plain frames are those before they are enlarged; pictures and enlarged frames are Results, named `image`,
        `painted` and `hd`. `face` is a path or URL that the graph's replica can open.
        """
        return self.run("full-pipeline", request)

    def wan_i2v(self, request: GraphRequest) -> AsyncGenerator[Item]:
        """Make a video that begins with a picture, by the first model of kind `wan`. Otherwise as `v2v`.

        Args:
            request: a WanI2VRequest.
        """
        return self.run("wan-i2v", request)

    def svd(self, request: GraphRequest) -> AsyncGenerator[Item]:
        """Make a picture move, by the model with the id `svd`. Otherwise as `v2v`.

        Args:
            request: an AnimateRequest.
        """
        return self.run("svd", request)

    def text_to_video(self, request: GraphRequest) -> AsyncGenerator[Item]:
        """Make a video of a text, by the model with the id `text-to-video`. Otherwise as `v2v`.

        Args:
            request: a FilmRequest.
        """
        return self.run("text-to-video", request)

    def realesrgan(self, request: GraphRequest) -> AsyncGenerator[Item]:
        """Make a video, or a picture, two to four times as large, by the model with the id `realesrgan`.

        Otherwise as `v2v`; a picture is a Result.

        Args:
            request: a VideoUpscaleRequest.
        """
        return self.run("realesrgan", request)

    async def run(self, name: str, request: GraphRequest) -> AsyncGenerator[Item]:
        """Run a graph by its name, or a model alone by its id. Otherwise as `v2v`.

        Args:
            name: e.g. `v2v`, `wan-5b`.
            request: of the graph's class, or of the class of the jobs of that kind of model:
                `composition.graphs.single.graph.SINGLES[kind].request`.
        """
        application = await asyncio.to_thread(self._find_application, name)
        graph: Handle[Runnable] = Handle(self._open_handle(application), name)
        async with opened(stream(graph, Runnable.run, request), TRANSPORT) as items:
            async for item in items:
                yield item

    def _find_application(self, name: str) -> str:
        """The application that runs what has this name. Raises NotFound."""
        graph = name if name in BY_NAME else SINGLE
        states = self._fetch_states()
        for application in (graph, HOST):
            if application in states:
                return application
        there = ", ".join(states) or "none"
        raise NotFound(
            f"model: {name} is run by an application named {graph} or {HOST}; those on this Ray cluster are {there}",
            param="model",
        )
