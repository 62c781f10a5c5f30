"""The gate of a rolling edit: judges the tries of a frame, chooses the one to keep, and reports on all frames."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from composition.graphs.rolling_edit.request import Gate
from composition.media.frame_ranges import list_ranges, name_ranges
from services.frames import Fact, Frames, Scores, Sketch

MAX_RANGES = 12
"""Number of ranges of frames that a message lists."""


@dataclass(frozen=True)
class Judgement:
    """The scores of a frame compared with their maxima."""

    above: Mapping[str, float]
    """Score → its excess, relative to its maximum."""
    unmeasured: Sequence[str]
    """The scores that have a maximum and were not measured."""

    @property
    def passed(self) -> bool | None:
        """Whether all scores were measured and none is above its maximum; None if only measurements are missing."""
        if self.above:
            return False
        return None if self.unmeasured else True

    @property
    def excess(self) -> float:
        """The largest excess of a score; 0 if none is above its maximum."""
        return max(self.above.values(), default=0.0)


def judge_scores(gate: Gate, scores: Scores) -> Judgement:
    """Compare the scores of a frame with the maxima of a gate."""
    above: dict[str, float] = {}
    unmeasured: list[str] = []
    for name, maximum in gate.maxima.items():
        value: float | None = getattr(scores, name)
        if value is None or math.isnan(value):
            unmeasured.append(name)
        elif value > maximum:
            above[name] = value / maximum - 1
    return Judgement(above, unmeasured)


@dataclass(frozen=True)
class Candidate:
    """A picture made for a frame, with its scores and debug pictures."""

    frame: Frames
    scores: Scores | None
    """None if it was not scored and there is no gate."""
    sketches: Sequence[Sketch]
    rank: tuple[bool, float] = (False, 0.0)
    """Whether a score is above its maximum, and the largest excess: the lower, the better."""

    def list_items(self, tries: int) -> list[Sketch | Scores | Frames]:
        """Return what is sent if this picture is kept.

        Args:
            tries: number of pictures made for the frame.
        """
        scores = [] if self.scores is None else [replace(self.scores, tries=tries)]
        return [*self.sketches, *scores, self.frame]


class Tries:
    """The pictures that are made for one frame until one passes the gate; without a gate the first one does.

    Args:
        gate: the maximum scores.
        limit: maximum number of pictures.
    """

    def __init__(self, gate: Gate | None, limit: int) -> None:
        self._gate = gate
        self._limit = limit
        self._best: Candidate | None = None
        self._scores: Scores | None = None
        self._sketches: list[Sketch] = []
        self.count = 0
        """Number of pictures made so far."""
        self.is_decided = False
        """Whether the frame to keep has been chosen."""

    def take(self, item: Sketch | Scores | Frames, seed: int) -> list[Sketch | Scores | Frames]:
        """Take an item of the model, and return what is to be sent.

        That is nothing before the picture, its scores if it is refused, and all items of the frame if it is chosen.

        Args:
            item: the scores and the debug pictures precede their picture.
            seed: seed of the picture.
        """
        match item:
            case Scores():
                self._scores = replace(item, seed=seed, tries=self.count + 1)
            case Sketch():
                self._sketches.append(item)
            case Frames():
                return self._judge(item, seed)
        return []

    def _judge(self, frame: Frames, seed: int) -> list[Sketch | Scores | Frames]:
        self.count += 1
        candidate = Candidate(frame, self._scores, self._sketches)
        self._scores, self._sketches = None, []
        if self._gate is None:
            self.is_decided = True
            return candidate.list_items(self.count)
        scores = candidate.scores or Scores(frame.first, seed=seed, tries=self.count)
        judgement = judge_scores(self._gate, scores)
        scores = replace(scores, passed=judgement.passed)
        candidate = replace(candidate, scores=scores, rank=(judgement.passed is False, judgement.excess))
        if self._best is None or candidate.rank < self._best.rank:
            self._best = candidate
        self.is_decided = judgement.passed is not False or self.count == self._limit
        return self._best.list_items(self.count) if self.is_decided else [replace(scores, kept=False)]


@dataclass
class GateReport:
    """What a gate did to the frames of a video."""

    gate: Gate
    frames: int = 0
    """Number of frames that were judged."""
    tries: int = 0
    """Number of pictures made for them."""
    retried: int = 0
    """Number of frames that were made more than once."""
    above: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    """Score → indices of the kept frames that are above its maximum."""
    unmeasured: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    """Score → indices of the frames for which it was not measured."""

    def add(self, scores: Scores) -> None:
        """Add the scores of a kept frame."""
        judgement = judge_scores(self.gate, scores)
        self.frames += 1
        self.tries += scores.tries
        self.retried += scores.tries > 1
        for names, found in ((judgement.above, self.above), (judgement.unmeasured, self.unmeasured)):
            for name in names:
                found.setdefault(name, []).append(scores.frame)

    def list_facts(self) -> list[Fact]:
        """Return the facts of the job: numbers of pictures made, frames made again, and frames that did not pass."""
        refused = {index for frames in self.above.values() for index in frames}
        counts = {"gate_tries": self.tries, "gate_retried": self.retried, "gate_refused": len(refused)}
        facts = [Fact(name, count) for name, count in counts.items()]
        reason = self._explain()
        return [*facts, Fact("degraded", f"gate: {reason}")] if reason else facts

    def _explain(self) -> str:
        """Return which frames are above which maximum or were not measured; an empty text if there are none."""
        tries = f"after {self.gate.tries} {'tries' if self.gate.tries > 1 else 'try'}"
        maxima = self.gate.maxima
        lines = {name: f"above {maximum:g} {tries}" for name, maximum in maxima.items()}
        above = [
            f"{_name_frames(self.above[name])}: {name} {line}" for name, line in lines.items() if name in self.above
        ]
        missing = [f"{_name_frames(frames)}: {name} was not measured" for name, frames in self.unmeasured.items()]
        return "; ".join([*above, *missing])


def _name_frames(indices: Sequence[int]) -> str:
    """Return ascending indices as text, e.g. `frames 3, 7-9`."""
    return f"{'frame' if len(indices) == 1 else 'frames'} {name_ranges(list_ranges(indices), MAX_RANGES)}"


def combine_degraded(facts: Sequence[Fact]) -> list[Fact]:
    """Return the facts with one `degraded`, which has all reasons."""
    reasons = [str(fact.value) for fact in facts if fact.name == "degraded"]
    others = [fact for fact in facts if fact.name != "degraded"]
    return [*others, Fact("degraded", "; ".join(reasons))] if reasons else others
