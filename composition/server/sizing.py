"""What a configuration needs: disk, memory, operations and time of each model, and what does not fit a GPU."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composition.configuration.blocks import Block
from composition.configuration.settings import ModelEntry
from services.cards import Card
from services.catalogue import KINDS
from services.checkpoint import Checkpoint
from services.cost import GIGA, PETA, Cost, Job
from services.footprint import Footprint, measure_footprint, measure_seconds
from services.levers import Offload
from services.traits import find_traits

RAY_SHUTDOWN_S = 20.0
"""Seconds that Ray Serve leaves a stopping replica by default."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A request on a card."""

    cost: Cost
    footprint: Footprint
    seconds: float
    is_limited: bool = False
    """Whether `max_pflop` forbids it, so that `seconds` is the time of the largest allowed cost."""


@dataclass(frozen=True, slots=True)
class Sizing:
    """What a model needs."""

    name: str
    """Id of the model."""
    checkpoint: Checkpoint
    default: Measure
    largest: Measure


def size_model(
    name: str, entry: ModelEntry, checkpoint: Checkpoint, card: Card, share: float, home: Path | None = None
) -> Sizing | None:
    """Return what a model needs; None if its kind does not state costs.

    Args:
        name: id of the model.
        entry: its settings.
        checkpoint: facts of its checkpoint.
        card: the GPU.
        share: part of the GPU's peak that the networks reach.
        home: REELGRAPH_HOME, the folder of downloads.
    """
    model, settings = KINDS[entry.kind], entry.settings
    if model.costs is None:
        return None
    defaults: Mapping[str, Any] = {**find_traits(model, settings, home).defaults, **entry.defaults}
    estimate = model.costs.estimate
    jobs = model.costs.list_jobs(checkpoint, settings, defaults)
    limit: float | None = getattr(settings, "max_pflop", None)
    offload: Offload = getattr(settings, "offload", "none")

    def measure(job: Job[Any]) -> Measure:
        cost = estimate(checkpoint, settings, job)
        seconds = measure_seconds(checkpoint, cost, card, share)
        footprint = measure_footprint(checkpoint, cost, offload)
        if limit is None or cost.flop <= limit * PETA:
            return Measure(cost, footprint, seconds)
        return Measure(cost, footprint, seconds * limit * PETA / cost.flop, is_limited=True)

    return Sizing(name, checkpoint, measure(jobs.default), measure(jobs.largest))


def find_faults(block: Block, sizings: Sequence[Sizing], card: Card) -> list[str]:
    """Return a sentence for each part of an application's needs that its reservation or the card does not meet."""
    deployments: Sequence[Mapping[str, Any]] = block.raw.get("deployments") or ({},)
    deployment = deployments[0]  # an application has one
    options: Mapping[str, Any] = deployment.get("ray_actor_options") or {}
    gpus = float(options.get("num_gpus") or 0)
    if not sizings or not gpus:
        return []
    faults = [*_check_gpu(sizings, card, min(1.0, gpus)), *_check_host(sizings, options.get("memory"))]
    limit = float(deployment.get("graceful_shutdown_timeout_s", RAY_SHUTDOWN_S))
    for sizing in sizings:
        for title, job in (("default", sizing.default), ("largest", sizing.largest)):
            if job.seconds > limit:
                faults.append(
                    f"graceful_shutdown_timeout_s: {limit:,.0f} s end the {title} job of {sizing.name}, which takes "
                    f"{job.seconds:,.0f} s: {job.seconds - limit:,.0f} s too little"
                )
                break
    return faults


def _check_gpu(sizings: Sequence[Sizing], card: Card, gpus: float) -> list[str]:
    """All models of a process hold their memory at the same time."""
    room = card.memory_bytes * gpus
    for title in ("default", "largest"):
        prints = [(one.name, getattr(one, title).footprint) for one in sizings]
        total = sum(footprint.gpu_bytes for _, footprint in prints)
        if total > room:
            sums = "; ".join(f"{name}: {describe_parts(footprint.gpu)}" for name, footprint in prints)
            part = f"{gpus:g} of " if gpus < 1 else ""
            return [
                f"num_gpus: the {title} job takes {total / GIGA:,.1f} GB ({sums}), and {part}{card.title} has "
                f"{room / GIGA:,.1f} GB: {(total - room) / GIGA:,.1f} GB too little"
            ]
    return []


def _check_host(sizings: Sequence[Sizing], memory: Any) -> list[str]:
    need = sum(one.largest.footprint.host_bytes for one in sizings)
    if memory is None:
        return [f"memory: Ray is not told of the {need / GIGA:,.1f} GB of host memory that a replica takes"]
    if memory < need:
        return [
            f"memory: a replica takes {need / GIGA:,.1f} GB of host memory, and {memory / GIGA:,.1f} GB are reserved: "
            f"{(need - memory) / GIGA:,.1f} GB too little"
        ]
    return []


def describe_parts(parts: Mapping[str, float]) -> str:
    """Return a sum of memory in gigabytes, e.g. `weights 29.1 + runtime 1.5`."""
    return " + ".join(f"{name} {count / GIGA:,.1f}" for name, count in parts.items())
