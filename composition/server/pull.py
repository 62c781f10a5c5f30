"""`reel models pull`: download what a configuration names, before anything is served, and say under which terms."""

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
from services.weights.licences import UNKNOWN, Licence
from services.weights.local import Inventory, fetch, inventory
from services.weights.terms import find_licence
from services.weights.weights import RepositoryFile, Weights

DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True, slots=True)
class Named:
    """Weights that a configuration names."""

    field: str
    """Where, e.g. `flux.identity.weights`."""
    source: str
    """What they are called; their licence is known by it."""
    weights: Weights | None = None
    """None where nothing can be fetched: a folder, a pack."""
    stated: str | None = None
    """The licence that the configuration names."""

    @property
    def licence(self) -> Licence:
        return find_licence(self.source, self.stated)


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Of which licences somebody has said that they are accepted."""

    conditions: bool = False
    """All of those that the project knows, with their conditions."""
    sources: tuple[str, ...] = ()
    """Repositories, whatever their licences are."""

    def covers(self, one: Named) -> bool:
        """Whether weights may be fetched without a question."""
        if not one.licence.must_be_accepted or one.source in self.sources:
            return True
        return self.conditions and one.licence is not UNKNOWN


def pull(models: Mapping[str, ModelEntry], home: Path, acceptance: Acceptance) -> int:
    """Download what is missing, and return the exit status.

    What there is goes to stdout; questions, progress and errors go to stderr. `offline` is for serving: it does not
    hold here.

    Args:
        models: id → the model.
        home: REELGRAPH_HOME.
        acceptance: what need not be asked.
    """
    found = list(find_weights(models))
    try:
        _check_sources(acceptance.sources, found)
        missing = _list_missing(found, home)
        if not _accept([one for one in missing if not acceptance.covers(one)]):
            return REFUSED
        need_room(home, sum({one.weights: count for one, count in missing.items()}.values()))
    except ConfigError as error:
        print(error.message, file=sys.stderr)
        return FAILED
    return _fetch_all(list(missing), home)


def end_at_once() -> None:
    """Let SIGINT and SIGTERM end the process as it stands: the hubs' threads would first end their files."""

    def stop(_number: int, _frame: object) -> None:
        Console(file=sys.stderr).show_cursor()
        print("stopped; run it again to go on", file=sys.stderr, flush=True)
        os._exit(INTERRUPTED)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def find_weights(models: Mapping[str, ModelEntry]) -> list[Named]:
    """Return every set of weights that models name, however deep, in the order of their fields."""
    found: list[Named] = []

    def look(place: Place, part: Any) -> Any:
        at = ".".join(map(str, place))
        if isinstance(part, Weights):
            remote = part.model_copy(update={"offline": False}) if part.repository else None
            found.append(Named(at, part.source, remote, part.licence))
        elif isinstance(part, RepositoryFile):
            found.append(Named(at, part.repository, part.weights, part.licence))
        elif isinstance(part, Path) and find_licence(f"path:{part.name}") is not UNKNOWN:
            found.append(Named(at, f"path:{part.name}"))
        else:
            return DEEPER
        return part

    change_parts(models, look)
    return found


def _check_sources(sources: Sequence[str], found: Sequence[Named]) -> None:
    """Raise ConfigError where a licence is accepted that nothing here is under: it may be a slip of the pen."""
    there = {one.source for one in found}
    for source in sources:
        if source not in there:
            raise ConfigError(f"--accept-licence: this configuration names no {source}", param="accept_licence")


def _list_missing(found: Sequence[Named], home: Path) -> dict[Named, int]:
    """Print what is named, and return how many bytes of each are missing, if any are.

    Raises ConfigError with every reason where a hub does not give one of them: better now than after fifty gigabytes.
    """
    missing: dict[Named, int] = {}
    refusals: list[str] = []
    for one in found:
        try:
            stock = inventory(one.weights, home) if one.weights else None
        except ConfigError as error:
            refusals.append(f"{one.field}: {error.message}")
            stock = None
        else:
            if stock and stock.missing:
                missing[one] = stock.missing
        _show(one, stock)
    if refusals:
        raise ConfigError("\n".join(refusals))
    return missing


def _show(one: Named, stock: Inventory | None) -> None:
    weights = one.weights
    print(f"{one.field}: {one.source}" + (f" at {weights.revision} on {weights.hub}" if weights else ""))
    if weights is None:
        print("  nothing to fetch")
    elif stock is not None:
        print(f"  {decimal(stock.total)}, of which {decimal(stock.missing)} are to be fetched")
    print(f"  licence: {one.licence}", flush=True)


def _accept(asked: Sequence[Named]) -> bool:
    """Ask whoever sits at the terminal about each repository; where nobody does, say how to accept."""
    licences = {one.source: one.licence for one in asked}
    if licences and not sys.stdin.isatty():
        for source, licence in licences.items():
            known = "its licence is not known to this project" if licence is UNKNOWN else licence.name
            every = "" if licence is UNKNOWN else " or --accept-licences"
            hint = f"read its terms, and give --accept-licence {source}{every}"
            print(f"{source} is not accepted ({known}): {hint}", file=sys.stderr)
        return False
    return all(_ask(source, licence) for source, licence in licences.items())


def _ask(source: str, licence: Licence) -> bool:
    known = "The licence of {} is not known to this project" if licence is UNKNOWN else "{} is not free of conditions"
    print(f"{known.format(source)}. Have you read its terms, and accept them? [y/N] ", end="", file=sys.stderr)
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _fetch_all(wanted: Sequence[Named], home: Path) -> int:
    status = DONE
    with _display() as bars:
        for one in wanted:
            try:
                if one.weights is not None:
                    fetch(one.weights, home, bars(one.source), accepted=True)
            except ConfigError as error:
                print(f"{one.field}: {error.message}", file=sys.stderr)
                status = FAILED
    if status == DONE:
        print("all there")
    return status


@contextmanager
def _display() -> Generator[Callable[[str], Told]]:
    """Bars at a terminal, else a line for every tenth."""
    console = Console(file=sys.stderr, highlight=False)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bars:
        yield lambda label: _bar(bars, label) if console.is_terminal else _lines(label)


def _bar(bars: Progress, label: str) -> Told:
    task = bars.add_task(label, total=None)
    return lambda done, total: bars.update(task, completed=done, total=total)


def _lines(label: str) -> Told:
    tenth = -1

    def told(done: int, total: int) -> None:
        nonlocal tenth
        if done * 10 // total != tenth:
            tenth = done * 10 // total
            print(f"{label}: {decimal(done)} of {decimal(total)}", file=sys.stderr, flush=True)

    return told
