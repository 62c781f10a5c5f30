"""`reel models pull`: download the weights that a configuration names, and ask to accept their licences."""

import os
import signal
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from composition.configuration.settings import ModelEntry
from services.errors import ConfigError
from services.settings import DEEPER, Place, change_parts
from services.weights.downloads import Told, need_room
from services.weights.files import fetch_file, measure_file
from services.weights.licences import UNKNOWN, Licence
from services.weights.local import Inventory, fetch, inventory
from services.weights.terms import find_licence
from services.weights.web_file import WebFile
from services.weights.weights import RepositoryFile, Weights

DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True, slots=True)
class NamedWeights:
    """Weights that a configuration names."""

    field: str
    """Path of the field in the configuration, e.g. `flux.identity.weights`."""
    source: str
    """Repository, path or address, by which the licence is looked up."""
    weights: Weights | WebFile | None = None
    """The weights to fetch; None if they are local, e.g. a folder."""
    stated: str | None = None
    """The licence that the configuration states."""

    @property
    def licence(self) -> Licence:
        return find_licence(self.source, self.stated)


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The licences that the user has accepted on the command line."""

    conditions: bool = False
    """Whether all licences with conditions that this project knows are accepted."""
    sources: tuple[str, ...] = ()
    """Repositories whose licences are accepted, known or not."""

    def covers(self, one: NamedWeights) -> bool:
        """Whether weights may be fetched without asking."""
        if not one.licence.must_be_accepted or one.source in self.sources:
            return True
        return self.conditions and one.licence is not UNKNOWN


def pull_weights(models: Mapping[str, ModelEntry], home: Path, acceptance: Acceptance) -> int:
    """Download missing weights, and return the exit status.

    The list of weights goes to stdout; questions, progress and errors go to stderr. The setting `offline` applies to
    serving only and is ignored.

    Args:
        models: id → model.
        home: REELGRAPH_HOME.
        acceptance: the licences that are already accepted.
    """
    found = list(find_weights(models))
    try:
        _check_sources(acceptance.sources, found)
        missing = _list_missing(found, home)
        if not _ask_all([one for one in missing if not acceptance.covers(one)]):
            return REFUSED
        need_room(home, sum({one.weights: count for one, count in missing.items()}.values()))
    except ConfigError as error:
        print(error.message, file=sys.stderr)
        return FAILED
    return _fetch_all(list(missing), home)


def exit_on_signal() -> None:
    """Make SIGINT and SIGTERM end the process at once; the download threads would first complete their files."""

    def stop(_number: int, _frame: object) -> None:
        Console(file=sys.stderr).show_cursor()
        print("interrupted; run the command again to resume", file=sys.stderr, flush=True)
        os._exit(INTERRUPTED)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def find_weights(models: Mapping[str, ModelEntry]) -> list[NamedWeights]:
    """Return all weights that models name at any depth of their settings, in the order of the fields."""
    found: list[NamedWeights] = []

    def visit(place: Place, part: Any) -> Any:
        field = ".".join(map(str, place))
        if isinstance(part, Weights):
            remote = part.model_copy(update={"offline": False}) if part.repository else None
            found.append(NamedWeights(field, part.source, remote, part.licence))
        elif isinstance(part, WebFile):
            found.append(NamedWeights(field, part.address, part.model_copy(update={"offline": False}), part.licence))
        elif isinstance(part, RepositoryFile):
            found.append(NamedWeights(field, part.repository, part.weights, part.licence))
        elif isinstance(part, Path) and find_licence(f"path:{part.name}") is not UNKNOWN:
            found.append(NamedWeights(field, f"path:{part.name}"))
        else:
            return DEEPER
        return part

    change_parts(models, visit)
    return found


def _check_sources(sources: Sequence[str], found: Sequence[NamedWeights]) -> None:
    """Raise ConfigError if `sources` has a repository that the configuration does not name, e.g. by a typing error."""
    known = {one.source for one in found}
    for source in sources:
        if source not in known:
            raise ConfigError(f"--accept-licence: the configuration does not name {source}", param="accept_licence")


def _list_missing(found: Sequence[NamedWeights], home: Path) -> dict[NamedWeights, int]:
    """Print the weights, and return the number of missing bytes of those that are incomplete.

    Raises ConfigError, listing all failures, if a hub does not provide some of the weights: before anything is fetched.
    """
    missing: dict[NamedWeights, int] = {}
    failures: list[str] = []
    for one in found:
        try:
            stock = _measure(one.weights, home) if one.weights else None
        except ConfigError as error:
            failures.append(f"{one.field}: {error.message}")
            stock = None
        else:
            if stock and stock.missing:
                missing[one] = stock.missing
        _print_weights(one, stock)
    if failures:
        raise ConfigError("\n".join(failures))
    return missing


def _measure(weights: Weights | WebFile, home: Path) -> Inventory:
    return measure_file(weights, home) if isinstance(weights, WebFile) else inventory(weights, home)


def _print_weights(one: NamedWeights, stock: Inventory | None) -> None:
    weights = one.weights
    print(
        f"{one.field}: {one.source}"
        + (f" at {weights.revision} on {weights.hub}" if isinstance(weights, Weights) else "")
    )
    if weights is None:
        print("  nothing to fetch")
    elif stock is not None:
        print(f"  {decimal(stock.total)}, {decimal(stock.missing)} to fetch")
    print(f"  licence: {one.licence}", flush=True)


def _ask_all(unaccepted: Sequence[NamedWeights]) -> bool:
    """Ask at the terminal to accept each licence; without a terminal, explain how to accept and return False."""
    licences = {one.source: one.licence for one in unaccepted}
    if licences and not sys.stdin.isatty():
        for source, licence in licences.items():
            name = "unknown" if licence is UNKNOWN else licence.name
            every = "" if licence is UNKNOWN else " or --accept-licences"
            hint = f"read its terms, and give --accept-licence {source}{every}"
            print(f"the licence of {source} ({name}) must be accepted: {hint}", file=sys.stderr)
        return False
    return all(_ask(source, licence) for source, licence in licences.items())


def _ask(source: str, licence: Licence) -> bool:
    reason = "The licence of {} is unknown" if licence is UNKNOWN else "The licence of {} has conditions"
    print(f"{reason.format(source)}. Have you read its terms, and do you accept them? [y/N] ", end="", file=sys.stderr)
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _fetch_all(wanted: Sequence[NamedWeights], home: Path) -> int:
    status = DONE
    with _open_display() as bars:
        for one in wanted:
            try:
                if isinstance(one.weights, WebFile):
                    fetch_file(one.weights, home, bars(one.weights.name), param=one.field, accepted=True)
                elif one.weights is not None:
                    fetch(one.weights, home, bars(one.source), accepted=True)
            except ConfigError as error:
                print(f"{one.field}: {error.message}", file=sys.stderr)
                status = FAILED
    if status == DONE:
        print("all weights are complete")
    return status


@contextmanager
def _open_display() -> Generator[Callable[[str], Told]]:
    """Yield a function that displays a download: a progress bar at a terminal, else a line for every tenth."""
    console = Console(file=sys.stderr, highlight=False)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bars:
        yield lambda label: _add_bar(bars, label) if console.is_terminal else _print_tenths(label)


def _add_bar(bars: Progress, label: str) -> Told:
    task = bars.add_task(label, total=None)
    return lambda done, total: bars.update(task, completed=done, total=total)


def _print_tenths(label: str) -> Told:
    tenth = -1

    def print_progress(done: int, total: int) -> None:
        nonlocal tenth
        if done * 10 // total != tenth:
            tenth = done * 10 // total
            print(f"{label}: {decimal(done)} of {decimal(total)}", file=sys.stderr, flush=True)

    return print_progress
