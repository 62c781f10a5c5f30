"""V2V of a clip that shows a circle, in this process: which pixels follow the clip, and how they differ from it."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from composition.graphs.calls import Models, Transport
from composition.graphs.run import NOTHING_KNOWN, GraphSettings, Known
from composition.graphs.v2v.graph import V2V
from composition.graphs.v2v.request import V2VRequest
from composition.records.artifacts import ArtifactSettings
from services.frames import Frames, Item, Pixels
from tests.composition import sample_media as media
from tests.composition.rolling import of
from tests.composition.serving import Handle

Colour = tuple[int, int, int]

LOSSLESS = media.Coding(codec="ffv1", pix_fmt="bgr0", form="matroska", tagged=False)


@dataclass(frozen=True)
class Room:
    """The graph with a service in Wan's place, and a folder for clips."""

    folder: Path
    service: object

    async def run(self, given: Pixels | Path, known: Known = NOTHING_KNOWN, **fields: Any) -> list[Item]:
        """Continue a clip, or one that shows a picture."""
        if isinstance(given, Path):
            clip = given
        else:
            clip = media.clip(self.folder / "clip.mkv", [given, given], coding=LOSSLESS)
        handle = Handle(self.service)
        settings = GraphSettings(artifacts=ArtifactSettings(url=str(self.folder / "artifacts")))
        graph = V2V(Models({"describe": handle, "image-to-video": handle}), settings, Transport())
        request = V2VRequest.model_validate({"input_video": str(clip), "prompt": "still", "num_frames": 5, **fields})
        async with aclosing(cast("AsyncGenerator[Item]", graph.run(request, known))) as items:
            return [item async for item in items]

    async def join(self, given: Pixels | Path, **fields: Any) -> Pixels:
        """Return the frames after the clip, (num_frames - 1, h, w, 3)."""
        frames = of(Frames, await self.run(given, join=True, **fields))
        assert [frame.first for frame in frames] == [0, *(before.stop for before in frames[:-1])]
        assert frames[-1].stop == fields.get("num_frames", 5) - 1
        return np.concatenate([frame.pixels for frame in frames])


def draw_circle(width: int, height: int, ground: Colour, colour: Colour) -> Pixels:
    """Draw a circle, a little off the middle."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    radius = 0.29 * min(width, height)
    distance = np.hypot(x - 0.48 * width, y - 0.52 * height)
    cover = np.clip(radius - distance + 0.5, 0, 1)[..., None]
    return np.rint(np.array(ground) * (1 - cover) + np.array(colour) * cover).astype(np.uint8)


def measure_circle(picture: Pixels, ground: Sequence[int], colour: Sequence[int]) -> NDArray[np.float64]:
    """Return the centre and the diameters of the circle, (x, y, across, down), from its moments.

    A pixel counts by where it is between the two colours; the outer quarters are ignored, so that noise does not count.
    """
    axis = np.array(colour, np.float64) - np.array(ground)
    shares = (picture - np.array(ground, np.float64)) @ axis / (axis @ axis)
    weights = np.clip(2 * shares - 0.5, 0, 1)
    centres: list[float] = []
    diameters: list[float] = []
    for direction in (0, 1):
        profile = weights.sum(direction)
        places = np.arange(len(profile))
        centre = float(np.average(places, weights=profile))
        centres.append(centre)
        diameters.append(4 * float(np.average((places - centre) ** 2, weights=profile)) ** 0.5)
    return np.array([*centres, *diameters])


def measure_difference(one: Pixels, other: Pixels) -> float:
    """Return the mean absolute difference in levels."""
    return float(np.abs(one.astype(int) - other).mean())
