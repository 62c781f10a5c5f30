"""Runs the models and graphs of a configuration in this process, without Ray, for scores and tests of their results."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from composition.configuration.file import load_configuration
from composition.configuration.settings import ModelEntry
from composition.graphs.calls import Handle, Models, Transport
from composition.graphs.run import GraphSettings
from composition.media.encode import encode_png
from composition.records.artifacts import ArtifactSettings
from miniatures.clips import write
from miniatures.train import CHECKPOINTS
from miniatures.world import Pixels
from services.catalogue import KINDS
from services.frames import Frames, Item, Result
from services.settings import DEEPER, Place, change_parts


class _Call:
    """A response stream from an object of this process."""

    def __init__(self, items: AsyncGenerator[Item]) -> None:
        self._items = items

    async def __aiter__(self) -> AsyncIterator[Item]:
        async with aclosing(self._items) as items:
            async for item in items:
                yield item

    def cancel(self) -> None:
        """Do nothing: the generator only advances when it is read."""


class _Handle(Handle[Any]):
    """Has the interface of a `DeploymentHandle` for an object of this process."""

    def __init__(self, deployed: Any) -> None:
        self._deployed = deployed

    def prefer(self, preferred: str) -> "Handle[Any]":
        """Return itself: there is one process."""
        del preferred
        return self

    def options(self, *, method_name: str, **options: Any) -> Any:
        """Return the method, ready to be called; routing options are ignored."""
        del options
        method = getattr(self._deployed, method_name)
        return SimpleNamespace(remote=lambda *args, **named: _Call(method(*args, **named)))


class Studio:
    """Models and graphs of the local configuration; each model is loaded at its first use.

    Args:
        folder: folder for inputs and results; by default a temporary one.
        checkpoints: folder that replaces the checkpoint folder of the local configuration.
    """

    def __init__(self, folder: Path | None = None, checkpoints: Path = CHECKPOINTS) -> None:
        self._own = None if folder else tempfile.TemporaryDirectory(prefix="reelgraph-studio-")
        self.folder = folder or Path(self._own.name if self._own else "")
        configuration = load_configuration()
        self.models = {name: _move(entry, checkpoints.absolute()) for name, entry in configuration.models.items()}
        """Id → entry of the model."""
        self._snapshot = configuration.snapshot
        self._loaded: dict[str, Any] = {}

    def model(self, name: str) -> Any:
        """Return a model's service by its id, e.g. `wan`."""
        if name not in self._loaded:
            entry = self.models[name]
            self._loaded[name] = KINDS[entry.kind].load(entry.settings, self.folder, lambda: f"{name}#studio")
        return self._loaded[name]

    @cached_property
    def _artifacts(self) -> ArtifactSettings:
        return ArtifactSettings(url=str(self.folder / "artifacts"))

    def run(self, name: str, **fields: Any) -> list[Item]:
        """Run a graph, or a model alone, as a job would, and return all its items. Media fields are paths."""
        assignment = self._snapshot.assign_models(name, {})
        request = assignment.request.model_validate(fields)
        settings = GraphSettings(artifacts=self._artifacts, defaults=assignment.complete_fields(fields))
        models = Models({role: _Handle(self.model(served.id)) for role, served in assignment.models.items()})
        graph = assignment.graph.make(models, settings, Transport())
        return asyncio.run(_all(graph.run(request)))

    def call(self, model: str, method: str, *args: Any) -> list[Item]:
        """Call a method of a model's service and return all its items."""
        return asyncio.run(_all(getattr(self.model(model), method)(*args)))

    def file(self, pixels: Pixels, name: str) -> str:
        """Write frames as a video, or a single one as a picture, and return the path for a media field."""
        if len(pixels) == 1:
            path = self.folder / f"{name}.png"
            path.write_bytes(encode_png(pixels[0]))
        else:
            path = self.folder / f"{name}.mp4"
            write(path, pixels)
        return str(path)


def _move(entry: ModelEntry, folder: Path) -> ModelEntry:
    """Return a model entry with its checkpoint paths moved from CHECKPOINTS to `folder`."""

    def change(_: Place, part: Any) -> Any:
        inside = isinstance(part, Path) and part.is_relative_to(CHECKPOINTS)
        return folder / part.relative_to(CHECKPOINTS) if inside else DEEPER

    return entry.model_copy(update={"settings": change_parts(entry.settings, change)})


async def _all(items: AsyncGenerator[Item]) -> list[Item]:
    async with aclosing(items):
        return [item async for item in items]


def frames_of(items: list[Item], result: str = "") -> Pixels:
    """Join the frames among the items: of the main result, or of the named secondary one."""
    found: list[Pixels] = []
    for item in items:
        if isinstance(item, Frames) and not result:
            found.append(item.pixels)
        elif isinstance(item, Result) and item.name == result:
            found.append(item.frames.pixels)
    return np.concatenate(found)
