"""`reel models check`: compare checkpoints with their networks before any download, and print what they need."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from composition.configuration.file import Configuration
from composition.configuration.settings import ModelEntry, ModelsSettings
from composition.server.sizing import Measure, Sizing, describe_parts, find_faults, size_model
from services.cards import CARDS, Card
from services.catalogue import KINDS
from services.checkpoint import Checkpoint, Component
from services.cost import GIGA, PETA, TERA
from services.errors import ConfigError
from services.levers import CheckpointSettings
from services.traits import select_files
from services.weights.downloads import HubAway
from services.weights.folder import describe_folder
from services.weights.headers import Header, read_headers
from services.weights.local import find_folder
from services.weights.weights import Weights

FITS, UNFIT = 0, 1
GPUS = tuple(CARDS)
"""Names of the GPUs."""
MINUTE = 120.0


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a configuration."""

    cards: tuple[str, ...]
    """Names of GPUs in CARDS."""
    share: float
    """Part of the GPU's peak that the networks reach."""
    offline: bool = False
    """Whether to ask no hub, and to use shipped facts and downloaded files alone."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a checkpoint."""

    checkpoint: Checkpoint | None
    told: str
    """Where the facts are from, and what was compared."""
    faults: tuple[str, ...] = ()
    away: str | None = None
    """Address of the hub if it did not answer; empty for the default one."""


def check_models(configuration: Configuration, home: Path, question: Question) -> int:
    """Print the plan of a configuration for each GPU and what does not fit, and return the exit status.

    Args:
        configuration: the configuration.
        home: REELGRAPH_HOME; files that are downloaded already are read instead of the hub's.
        question: the GPUs, and how they are used.
    """
    facts = _find_all(configuration, home, offline=question.offline)
    faults = 0
    for index, name in enumerate(question.cards):
        print("\n" if index else "", end="")
        faults += _print_plan(configuration, home, facts, CARDS[name], question.share)
    print(f"{faults} faults" if faults else "everything fits", file=sys.stderr)
    return UNFIT if faults else FITS


def _find_all(configuration: Configuration, home: Path, *, offline: bool) -> dict[str, Facts]:
    """Return the facts of each model by its id. A hub that does not answer is asked once."""
    found: dict[str, Facts] = {}
    away: set[str] = set()
    for block in configuration.blocks:
        without = offline or (isinstance(block.settings, ModelsSettings) and block.settings.offline)
        for name, entry in block.models.items():
            found[name] = find_facts(entry, home, offline=without or _name_hub(entry) in away)
            away |= {found[name].away or ""} if found[name].away is not None else set()
    return found


def _print_plan(configuration: Configuration, home: Path, facts: Mapping[str, Facts], card: Card, share: float) -> int:
    """Print the plan for one GPU. Return the number of faults."""
    faults = 0
    memory, peak = card.memory_bytes / GIGA, card.flops / TERA
    print(f"{card.title}: {memory:.1f} GB, {share:.0%} of {peak:,.0f} TFLOP/s in bfloat16")
    for block in configuration.blocks:
        sizings: list[Sizing] = []
        for name, entry in block.models.items():
            checkpoint = facts[name].checkpoint
            sizing = size_model(name, entry, checkpoint, card, share, home) if checkpoint else None
            _print_model(name, entry, facts[name], sizing)
            sizings += [sizing] if sizing else []
        found = [fault for name in block.models for fault in facts[name].faults]
        for fault in (*found, *find_faults(block, sizings, card)):
            print(f"  DOES NOT FIT  {fault}")
            faults += 1
    return faults


def _name_hub(entry: ModelEntry) -> str:
    """Return the configured address of the hub of a model; empty for the default one."""
    return entry.settings.weights.endpoint or "" if isinstance(entry.settings, CheckpointSettings) else ""


def find_facts(entry: ModelEntry, home: Path, *, offline: bool) -> Facts:
    """Return what is known of a model's checkpoint, and how its headers differ from its networks.

    A local or downloaded folder is read, else the hub is asked; without a hub the shipped facts of known checkpoints
    remain.
    """
    model, settings = KINDS[entry.kind], entry.settings
    if (
        model.costs is not None
        and model.costs.included is not None
        and settings.source == model.costs.included.repository
    ):
        return Facts(model.costs.included, "included in the project")
    if not isinstance(settings, CheckpointSettings):
        return Facts(None, "not estimated")
    weights = select_files(model, settings).weights
    known = next((one for one in model.checkpoints if one.repository == weights.repository), None)
    variant: str | None = getattr(settings, "variant", None)
    folder = find_folder(weights, home)
    if folder is not None:
        return _read_folder(folder, variant, known)
    if weights.path is not None:
        return Facts(None, "", (f"weights: there is no folder {weights.path}",))
    if offline or weights.offline:
        return Facts(known, "from the shipped facts" if known else "unknown: no facts of this repository are shipped")
    return _ask_hub(weights, home, variant, known)


def _read_folder(folder: Path, variant: str | None, known: Checkpoint | None) -> Facts:
    try:
        found = describe_folder(folder, variant)
        headers = {part.name: read_headers(folder / part.name, variant) for part in found.components}
    except ConfigError as error:
        return Facts(known, "a local folder", (error.message,))
    told, faults = _compare(found.components, headers)
    return Facts(replace_components(known, found), f"a local folder, {told}", faults)


def _ask_hub(weights: Weights, home: Path, variant: str | None, known: Checkpoint | None) -> Facts:
    from services.weights.remote import Repository

    try:
        repository = Repository(weights, home, variant)
        published = repository.describe(known.components if known else ())
    except HubAway as error:
        told = "from the shipped facts" if known else "unknown"
        return Facts(known, f"{told}; headers not read: {error.message}", away=weights.endpoint or "")
    except ConfigError as error:
        return Facts(known, "asked of the hub", (error.message,))
    told, faults = _compare(published.components, published.headers)
    found = known or Checkpoint(
        repository=weights.repository or "",
        revision=weights.revision or "",
        pipeline={},
        components=published.components,
        files=(),
        disk_bytes=0,
        roles=(),
        defaults={},
    )
    checkpoint = found.model_copy(update={"disk_bytes": published.disk_bytes})
    return Facts(checkpoint, f"headers read from the hub, {told}", faults)


def replace_components(known: Checkpoint | None, found: Checkpoint) -> Checkpoint:
    """Return the facts of a folder, with the roles and the defaults of the checkpoint that it is known to be."""
    return found if known is None else found.model_copy(update={"roles": known.roles, "defaults": known.defaults})


def _compare(
    components: tuple[Component, ...], headers: Mapping[str, Mapping[str, Header]]
) -> tuple[str, tuple[str, ...]]:
    """Compare the headers with networks on torch's meta device. Return what was compared, and a fault for each network.

    Torch is imported only here.
    """
    from services.weights.completeness import list_faults
    from services.weights.networks import build_network

    faults: list[str] = []
    count = 0
    for part in components:
        own = headers.get(part.name) or {}
        if not own:
            continue
        count += len(own)
        try:
            found = list_faults(build_network(part), own)
        except (TypeError, ValueError, AttributeError) as error:
            faults.append(
                f"weights: {part.name or part.class_name}: its configuration does not fit its class ({error})"
            )
            continue
        if found:
            more = f"; {len(found) - 1} more tensors do not fit" if len(found) > 1 else ""
            faults.append(f"weights: {part.name or part.class_name}: {found[0]}{more}")
    return f"{count:,} tensors compared", tuple(faults)


def _print_model(name: str, entry: ModelEntry, facts: Facts, sizing: Sizing | None) -> None:
    print(f"\n{name}: {entry.settings.source} ({entry.kind}; {facts.told})")
    if facts.checkpoint is not None:
        print(f"  disk         {facts.checkpoint.disk_bytes / GIGA:,.1f} GB")
    if sizing is None:
        return
    usual, most = sizing.default, sizing.largest
    host = most.footprint
    print(f"  host memory  {host.host_bytes / GIGA:,.1f} GB = {describe_parts(host.host)}")
    print(f"  GPU memory   {usual.footprint.gpu_bytes / GIGA:,.1f} GB = {describe_parts(usual.footprint.gpu)}")
    print(f"    at most    {most.footprint.gpu_bytes / GIGA:,.1f} GB = {describe_parts(most.footprint.gpu)}")
    print(f"  default job  {_describe_job(usual)}")
    limit = getattr(entry.settings, "max_pflop", None)
    cut = f"; max_pflop allows {limit:g} PFLOP of it" if most.is_limited else ""
    print(f"  largest job  {_describe_job(most)}{cut}")


def _describe_job(job: Measure) -> str:
    cost = job.cost
    time = f"{job.seconds / 60:,.0f} min" if job.seconds > MINUTE else f"{job.seconds:,.1f} s"
    return f"{time}: {cost.passes} forward passes, {cost.flop / PETA:,.2f} PFLOP, {cost.work}"
