"""A rolling edit without Ray: its graph, a fake editing service, and media on disk."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar, cast

from composition.graphs.calls import Models, Transport
from composition.graphs.rolling_edit.graph import RollingEdit
from composition.graphs.rolling_edit.request import RollingEditRequest
from composition.graphs.run import NOTHING_KNOWN, GraphSettings, Known
from composition.media.encode import encode_png
from composition.records.artifacts import ArtifactSettings
from services.frames import Fact, Frames, Item, Pixels
from tests.composition import albums
from tests.composition import sample_media as media
from tests.composition.serving import EditService, Handle, noise

EDGES = 5
STEPS = 3
FIRST = noise(0, 51, 37)

T = TypeVar("T", bound=Item)


class Gone(Exception):
    """Stands for the transport's exception for a lost replica."""


class Full(Exception):
    """Stands for the transport's exception for a busy replica."""


class Room:
    """A rolling edit graph, a fake editing service, and media on disk."""

    def __init__(self, folder: Path, service: EditService | None = None, **defaults: Any) -> None:
        self.folder = folder
        self.service = service or EditService()
        self.handle = Handle(self.service)
        settings = GraphSettings(artifacts=ArtifactSettings(url=str(folder / "artifacts")), defaults=defaults)
        self.graph = RollingEdit(Models({"guided-edit": self.handle}), settings, Transport(lost=(Gone,), busy=(Full,)))

    def picture(self, pixels: Pixels, name: str = "first.png") -> str:
        (self.folder / name).write_bytes(encode_png(pixels))
        return str(self.folder / name)

    def edges(self, count: int = EDGES) -> str:
        files = {f"e{number}.png": albums.numbered(number) for number in range(count)}
        return str(albums.folder(self.folder / f"edges{count}", files))

    def request(self, **fields: Any) -> RollingEditRequest:
        """Return a small edit's request; fields that are None are omitted."""
        given = {"init_frame": self.picture(FIRST), "edge_frames": self.edges(), "seed": 7, "steps": STEPS, **fields}
        return RollingEditRequest.model_validate({name: v for name, v in given.items() if v is not None})

    def run(self, request: RollingEditRequest, known: Known = NOTHING_KNOWN) -> AsyncGenerator[Item]:
        return cast("AsyncGenerator[Item]", self.graph.run(request, known))

    async def items(self, known: Known = NOTHING_KNOWN, **fields: Any) -> list[Item]:
        async with aclosing(self.run(self.request(**fields), known)) as items:
            return [item async for item in items]

    @property
    def seeds(self) -> list[int]:
        return [asked.request.seed for asked in self.service.asked]

    @property
    def followed(self) -> list[int]:
        """Numbers of the edge frames that the service received, in order."""
        return [media.number_of(asked.edges.pixels[0]) for asked in self.service.asked if asked.edges is not None]


def of(kind: type[T], items: list[Item]) -> list[T]:
    return [item for item in items if isinstance(item, kind)]


def facts(items: list[Item]) -> dict[str, object]:
    return {fact.name: fact.value for fact in of(Fact, items)}


def pictures(items: list[Item]) -> list[bytes]:
    return [frames.pixels.tobytes() for frames in of(Frames, items)]


async def gathered(items: AsyncGenerator[Item], seen: list[Item]) -> None:
    """Append all items to `seen`; items before an error are kept."""
    async with aclosing(items):
        async for item in items:
            seen.append(item)  # noqa: PERF401 - a comprehension would lose them on an error
