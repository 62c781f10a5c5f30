"""Runs graphs and models as Python streams over Ray: from a driver on the cluster, or from another deployment.

    graphs = Graphs()
    async for item in graphs.v2v(V2VRequest(input_video="/data/clip.mp4")):
        ...

This module needs the server's code, and so a checkout or a container image. Nothing is stored: if a stream breaks, its
results are lost. For work that survives, create a job over HTTP. A storyboard consists of such jobs, so it has no
stream.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

from reelgraph.checkout import require_server_code

require_server_code()

from composition.app import TRANSPORT, fetch_states, open_handle
from composition.configuration.registry import FetchStates
from composition.graphs.calls import Handle, open_stream, stream
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
"""Fields: those of Wan, and `image` and `last_image`. Without `image` the prompt alone is the source."""
AnimateRequest: type[Any] = SINGLES["svd"].request
"""Fields: `image`, and those of Stable Video Diffusion."""
VideoUpscaleRequest: type[Any] = SINGLES["realesrgan"].request
"""Fields: `input_video` or `image`, and those of Real-ESRGAN."""
FilmRequest: type[Any] = SINGLES["text-to-video"].request
"""Fields: those of text-to-video."""

HOST = "graphs"
"""Application that hosts the graphs without a separate application."""


class Graphs:
    """Runs the graphs and models that are served on the connected Ray cluster.

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

        `edge_frames` may be a folder of pictures. The Scores of a frame are yielded just before it; those
        that are not `kept` are of a try that the gate refused.
        """
        return self.run("rolling-edit", request)

    def full_pipeline(self, request: FullPipelineRequest) -> AsyncGenerator[Item]:
        """Generate a picture from a prompt, and animate it. Otherwise as `v2v`.

        The Frames are those before upscaling; pictures and upscaled frames are Results, named `image`,
        `painted` and `hd`. `face` is a path or URL that the graph's replica can open.
        """
        return self.run("full-pipeline", request)

    def wan_i2v(self, request: GraphRequest) -> AsyncGenerator[Item]:
        """Make a video that starts with a picture, with the first model of kind `wan`. Otherwise as `v2v`.

        Args:
            request: a WanI2VRequest.
        """
        return self.run("wan-i2v", request)

    def wan_t2v(self, request: GraphRequest) -> AsyncGenerator[Item]:
        """Make a video from a prompt, with the first model of kind `wan` that needs no picture. Otherwise as `v2v`.

        Args:
            request: a WanI2VRequest without `image`.
        """
        return self.run("wan-t2v", request)

    def svd(self, request: GraphRequest) -> AsyncGenerator[Item]:
        """Animate a picture, with the model with the id `svd`. Otherwise as `v2v`.

        Args:
            request: an AnimateRequest.
        """
        return self.run("svd", request)

    def text_to_video(self, request: GraphRequest) -> AsyncGenerator[Item]:
        """Make a video from a prompt, with the model with the id `text-to-video`. Otherwise as `v2v`.

        Args:
            request: a FilmRequest.
        """
        return self.run("text-to-video", request)

    def realesrgan(self, request: GraphRequest) -> AsyncGenerator[Item]:
        """Upscale a video or a picture two to four times, with the model with the id `realesrgan`.

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
        async with open_stream(stream(graph, Runnable.run, request), TRANSPORT) as items:
            async for item in items:
                yield item

    def _find_application(self, name: str) -> str:
        """Return the application that runs this graph or model. Raises NotFound."""
        graph = name if name in BY_NAME else SINGLE
        states = self._fetch_states()
        for application in (graph, HOST):
            if application in states:
                return application
        available = ", ".join(states) or "none"
        raise NotFound(
            f"model: {name} needs an application named {graph} or {HOST}; available on this Ray cluster: {available}",
            param="model",
        )
