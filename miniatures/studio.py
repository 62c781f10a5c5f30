"""The models and graphs of a configuration in this process, without Ray: for scores and tests of what they show."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from composition.__main__ import LOCAL_CONFIG, read_config, settings_of
from composition.app import GRAPHS, PAINTERS, TRANSPORT, AppSettings
from composition.artifacts import ArtifactSettings
from composition.encode import png
from composition.full_pipeline import FullPipeline, FullPipelineRequest
from composition.graph import GraphSettings
from miniatures.clips import write
from miniatures.train import CHECKPOINTS
from miniatures.world import Pixels
from services.flux.service import Flux
from services.frames import Frames, Item, Result
from services.hunyuan_dit.service import HunyuanDit
from services.instantid.service import InstantId
from services.internvl.service import InternVL
from services.qwen_edit.service import QwenEdit
from services.realesrgan.service import RealEsrgan
from services.svd.service import Svd
from services.text_to_video.service import TextToVideo
from services.wan.service import Wan

CLASSES: Mapping[str, type[Any]] = {
    "internvl": InternVL,
    "wan": Wan,
    "qwen-edit": QwenEdit,
    "flux": Flux,
    "instantid": InstantId,
    "hunyuan-dit": HunyuanDit,
    "svd": Svd,
    "realesrgan": RealEsrgan,
    "text-to-video": TextToVideo,
}


class _Call:
    """A stream from a deployment that is an object of this process."""

    def __init__(self, items: AsyncGenerator[Item]) -> None:
        self._items = items

    async def __aiter__(self) -> AsyncIterator[Item]:
        async with aclosing(self._items) as items:
            async for item in items:
                yield item

    def cancel(self) -> None:
        """Nothing goes on by itself: a stream that nobody draws from stands still."""


class _Handle:
    """Stands for a `DeploymentHandle`."""

    def __init__(self, deployed: Any) -> None:
        self._deployed = deployed

    def options(self, *, method_name: str, **_: object) -> Any:
        method = getattr(self._deployed, method_name)
        return SimpleNamespace(remote=lambda *args: _Call(method(*args)))


class Studio:
    """Loads each model when it is first needed.

    Args:
        folder: where what is given and what is made lies; by default one that goes with the studio.
        checkpoints: what stands in the place of those that the local configuration names.
    """

    def __init__(self, folder: Path | None = None, checkpoints: Path = CHECKPOINTS) -> None:
        self._own = None if folder else tempfile.TemporaryDirectory(prefix="reelgraph-studio-")
        self.folder = folder or Path(self._own.name if self._own else "")
        served = settings_of(read_config(LOCAL_CONFIG)).model_dump(exclude_unset=True)
        self.settings = AppSettings.model_validate(_moved(served, checkpoints.absolute()))
        self._models: dict[str, Any] = {}

    def model(self, name: str) -> Any:
        """The service, e.g. `wan`."""
        if name not in self._models:
            settings = getattr(self.settings, name.replace("-", "_"))
            self._models[name] = CLASSES[name](settings, self.folder, lambda: f"{name}#studio")
        return self._models[name]

    @cached_property
    def _artifacts(self) -> ArtifactSettings:
        return ArtifactSettings(url=str(self.folder / "artifacts"))

    def run(self, model: str, **fields: Any) -> list[Item]:
        """Run a graph as a job of it would: all that it yields. Media fields are paths."""
        settings = GraphSettings(artifacts=self._artifacts, defaults=dict(self.settings.defaults.get(model, {})))
        if model == "full-pipeline":
            handles = {name: _Handle(self.model(name)) for name in PAINTERS}
            graph: Any = FullPipeline(handles, settings, TRANSPORT)
            request: Any = FullPipelineRequest.model_validate(fields)
        else:
            known = GRAPHS[model]
            graph = known.cls(*(_Handle(self.model(name)) for name in known.needed), settings, TRANSPORT)
            request = known.request.model_validate(fields)
        return asyncio.run(_all(graph.run(request)))

    def call(self, model: str, method: str, *args: Any) -> list[Item]:
        """Call a model itself, and return all that it yields."""
        return asyncio.run(_all(getattr(self.model(model), method)(*args)))

    def file(self, pixels: Pixels, name: str) -> str:
        """Write frames as a video, or a single one as a picture, and return the path for a media field."""
        if len(pixels) == 1:
            path = self.folder / f"{name}.png"
            path.write_bytes(png(pixels[0]))
        else:
            path = self.folder / f"{name}.mp4"
            write(path, pixels)
        return str(path)


def _moved(value: Any, folder: Path) -> Any:
    """Return settings with the paths of the checkpoints in `folder` in place of those in CHECKPOINTS."""
    if isinstance(value, Mapping):
        return {name: _moved(part, folder) for name, part in value.items()}
    if isinstance(value, Path) and value.is_relative_to(CHECKPOINTS):
        return folder / value.relative_to(CHECKPOINTS)
    return value


async def _all(items: AsyncGenerator[Item]) -> list[Item]:
    async with aclosing(items):
        return [item async for item in items]


def frames_of(items: list[Item], result: str = "") -> Pixels:
    """The frames among what was yielded, joined: of the result itself, or of one beside it."""
    found: list[Pixels] = []
    for item in items:
        if isinstance(item, Frames) and not result:
            found.append(item.pixels)
        elif isinstance(item, Result) and item.name == result:
            found.append(item.frames.pixels)
    return np.concatenate(found)
