"""Planted faults are found, and nothing else is, in a small set of clips that no threshold was chosen with."""

import pytest

from benchmarks.planted import PICTURES
from benchmarks.signals import SENSIBLE, Trial, find_precision, find_recall, run_trials
from composition.media.fault_kinds import KINDS, FaultKind

SEEDS = range(2_000_000, 2_000_002)
LEAST = 0.87
"""Share of eight faults that is found: all but one."""


@pytest.fixture(scope="module")
def trials() -> list[Trial]:
    return list(run_trials(SEEDS, PICTURES, {kind: (strength,) for kind, strength in SENSIBLE.items()}))


@pytest.mark.parametrize("kind", KINDS)
def test_recall_and_precision(trials: list[Trial], kind: FaultKind) -> None:
    assert find_recall(trials, kind, SENSIBLE.get(kind, 0.0)) >= LEAST
    assert find_precision(trials, kind) >= LEAST


def test_hardly_any_clip_without_a_fault_has_a_finding(trials: list[Trial]) -> None:
    clean = [each for each in trials if each.kind is None]
    assert len(clean) == len(SEEDS) * len(PICTURES) * 6
    assert sum(bool(each.false) for each in clean) <= 1
