"""Measures how well the faults of videos are found by their signals, and what the signals cost."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rich.progress import track

from benchmarks.planted import (
    ARRANGEMENTS,
    FAULTS,
    PICTURES,
    SOURCES,
    Clip,
    Shape,
    draw_clip,
    plant_fault,
    repeat_origin,
    take_movie,
)
from benchmarks.report import Goal, Report, Row, Section, find_spread, measure_alternately, ratio
from composition.media.encode import SegmentEncoder
from composition.media.fault_kinds import KINDS, FaultKind
from composition.media.findings import DEFAULT_THRESHOLDS, Finding, SignalTable, describe_findings, find_faults
from composition.media.signals import FrameSignals, SignalMeter, pack_signals
from miniatures import world
from miniatures.grammar import caption
from miniatures.studio import Studio, frames_of
from miniatures.svd import FRAMES, USUAL_BUCKET, set_direction
from services.frames import Pixels

TUNING, HELD_OUT = (0, 4, 10, 20, 40, 60, 80, 100), range(1_000_000, 1_000_004)
"""Seeds of the clips from which the thresholds come, and of those that only check them."""
STRENGTHS: Mapping[FaultKind, Sequence[float]] = {"flicker": (0.02, 0.04, 0.08), "jump": (4, 8, 16)}
SENSIBLE: Mapping[FaultKind, float] = {"flicker": 0.08, "jump": 16}
"""Strength at which a fault must be found."""
HIDDEN: Sequence[FaultKind] = ("flicker", "jump")
"""Kinds of faults that noise hides."""
GOAL = 0.95
MINIATURES = 2
"""Scenes that the miniatures animate."""
GIVEN, EDITED = 17, 9
"""Frames of a user's clip and of its continuation, and of a rolling edit."""
COST = 0.03
"""Largest cost of the signals, as a share of the encoding."""
COST_SIZES = ((640, 360), (1280, 720))
SEGMENT = 32
ROUNDS = 5
OURS, ENCODER = "signals", "encoding"

METHOD = f"""\
Clips of 32 to 56 frames at 8 to 60 frames per second, 64×64 to 256×144 pixels: the miniatures' world, waves of colour,
photographs that are panned and zoomed (half of them by a shaking hand, which at 8 frames per second is wild), Big Buck
Bunny, and noise that is new in every frame. A third is as drawn, a third has noise of 0.5 to 3 levels, a third went
through H.264 at a quality of 16 to 27. One fault is planted in each (`benchmarks/planted.py`). It is found if a finding
of its kind touches its frames, or the frame beside them; every other finding in any clip, with or without a fault, is
false. *Precision* is the share of findings that are right, over all strengths. The thresholds were chosen with clips of
{len(TUNING)} seeds for each source, kind and strength, and are checked with those of {len(HELD_OUT)} other seeds. Noise
hides a flicker and a jump, and what follows it is no cut, so recall of these is of the other sources."""


ARRANGED = """\
`held`: each frame is shown two to eight times. `fading`: from black and to black. `joined`: two scenes with a cut or a
cross-fade that was asked for. `continued`: the first half is a user's, with a cut or a still. `still`: one picture.
Clips of all seeds."""
DISTRIBUTED = """\
Of the clips from which the thresholds come: values at planted faults, and of moving clips without a fault the extreme
of each clip. Percentiles."""
MADE = f"""\
{MINIATURES} held-out scenes of one shape. V2V joins its continuation to the clip; the first frame of a rolling edit is
the user's. What is found is there: where Stable Video Diffusion flickers, the mean of a channel goes up and down by
four levels."""
COSTS = f"""\
Time per frame in segments of {SEGMENT} frames, of the signals and of the default encoder. {ROUNDS} rounds with
alternating order after a warm-up round; medians, with the extremes in brackets."""


@dataclass(frozen=True)
class Trial:
    """A clip and the findings in it."""

    source: str
    kind: FaultKind | None
    """The planted fault."""
    strength: float
    arrangement: str
    first: int
    """First frame of the fault."""
    last: int
    frames: Sequence[FrameSignals]
    is_found: bool
    false: Sequence[Finding]


def measure() -> Report:
    """Plant and look for faults, judge what the miniatures make, and time the signals. Takes six minutes."""
    tuning, held_out = list(run_trials(track(TUNING))), list(run_trials(track(HELD_OUT)))
    cost, samples = _measure_cost()
    goals: list[Goal] = []
    for kind in KINDS:
        strength = SENSIBLE.get(kind, 0.0)
        goals.append(Goal(f"recall of {name_fault(kind, strength)}", find_recall(held_out, kind, strength), GOAL))
        goals.append(Goal(f"precision of {kind}", find_precision(held_out, kind), GOAL))
    goals += [
        Goal(f"cost over encoding, {name}", ratio(each, OURS, ENCODER).median, COST, True)
        for name, each in samples.items()
    ]
    sections = [
        Section("Faults in held-out clips", "", list(_list_faults(held_out))),
        Section("Faults in the clips from which the thresholds come", "", list(_list_faults(tuning))),
        Section("Clips without a fault", ARRANGED, list(_list_clean([*tuning, *held_out]))),
        Section("Distributions", DISTRIBUTED, list(_list_distributions(tuning))),
        Section("What the miniatures make", MADE, list(_judge_miniatures())),
        Section("Cost", COSTS, cost),
    ]
    flat = {f"{way}, {name}, µs per frame": values for name, each in samples.items() for way, values in each.items()}
    return Report("Signals", METHOD, [], goals, flat, ("numpy", "av"), sections=sections)


def run_trials(
    seeds: Iterable[int],
    sources: Sequence[str] = tuple(SOURCES),
    strengths: Mapping[FaultKind, Sequence[float]] = STRENGTHS,
) -> Iterator[Trial]:
    """Draw clips with each fault, and without one, from each source and seed, and look for faults in them."""
    for seed, (number, source) in product(seeds, enumerate(sources)):
        own = len(SOURCES) * seed + number
        for kind in FAULTS:
            if kind == "cut" and source not in PICTURES:
                continue
            for strength in strengths.get(kind, (0.0,)):
                yield _judge(source, plant_fault(own, source, kind, strength), "moving", strength)
        for arrangement in ARRANGEMENTS:
            if source in PICTURES or arrangement == "moving":
                yield _judge(source, draw_clip(own, source, arrangement), arrangement)


def _judge(source: str, clip: Clip, arrangement: str, strength: float = 0.0) -> Trial:
    frames = clip.measure()
    found = find_faults(frames)
    right = [
        each for each in found if each.kind == clip.kind and clip.first - 1 <= each.last and each.first <= clip.last + 1
    ]
    false = [each for each in found if each not in right]
    return Trial(source, clip.kind, strength, arrangement, clip.first, clip.last, frames, bool(right), false)


def find_recall(trials: Sequence[Trial], kind: FaultKind, strength: float) -> float:
    """Return the share of the faults of a kind and a strength that were found."""
    found = [
        each.is_found
        for each in trials
        if (each.kind, each.strength) == (kind, strength) and (kind not in HIDDEN or each.source in PICTURES)
    ]
    return float(np.mean(found))


def find_precision(trials: Sequence[Trial], kind: FaultKind) -> float:
    """Return the share of the findings of a kind that are right."""
    right = sum(each.is_found for each in trials if each.kind == kind)
    return right / (right + sum(finding.kind == kind for each in trials for finding in each.false))


def name_fault(kind: FaultKind, strength: float) -> str:
    if kind == "flicker":
        return f"flicker of {100 * strength:g} %"
    return f"jump of {strength:g} levels" if kind == "jump" else kind


def _list_faults(trials: Sequence[Trial]) -> Iterator[Row]:
    for kind in KINDS:
        for strength in STRENGTHS.get(kind, (0.0,)):
            mine = [each for each in trials if (each.kind, each.strength) == (kind, strength)]
            shares: dict[str, str] = {}
            for source in SOURCES:
                found = [each.is_found for each in mine if each.source == source]
                shares[source] = f"{sum(found)} of {len(found)}" if found else ""
            recall = find_recall(trials, kind, strength)
            precision = find_precision(trials, kind)
            yield {
                "fault": name_fault(kind, strength),
                "recall": f"{recall:.3f}",
                "precision": f"{precision:.3f}",
            } | shares


def _list_clean(trials: Sequence[Trial]) -> Iterator[Row]:
    for arrangement in ARRANGEMENTS:
        mine = [each for each in trials if each.kind is None and each.arrangement == arrangement]
        wrong = [f"{each.source}: {describe_findings(each.false)}" for each in mine if each.false]
        yield {"clips": arrangement, "number": len(mine), "with a finding": len(wrong), "": "; ".join(wrong)}


def _list_distributions(trials: Sequence[Trial]) -> Iterator[Row]:
    clean = [SignalTable(each.frames) for each in trials if each.kind is None and each.arrangement == "moving"]
    faulty: dict[FaultKind, list[tuple[Trial, SignalTable]]] = {kind: [] for kind in KINDS}
    for each in trials:
        if each.kind is not None and each.strength in (0.0, SENSIBLE.get(each.kind)):
            faulty[each.kind].append((each, SignalTable(each.frames)))
    still = [table.change[trial.first + 1 : trial.last + 1] for trial, table in faulty["frozen"]]
    yield _describe("change of frozen frames", np.concatenate(still), DEFAULT_THRESHOLDS.still_change)
    yield _describe("smallest change without a fault", [each.change[1:].min() for each in clean])
    flat = [table.extent[trial.first : trial.last + 1] for trial, table in faulty["flat"]]
    yield _describe("extent of flat frames", np.concatenate(flat), DEFAULT_THRESHOLDS.flat_extent)
    yield _describe("smallest extent without a fault", [each.extent.min() for each in clean])
    cuts = [_compare_residuals(table)[trial.first] for trial, table in faulty["cut"]]
    yield _describe("residual of a cut over that nearby", cuts, DEFAULT_THRESHOLDS.cut_ratio)
    yield _describe("largest such without a fault", [_compare_residuals(each).max() for each in clean])
    jumps = [_compare_shifts(table)[trial.first] for trial, table in faulty["jump"]]
    yield _describe(
        f"shift of a {name_fault('jump', SENSIBLE['jump'])} over that nearby", jumps, DEFAULT_THRESHOLDS.jump_ratio
    )
    yield _describe("largest such without a fault", [_compare_shifts(each).max() for each in clean])


def _compare_residuals(table: SignalTable) -> NDArray[np.float64]:
    """Return the residual over that nearby of each frame whose residual is that of a cut, otherwise 0."""
    near = table.compare_near(table.compared)
    counts = table.compared & (table.residual >= DEFAULT_THRESHOLDS.cut)
    return np.where(counts, table.residual / np.maximum(near.usual_residual, 0.01), 0.0)


def _compare_shifts(table: SignalTable) -> NDArray[np.float64]:
    near = table.compare_near(table.compared)
    counts = table.compared & (near.shift >= DEFAULT_THRESHOLDS.jump)
    return np.where(counts, near.shift / np.maximum(near.usual_shift, 0.01), 0.0)


def _describe(name: str, values: ArrayLike, threshold: float | None = None) -> Row:
    shares = (0, 5, 25, 50, 75, 95, 100)
    percentiles = np.percentile(np.asarray(values, float), shares)
    row: dict[str, str | float] = {"": name, "threshold": "" if threshold is None else threshold}
    return row | {f"{share} %": float(value) for share, value in zip(shares, percentiles, strict=True)}


def _judge_miniatures() -> Iterator[Row]:
    found: dict[str, list[str]] = {}
    for name, clip in _run_miniatures(Studio()):
        found.setdefault(name, []).append(describe_findings(find_faults(clip.measure())))
    for name, texts in found.items():
        told = [text for text in texts if text]
        yield {"video": name, "number": len(texts), "with a finding": len(told), "": ", ".join(told)}


def _run_miniatures(studio: Studio) -> Iterator[tuple[str, Clip]]:
    for seed in range(MINIATURES):
        scene = set_direction(world.draw(seed, figures=1))
        given, picture = studio.file(scene.clip(GIVEN), "given"), studio.file(scene.clip(1), "first")
        for name, matched in (("v2v", True), ("v2v without match_colour", False)):
            fields = {"input_video": given, "prompt": caption(scene, frames=GIVEN), "match_colour": matched}
            made = frames_of(studio.run("v2v", **fields, seed=seed, num_frames=GIVEN, join=True))
            yield name, _begin_with(scene.clip(GIVEN), made)
        prompt = caption(scene, frames=1)
        made = frames_of(studio.run("wan-i2v", image=picture, prompt=prompt, seed=seed, num_frames=GIVEN))
        yield "wan-i2v", _begin_with(made[:0], made)
        fields = {"num_frames": FRAMES, "motion_bucket_id": USUAL_BUCKET, "size": f"{scene.width}x{scene.height}"}
        made = frames_of(studio.run("svd", image=picture, seed=seed, **fields))
        yield "svd", _begin_with(made[:0], made)
        edges = studio.file(scene.edges(EDITED - 1, start=1), "edges")
        for scale in (0, 1):
            fields = {"init_frame": picture, "edge_video": edges, "ttlg": {"edge_scale": scale}}
            made = frames_of(studio.run("rolling-edit", **fields, seed=seed))
            yield f"rolling-edit, edge_scale {scale}", _begin_with(made[:1], made[1:])


def _begin_with(given: Pixels, made: Pixels) -> Clip:
    origins = repeat_origin("given", len(given)) + repeat_origin("made", len(made))
    return Clip(np.concatenate((given, made)), world.RATE, origins)


def _measure_cost() -> tuple[list[Row], dict[str, dict[str, list[float]]]]:
    rows: list[Row] = []
    samples: dict[str, dict[str, list[float]]] = {}
    for width, height in COST_SIZES:
        pixels = take_movie(np.random.default_rng(0), Shape(width, height, SEGMENT, 25))
        encoder = SegmentEncoder(width, height, Fraction(25))
        ways = {OURS: partial(_time_signals, pixels), ENCODER: partial(_time_encoding, encoder, pixels)}
        times = measure_alternately(ways, ROUNDS)
        samples[f"{width}×{height}"] = times
        row: dict[str, str | float] = {"size": f"{width}×{height}"}
        row |= {f"{way}, µs": str(find_spread(values)) for way, values in times.items()}
        rows.append(row | {"share": str(ratio(times, OURS, ENCODER))})
    return rows, samples


def _time_signals(pixels: Pixels) -> float:
    """Return the time to measure and pack the signals of a segment, in microseconds per frame."""
    begun, meter = time.perf_counter(), SignalMeter()
    pack_signals(meter.measure(pixels, repeat_origin("made", len(pixels)), [0.04] * len(pixels)), meter.state)
    return (time.perf_counter() - begun) / len(pixels) * 1e6


def _time_encoding(encoder: SegmentEncoder, pixels: Pixels) -> float:
    begun = time.perf_counter()
    encoder.encode_segment(pixels, 0, 1)
    return (time.perf_counter() - begun) / len(pixels) * 1e6
