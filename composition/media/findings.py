"""What the signals of a video say: frozen, flickering and flat frames, and cuts and jumps of colour.

All thresholds are in levels of 0 to 255, and come from the distributions in `benchmarks/results/signals.md`.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from composition.media.fault_kinds import KINDS, FaultKind
from composition.media.frame_ranges import name_ranges
from composition.media.signals import FrameSignals, unpack_signals

Numbers: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]

MAX_RANGES = 8
"""Ranges of a kind that a description names."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From which values on a signal is a finding."""

    still_change: float = 0.1
    """Largest mean difference of a frame that does not change."""
    still_peak: float = 6.0
    """Largest difference of one cell of a frame that does not change."""
    frozen_frames: int = 4
    """Fewest frames that are alike."""
    frozen_s: float = 0.15
    """Shortest time for which frames are alike, in seconds."""
    still_s: float = 10.0
    """The same in a video of one shot that never moves."""
    swing: float = 1.5
    """Smallest change of brightness, colour or contrast from one turn of a flicker to the next."""
    swing_share: float = 0.3
    """The same as a share of the residual: where much moves, the mean colour is measured less exactly."""
    turns: int = 4
    """Fewest turns of a flicker."""
    turn_frames: int = 3
    """Most frames from one turn to the next."""
    turn_s: float = 0.3
    """Longest time from one turn to the next, in seconds; more is a slow change."""
    cut: float = 8.0
    """Smallest residual of a cut."""
    cut_ratio: float = 3.5
    """The same as a multiple of the residuals nearby, if the colours are the same."""
    cut_ratio_jump: float = 1.6
    """The same if there is also a jump of the colours."""
    cut_shift: float = 40.0
    """Smallest shift of a cut to a picture of the same forms."""
    jump: float = 4.0
    """Smallest shift of a jump."""
    jump_ratio: float = 4.0
    """The same as a multiple of the shifts nearby."""
    jump_step: float = 1.0
    """The same as a multiple of the changes of colour nearby: where a fade ends is no jump."""
    jump_share: float = 0.25
    """The same as a share of the residual: where much moves, the colours change too."""
    flat_extent: float = 2.5
    """Largest extent of a flat frame."""
    abrupt_share: float = 0.6
    """Smallest contrast of the frame beside flat ones, as a share of that of the frames beyond it; less is a fade."""
    near: int = 4
    """Frames before and after that are nearby."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A run of frames with a fault."""

    kind: FaultKind
    first: int
    """Index of the first frame."""
    last: int
    """Index of the last frame."""


DEFAULT_THRESHOLDS = Thresholds()


def find_faults(
    frames: Sequence[FrameSignals], kinds: Collection[FaultKind] = KINDS, thresholds: Thresholds = DEFAULT_THRESHOLDS
) -> list[Finding]:
    """Return the faults of a video's frames, by kind and in order.

    Frames that a user gave are never at fault, and neither is a change of picture that was asked for.

    Args:
        frames: the signals of all frames, from the first on.
        kinds: the kinds that are looked for.
        thresholds: from which values on a signal is a finding.
    """
    if not frames:
        return []
    table = SignalTable(frames, thresholds)
    cuts, jumps = table.breaks
    found = {"frozen": table.frozen, "flicker": table.flickering, "cut": cuts, "jump": jumps, "flat": table.find_flat()}
    return [
        Finding(kind, first, last)
        for kind in KINDS
        if kind in kinds
        for first, last in _list_ranges(found[kind] & table.made)
    ]


@dataclass(frozen=True, slots=True)
class Judgement:
    """The signals of a video's frames, and the faults in them."""

    frames: Sequence[FrameSignals]
    findings: Sequence[Finding]

    def list_flags(self) -> list[list[FaultKind]]:
        """Return the kinds of faults of each frame."""
        flags: list[list[FaultKind]] = [[] for _ in self.frames]
        for finding in self.findings:
            for index in range(finding.first, finding.last + 1):
                flags[index].append(finding.kind)
        return flags


def judge_parts(parts: Sequence[Mapping[str, Any] | None]) -> Judgement:
    """Judge the frames of a video.

    Args:
        parts: what is stored with each segment in order: first `faults`, the kinds that are looked for, then the frames
            (`pack_signals`). None for a segment that was not measured; then there is no judgement of the video.
    """
    if not parts or any(part is None for part in parts):
        return Judgement((), ())
    head, *rest = (part or {} for part in parts)
    frames = unpack_signals(rest)
    return Judgement(frames, find_faults(frames, head["faults"]))


def describe_findings(findings: Sequence[Finding]) -> str:
    """Return the findings as text, `frozen 12-19; cut 40, 81`; empty if there are none. It names at most MAX_RANGES
    ranges of each kind."""
    parts: list[str] = []
    for kind, group in groupby(findings, key=lambda finding: finding.kind):
        parts.append(f"{kind} {name_ranges([(each.first, each.last) for each in group], MAX_RANGES)}")
    return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class Nearby:
    """How each frame compares with the frames nearby; see `SignalTable.compare_near`."""

    shift: Numbers
    """How far mean and spread of the channels are from those of the previous frame, or from where the steps nearby
    lead, whichever is less: a step of the colours that is like those nearby is a slow change."""
    usual_residual: Numbers
    """Upper quartile of the residuals nearby, 0 if there are none; more behind still frames."""
    usual_shift: Numbers
    """The same of the shifts."""
    usual_step: Numbers
    """The same of the changes of mean and spread from one frame to the next."""
    count: NDArray[np.intp]
    """Number of frames nearby."""


class SignalTable:
    """The signals of n frames as columns. What compares a frame with the previous one is 0 for the first frame."""

    def __init__(self, frames: Sequence[FrameSignals], thresholds: Thresholds = DEFAULT_THRESHOLDS) -> None:
        self._limits = thresholds
        self.origins = np.array([frame.origin for frame in frames])
        self.made: Flags = self.origins != "given"
        self.seconds = np.array([frame.seconds for frame in frames])
        self.colours = np.array([(*frame.means, frame.contrast) for frame in frames])
        """(n, 4): mean of red, green and blue, and the contrast."""
        self.spreads = np.array([frame.spreads for frame in frames])
        self.extent = np.array([frame.extent for frame in frames])
        self.change, self.peak, self.residual = (
            np.array([value or 0.0 for value in values])
            for values in zip(*((frame.change, frame.peak, frame.residual) for frame in frames), strict=True)
        )
        self.still: Flags = (self.change <= thresholds.still_change) & (self.peak <= thresholds.still_peak)
        self.flat: Flags = self.extent <= thresholds.flat_extent
        self.compared: Flags = self._find_compared()
        """Whether a change from the previous frame says something: neither is flat, and no new shot was asked for."""

    def _find_compared(self) -> Flags:
        compared = ~self.flat
        compared[1:] &= ~self.flat[:-1]
        compared[0] = False
        compared[self.origins == "shot"] = False
        for first, last in _list_ranges(self.origins == "fade"):
            if last - first + 1 < FADE_FRAMES:
                compared[first : last + 1] = False
            elif last + 1 < len(compared):  # the first frame behind a long cross-fade is one more step of it
                compared[last + 1] = ~self.flat[last + 1]
        return compared

    def list_shots(self) -> Iterator[slice]:
        """Yield the frames of each shot, without cross-fades."""
        begins = (self.origins == "shot") | (self.origins == "fade")
        for first, last in _list_ranges(self.origins != "fade"):
            cuts = [first, *(np.flatnonzero(begins[first + 1 : last + 1]) + first + 1), last + 1]
            for start, stop in pairwise(cuts):
                yield slice(int(start), int(stop))

    def find_flat(self) -> Flags:
        """Flat frames, unless the picture fades to or from them, or continues those that a user gave."""
        found = np.zeros(len(self.flat), np.bool_)
        contrast, near = self.colours[:, 3], self._limits.near
        for first, last in _list_ranges(self.flat & self.made):
            if first and self.flat[first - 1]:  # given by the user
                continue
            sides = [contrast[max(0, first - near) : first][::-1], contrast[last + 1 : last + 1 + near]]
            edges = [side[0] / side.max() for side in sides if len(side)]
            found[first : last + 1] = not edges or max(edges) >= self._limits.abrupt_share
        return found

    @cached_property
    def frozen(self) -> Flags:
        """Frames that are alike for longer than the frames of their shot usually are, if it moves, or for very long.

        Where a storyboard shows a picture that does not move, it may be a title card.
        """
        found, limits = np.zeros(len(self.flat), np.bool_), self._limits
        for shot in self.list_shots():
            inside = self.still[shot].copy()
            inside[0] = False
            is_moving = np.count_nonzero(~inside[1:]) >= FEWEST_MOVES
            if not is_moving and (self.origins == "shot").any():
                continue
            least_s = limits.frozen_s if is_moving else limits.still_s
            runs = [(first - 1 + shot.start, last + shot.start) for first, last in _list_ranges(inside)]
            moves = np.count_nonzero(~inside)  # each begins a picture, which is held for 0 or more frames
            holds = np.sort([0] * max(0, moves - len(runs)) + [last - first for first, last in runs])
            usual = int(holds[len(holds) // 2]) if is_moving else 0
            for first, last in runs:
                count = last - first + 1
                long = self.seconds[first : last + 1].sum() >= least_s
                if count >= limits.frozen_frames and long and count > 2 * (usual + 1) and not self.flat[first]:
                    found[first : last + 1] = True
        return found

    @cached_property
    def flickering(self) -> Flags:
        """Frames between turns that follow each other quickly, of any channel's mean or of the contrast."""
        found = np.zeros(len(self.flat), np.bool_)
        limits = self._limits
        for part in self.list_shots():
            shot = slice(part.start + int(np.count_nonzero(~self.made[part])), part.stop)
            if shot.start == shot.stop:
                continue
            moved = np.nanmedian(_look_around(self.residual[shot], limits.near), axis=1)
            least = np.maximum(limits.swing, limits.swing_share * moved)
            for column in self.colours[shot].T:
                for first, last in self._find_quick([shot.start + turn for turn in _find_turns(column, least)]):
                    found[first : last + 1] = True
        return found & ~self.flat

    def _find_quick(self, turns: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Yield the first and the last of each group of turns that follow each other quickly."""
        limits, group = self._limits, list(turns[:1])
        for before, turn in pairwise(turns):
            seconds = self.seconds[before:turn].sum()
            if turn - before > limits.turn_frames or seconds > limits.turn_s:
                if len(group) >= limits.turns:
                    yield group[0], group[-1]
                group = []
            group.append(turn)
        if len(group) >= limits.turns:
            yield group[0], group[-1]

    @cached_property
    def breaks(self) -> tuple[Flags, Flags]:
        """Cuts, frames that show another picture than the previous one, and jumps, whose colours differ from it: by
        much more than those of frames nearby do. What is in, before or behind a flicker or a frozen run is none."""
        judged = self.compared & ~self.frozen & ~self.flickering
        judged[1:] &= ~(self.frozen | self.flickering)[:-1]
        judged[:-1] &= ~self.flickering[1:]
        cuts, jumps = self._find_breaks(judged, judged)
        return self._find_breaks(judged, judged & ~cuts & ~jumps)

    def _find_breaks(self, judged: Flags, usual: Flags) -> tuple[Flags, Flags]:
        """Return the cuts and the jumps among the frames `judged`, compared with the `usual` frames nearby."""
        limits, residual = self._limits, self.residual
        near = self.compare_near(usual)
        shift, judged = near.shift, judged & (near.count >= FEWEST)
        jumps = judged & (shift >= limits.jump) & (shift >= limits.jump_share * residual)
        jumps &= (shift >= limits.jump_ratio * near.usual_shift) & (shift >= limits.jump_step * near.usual_step)
        ratio = np.where(jumps, limits.cut_ratio_jump, limits.cut_ratio)
        cuts = judged & (residual >= limits.cut) & (residual >= ratio * near.usual_residual)
        cuts |= jumps & (shift >= limits.cut_shift)
        return cuts, jumps & ~cuts

    def compare_near(self, usual: Flags) -> Nearby:
        """Compare each frame with those frames nearby that are `usual`.

        Frames that do not change are not usual: where a video shows each frame twice, every second one is still. A
        frame behind n still ones may differ n + 1 times as much as usual.
        """
        near, count = self._limits.near, _count_near(usual, self._limits.near)
        usual = usual & ~self.still
        both = np.concatenate((self.colours[:, :3], self.spreads), axis=1)
        steps = np.diff(both, axis=0, prepend=both[:1])
        drifts = np.stack([_find_drift(column, usual) for column in steps.T], axis=1)
        shift = np.minimum(_find_length(steps - drifts), _find_length(steps))
        late = 1 + _count_before(self.still)
        return Nearby(
            shift,
            usual_residual=late * _find_usual(self.residual, usual, near),
            usual_shift=late * _find_usual(shift, usual, near),
            usual_step=late * _find_usual(_find_length(steps), usual, near),
            count=count,
        )


DRIFT_FRAMES = 2
"""Frames before and after whose steps tell where a slow change leads."""
FEWEST_MOVES = 3
"""Fewest changes of the picture in a shot that moves."""
FEWEST = 2
"""Fewest frames nearby with which the colours of a frame can be compared."""
FADE_FRAMES = 3
"""Length of a cross-fade from which on its frames must follow each other smoothly."""


def _look_around(values: Numbers, near: int) -> Numbers:
    """Return (n, 2 * near + 1): each value with those before and after it; NaN where there are none."""
    padded = np.pad(values, near, constant_values=np.nan)
    return np.lib.stride_tricks.sliding_window_view(padded, 2 * near + 1).copy()


def _find_usual(values: Numbers, usual: Flags, near: int) -> Numbers:
    """Return the upper quartile of `near` usual values before and after each, without its own; 0 if there are none."""
    places = np.flatnonzero(usual)
    found = np.zeros(len(values))
    for index in range(len(values)):
        at = int(np.searchsorted(places, index))
        own = at < len(places) and places[at] == index
        around = np.concatenate((places[max(0, at - near) : at], places[at + own : at + own + near]))
        if len(around):
            found[index] = np.sort(values[around])[-(-3 * len(around) // 4) - 1]
    return found


def _find_drift(steps: Numbers, usual: Flags) -> Numbers:
    """Return the median of the usual steps among the DRIFT_FRAMES before and after each; 0 where there are none."""
    around = _look_around(np.where(usual, steps, np.nan), DRIFT_FRAMES)
    around[:, DRIFT_FRAMES] = np.nan
    ordered, count, rows = np.sort(around, axis=1), (~np.isnan(around)).sum(axis=1), np.arange(len(steps))
    low, high = ordered[rows, np.maximum(0, (count - 1) // 2)], ordered[rows, count // 2]
    return np.where(count > 0, (low + high) / 2, 0.0)


def _find_length(steps: Numbers) -> Numbers:
    """Return the length of each step of the means and spreads of three channels, as a mean over the channels."""
    return np.sqrt(np.square(steps).sum(axis=1) / 3)


def _count_near(flags: Flags, near: int) -> NDArray[np.intp]:
    """Return how many of the `near` frames before and after each are flagged."""
    sums = np.concatenate(([0], np.cumsum(flags)))
    index = np.arange(len(flags))
    around = sums[np.minimum(len(flags), index + near + 1)] - sums[np.maximum(0, index - near)]
    return around - flags


def _count_before(flags: Flags) -> NDArray[np.intp]:
    """Return how many frames directly before each are flagged."""
    index = np.arange(len(flags))
    clear = np.maximum.accumulate(np.where(flags, -1, index))  # the last frame, up to each, that is not flagged
    before = np.concatenate(([-1], clear[:-1]))
    return index - 1 - before


def _find_turns(values: Numbers, least: Numbers) -> list[int]:
    """Return the indices of the lowest and highest values between which the values go up and down by `least` or more.

    Args:
        values: one value for each frame.
        least: the smallest change that counts, at each frame.
    """
    turns: list[int] = []
    high = low = extreme = 0
    direction = 0
    """1 after a low turn, -1 after a high one, 0 before the first."""
    for index, value in enumerate(values):
        if direction == 0:
            high = index if value > values[high] else high
            low = index if value < values[low] else low
            if values[high] - values[low] >= least[index]:
                turns.append(min(high, low))
                direction, extreme = (1 if high > low else -1), index
        elif direction * (value - values[extreme]) > 0:
            extreme = index
        elif direction * (values[extreme] - value) >= least[index]:
            turns.append(extreme)
            direction, extreme = -direction, index
    return [*turns, extreme] if direction else turns


def _list_ranges(flags: Flags) -> list[tuple[int, int]]:
    """Return the first and the last index of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    return [(int(first), int(stop) - 1) for first, stop in edges.reshape(-1, 2)]
