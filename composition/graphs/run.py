"""What a graph is run with, and what an interrupted run has left."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from composition.media.limits import MediaLimits
from composition.records.artifacts import ArtifactSettings
from services.frames import Fact, Item, JsonValue, StageDone


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
