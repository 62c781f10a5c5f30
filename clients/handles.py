"""Graphs as Python streams, over Ray: for a driver on the cluster, or for another deployment.

    graphs = Graphs()
    async for item in graphs.v2v(V2VRequest(input_video="/data/clip.mp4")):
        ...

The one client file that needs the `server` extra. Nothing is stored: a stream that breaks is gone; for work that
survives, make a job over HTTP. A storyboard is made of such jobs, so it has no stream here.
"""

from collections.abc import AsyncGenerator
from typing import Any, cast

from ray import serve

from composition.app import TRANSPORT
from composition.calls import opened, stream
from composition.full_pipeline import FullPipelineRequest
from composition.graph import GraphRequest
from composition.rolling_edit import RollingEditRequest
from composition.svd import AnimateRequest
from composition.text_to_video import FilmRequest
from composition.upscale import VideoUpscaleRequest
from composition.v2v import V2VRequest
from composition.wan_i2v import WanI2VRequest
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


class Graphs:
    """The graphs of an application that runs on the connected Ray cluster.

    Args:
        application: its name in `serve_config*.yaml`.
    """

    def __init__(self, application: str = "reelgraph") -> None:
        self._application = application

    def v2v(self, request: V2VRequest) -> AsyncGenerator[Item]:
        """Continue a video. `input_video` is a path or URL that the graph's replica can open.

        Closing the iterator, or leaving an `async for` over it, stops the work within one denoising step.

        Raises:
            ReelError: of `services.errors`; `retryable` says whether the same request may succeed later.
        """
        return self._run("v2v", request)

    def wan_i2v(self, request: WanI2VRequest) -> AsyncGenerator[Item]:
        """Make a video that begins with a picture. Otherwise as `v2v`."""
        return self._run("wan-i2v", request)

    def rolling_edit(self, request: RollingEditRequest) -> AsyncGenerator[Item]:
        """Redraw a first frame along a sequence of edges. Otherwise as `v2v`.

        `edge_frames` may be a folder of pictures. Each frame comes behind its Scores.
        """
        return self._run("rolling-edit", request)

    def full_pipeline(self, request: FullPipelineRequest) -> AsyncGenerator[Item]:
        """Make a picture of a prompt, and a video of the picture. Otherwise as `v2v`.

        The plain frames are those before they are enlarged; pictures and enlarged frames are Results, named `image`,
        `painted` and `hd`. `face` is a path or URL that the graph's replica can open.
        """
        return self._run("full-pipeline", request)

    def text_to_video(self, request: FilmRequest) -> AsyncGenerator[Item]:
        """Make a video of a text. Otherwise as `v2v`."""
        return self._run("film", request)

    def svd(self, request: AnimateRequest) -> AsyncGenerator[Item]:
        """Make a picture move. Otherwise as `v2v`."""
        return self._run("animate", request)

    def realesrgan(self, request: VideoUpscaleRequest) -> AsyncGenerator[Item]:
        """Make a video, or a picture, two to four times as large. Otherwise as `v2v`; a picture is a Result."""
        return self._run("upscale", request)

    async def _run(self, graph: str, request: GraphRequest) -> AsyncGenerator[Item]:
        handle = cast("Any", serve).get_deployment_handle(graph, self._application)
        async with opened(stream(handle, "run", request), TRANSPORT) as items:
            async for item in items:
                yield item
