"""What all graphs have in common: how a request is completed, what a run is told, what a graph is bound with."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar, cast

import numpy as np
from PIL import Image
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from composition.graphs.calls import Handle, Transport
from composition.media.decode import Decoder, MediaKind, MediaLimits
from composition.records.artifacts import Artifacts, ArtifactSettings
from composition.records.store import VIDEO
from services.errors import InvalidParameter
from services.frames import Fact, Frames, Item, JsonValue, Pixels, StageDone
from services.limits import from_json
from services.model import Role

MAX_RATE = 60
IMAGE = "image"
"""The variant that is a picture."""


class GraphRequest(BaseModel):
    """The root of the requests that a graph can run."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    MEDIA: ClassVar[Mapping[str, MediaKind]] = {}
    """The fields that hold media. By handle: a path or URL that the replica can open; `pictures` may lie in a folder.
    Over HTTP: a file id, a `data:` URL, or the multipart part of that name; `pictures` may be a list of these."""
    REFERENCE: ClassVar[str] = ""
    """The field that OpenAI's `input_reference` stands for."""
    STAGES: ClassVar[Mapping[str, float]] = {}
    """The stages of a run in their order, each with its share of the whole: an estimate, for progress."""
    OTHERS: ClassVar[tuple[str, ...]] = ()
    """The videos that a run may make beside its plain frames."""
    KEEPS_FRAMES: ClassVar[bool] = False
    """Whether each frame is kept without loss as soon as it is made: where it is costly, and the next is made of it."""
    SEGMENTS: ClassVar[tuple[int, int]] = (8, 32)
    """Frames in the output's first segment, which is short so that a player starts early, and in each later one."""
    WAITS: ClassVar[bool] = False
    """Whether a run mostly waits for jobs of its own making, which must find a runner beside it."""

    models: Annotated[Mapping[Role, str], BeforeValidator(from_json)] = Field(default_factory=dict[Role, str])
    """Role → the id of the model that takes it; by default the one that the configuration names."""

    @property
    def main(self) -> str:
        """The variant of the content that the request is for."""
        return VIDEO

    @classmethod
    def makes(cls, params: Mapping[str, Any]) -> set[str]:
        """The videos that a stored request makes: plain frames, and OTHERS."""
        del params
        return {VIDEO, *cls.OTHERS}

    @property
    def shares(self) -> Mapping[str, float]:
        """The stages of this run."""
        return self.STAGES

    @property
    def wants(self) -> Mapping[str, Role]:
        """Field → the role whose model it needs, where the graph runs without one."""
        return {}

    def drop_unserved(self, roles: Collection[str]) -> Self:
        """Return the request without the fields that were not asked for and need a model of a role that is not served.

        Raises InvalidParameter where one was asked for.
        """
        missing = {name: role for name, role in self.wants.items() if role not in roles}
        for name, role in missing.items():
            if name in self.model_fields_set:
                raise InvalidParameter(f"{name}: no model for {role} is served here", param=name)
        return self.model_copy(update=dict.fromkeys(missing))

    @property
    def mentions(self) -> Mapping[str, str]:
        """Place in the request → the id of a picture that is named there."""
        return {}

    @classmethod
    def lasting(cls, seconds: float, fields: Mapping[str, Any], rate: float) -> dict[str, Any]:
        """Return `fields` so that the video lasts OpenAI's `seconds`, as nearly as it can; as they are where it cannot.

        Args:
            seconds: above 0.
            fields: of the request, as they came, with the defaults behind them.
            rate: frames per second, for models that are not told one.
        """
        del rate
        return {**fields, "seconds": seconds}

    @classmethod
    def spelled_out(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return `fields` with objects in place of what may be said shorter, so that defaults can stand behind them."""
        return dict(fields)

    @classmethod
    def turns_on(cls, stage: str, fields: Mapping[str, Any]) -> bool:
        """Return whether a stage is on, by its field: what it is asked with, or nothing where it is off.

        Args:
            stage: the field.
            fields: of a request, spelled out.
        """
        value = fields.get(stage, cls.model_fields[stage].default)
        return value is not None and value is not False

    def check_media(self, frames: Mapping[str, int]) -> None:
        """Check the request against its media, before anything is made. Raises InvalidParameter.

        Args:
            frames: media field → how many frames, or pictures, there are.
        """


Request = TypeVar("Request", bound=GraphRequest)


@dataclass(frozen=True)
class Known:
    """What an earlier, interrupted run of the same job has left."""

    key: str = ""
    """The job's id. What a dead caller left running under it is stopped."""
    again: bool = False
    """Whether there was an earlier run, which may still be going on unheard."""
    facts: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    frames: int = 0
    """How many frames of the output are safe and need not be sent again."""
    kept: Sequence[str] = ()
    """Where the first frames lie, without loss, if the graph's frames are kept."""
    others: Mapping[str, int] = field(default_factory=dict[str, int])
    """Of the results beside the output: how many frames are safe."""
    pictures: Mapping[str, str] = field(default_factory=dict[str, str])
    """Of the results that are pictures: where they lie."""


NOTHING_KNOWN = Known()


class GraphSettings(BaseModel):
    """What the configuration tells a graph."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    artifacts: ArtifactSettings
    media: MediaLimits = MediaLimits()
    defaults: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Values for fields that a request leaves out, where they should differ from the request class's own."""
    database: str = ""
    """SQLAlchemy URL of the jobs, for graphs that make jobs."""
    role_defaults: dict[str, dict[str, Any]] = Field(default_factory=dict[str, dict[str, Any]])
    """Role → the defaults of the model that takes it, for graphs that make jobs of it."""


@dataclass(frozen=True)
class Need:
    """A role that a graph needs a model for."""

    role: Role
    request: type[BaseModel] | None = None
    """What the graph asks the model with: models that are asked otherwise cannot take the role in this graph."""
    at: str | None = None
    """The field of the graph's request whose fields are those of `request`; empty where they stand beside the graph's
    own. The model's limits and defaults hold for them. None where a request says nothing of them."""


GraphClass = Callable[[Mapping[Role, Handle], GraphSettings, Transport], Any]
"""Makes an object with `run(request, known)` of the models by their roles."""


@dataclass(frozen=True, eq=False)
class Graph:
    """What a graph is to everybody else: one value, which its file exports as `GRAPH`."""

    name: str
    request: type[GraphRequest]
    make: GraphClass
    needs: tuple[Need, ...] = ()
    """It is not served without these."""
    wants: tuple[Need, ...] = ()
    """It uses these where they are served."""
    parts: frozenset[str] = frozenset()
    """Names of the graphs that run the jobs that it makes. It is not served without these."""
    alternatives: Mapping[str, "Graph"] = field(default_factory=dict[str, "Graph"])
    """Its other forms, by the configuration's `scenes_by`."""

    @property
    def roles(self) -> tuple[Need, ...]:
        return (*self.needs, *self.wants)


def completed(request: Request, defaults: Mapping[str, Any]) -> Request:
    """Return the request with the configuration's defaults in the fields that were left out."""
    behind = type(request).spelled_out(defaults)
    return type(request).model_validate(merged_fields(behind, request.model_dump(exclude_unset=True)))


def merged_fields(behind: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return `given` with what is left out taken from `behind`, also inside of fields that are objects.

    What is only turned on (`true`) is as `behind` has it.
    """
    merged = dict(behind)
    for name, value in given.items():
        older = merged.get(name)
        if isinstance(older, Mapping) and isinstance(value, Mapping):
            merged[name] = merged_fields(cast("Mapping[str, Any]", older), cast("Mapping[str, Any]", value))
        elif not (isinstance(older, Mapping) and value is True):
            merged[name] = value
    return merged


Selected = TypeVar("Selected", bound=BaseModel)


def select_fields(wanted: type[Selected], request: BaseModel, **more: Any) -> Selected:
    """Return a `wanted` of the fields that it shares with `request`, and of `more`."""
    shared = {name: getattr(request, name) for name in wanted.model_fields if name in type(request).model_fields}
    return wanted.model_validate({**shared, **more})


def told_rate(fields: Mapping[str, Any], model: type[BaseModel]) -> float:
    """Frames per second as `fps` says it, or else the model's default; what is none is refused later."""
    default = float(model.model_fields["fps"].default)
    try:
        told = float(fields.get("fps", default))
    except (TypeError, ValueError, OverflowError):
        return default
    return told if 1 <= told <= MAX_RATE else default


class Media:
    """Opens the media that a request names."""

    def __init__(self, settings: GraphSettings) -> None:
        self._artifacts = Artifacts(settings.artifacts)
        self._limits = settings.media

    @asynccontextmanager
    async def opened(self, url: str) -> AsyncGenerator[Decoder]:
        """A file of any kind, or a folder of pictures. Raises NotFound, UndecodableMedia, LimitExceeded."""
        if "://" not in url and await asyncio.to_thread(Path(url).is_dir):
            async with Decoder.open(Path(url), self._limits) as decoder:
                yield decoder
            return
        async with self._artifacts.local(url) as path, Decoder.open(path, self._limits) as decoder:
            yield decoder

    async def own(self, url: str) -> Frames:
        """A picture that the project itself has written: no process needs to guard against it. Raises NotFound."""
        async with self._artifacts.local(url) as path:
            return Frames(await asyncio.to_thread(_read, path))

    async def picture(self, url: str) -> Frames:
        """The only frame of a picture, or the last one of a video."""
        async with self.opened(url) as decoder:
            return await decoder.last()


def _read(path: Path) -> Pixels:
    with Image.open(path) as picture:
        return np.array(picture)[None]


class Stages:
    """Says once for the whole video what every frame's call says again."""

    def __init__(self) -> None:
        self._told: dict[str, object] = {}
        self._done: dict[str, StageDone] = {}

    def passes(self, item: Item) -> bool:
        """Whether the item is new to those who watch."""
        if isinstance(item, StageDone):
            before = self._done.get(item.replica)
            self._done[item.replica] = replace(item, seconds=item.seconds + (before.seconds if before else 0.0))
            return False
        if not isinstance(item, Fact):
            return True
        new = item.name != "seed" and self._told.get(item.name) != item.value
        self._told[item.name] = item.value
        return new

    def done(self) -> list[StageDone]:
        """What each replica did, in all."""
        return list(self._done.values())


__all__ = [
    "IMAGE",
    "NOTHING_KNOWN",
    "Graph",
    "GraphRequest",
    "GraphSettings",
    "Known",
    "Media",
    "MediaKind",
    "Need",
    "Stages",
    "Transport",
    "completed",
    "merged_fields",
    "select_fields",
    "told_rate",
]
