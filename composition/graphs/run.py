"""The inputs of a run besides the request: settings, and the progress of an earlier attempt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from composition.media.limits import MediaLimits
from composition.records.artifacts import ArtifactSettings
from services.frames import Fact, Frames, Item, JsonValue, Scores, StageDone


@dataclass(frozen=True)
class Known:
    """The progress of an earlier, interrupted run of the same job."""

    key: str = ""
    """The job's id, under which the calls to models can be stopped."""
    is_retry: bool = False
    """Whether there was an earlier run. Its calls to models may still be running."""
    facts: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    """Name → value of the facts that the earlier run reported."""
    frames: int = 0
    """Number of frames of the main video that are stored and must not be sent again."""
    frame_urls: Sequence[str] = ()
    """URLs of the stored frames, in order, if the graph keeps its frames (`Graph.keeps_frames`)."""
    other_frames: Mapping[str, int] = field(default_factory=dict[str, int])
    """Variant of a secondary video → number of frames that are stored."""
    picture_urls: Mapping[str, str] = field(default_factory=dict[str, str])
    """Variant of a picture → its URL."""
    owner: str = ""
    """The job's owner, among whom decoders share the processor; empty if it is not known."""
    frame_scores: Sequence[Scores] = ()
    """Scores of the stored frames that have scores, in order."""


NOTHING_KNOWN = Known()


class GraphSettings(BaseModel):
    """Configuration of a graph."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    artifacts: ArtifactSettings
    media: MediaLimits = MediaLimits()
    defaults: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Default values of request fields. They take precedence over those of the request class."""
    database: str = ""
    """SQLAlchemy URL of the job database, for graphs that create jobs."""
    role_defaults: dict[str, dict[str, Any]] = Field(default_factory=dict[str, dict[str, Any]])
    """Role → default values of its model's request fields, for graphs that create jobs of that model."""
    role_kinds: dict[str, str] = Field(default_factory=dict[str, str])
    """Role → kind of its model."""
    role_rates: dict[str, float | None] = Field(default_factory=dict[str, float | None])
    """Role → frames per second of its model's videos; None if the request sets it, or only the loaded model knows."""


class Stages:
    """Merges the facts and stage times of per-frame calls into one report per video.

    Args:
        total: number of frames of the video. The frame that completes it is held back until the stages are reported.
    """

    def __init__(self, total: int | None = None) -> None:
        self._total = total
        self._last: Frames | None = None
        self._facts: dict[str, object] = {}
        self._done: dict[str, StageDone] = {}

    def add(self, item: Item) -> bool:
        """Record an item, and return whether it is news: no StageDone, last frame, or fact whose value is unchanged."""
        if isinstance(item, Frames) and item.stop == self._total:
            self._last = item
            return False
        if isinstance(item, StageDone):
            earlier = self._done.get(item.replica)
            self._done[item.replica] = replace(item, seconds=item.seconds + (earlier.seconds if earlier else 0.0))
            return False
        if not isinstance(item, Fact):
            return True
        is_new = item.name != "seed" and self._facts.get(item.name) != item.value
        self._facts[item.name] = item.value
        return is_new

    def list_done(self) -> list[StageDone]:
        """Return one StageDone per replica, with the total time."""
        return list(self._done.values())

    def finish(self) -> list[Item]:
        """Return one StageDone per replica, and then the frame that completes the video, if it was made."""
        return [*self.list_done(), *([self._last] if self._last else [])]
