"""`reel models pull`: download what a configuration names, before anything is served, and say under which terms."""

import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from pydantic import BaseModel
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from composition.app import AppSettings
from services.downloads import Told, need_room
from services.errors import ConfigError
from services.licences import LICENCES, Licence, licence_of
from services.weights import Inventory, Weights, fetch, inventory

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

    @property
    def licence(self) -> Licence:
        return licence_of(self.source)


def pull(settings: AppSettings, *, accept_licences: bool) -> int:
    """Download what is missing, and return the exit status.

    What there is goes to stdout; questions, progress and errors go to stderr. `offline` is for serving: it does not
    hold here.

    Args:
        settings: `args` of the application.
        accept_licences: go on without a question where a licence is not free of conditions.
    """
    home = settings.state
    found = list(named(settings))
    try:
        missing = _shown(found, home)
        conditions = [one for one in missing if one.licence.must_be_accepted]
        if conditions and not (accept_licences or _agreed(conditions)):
            return REFUSED
        need_room(home, sum({one.weights: count for one, count in missing.items()}.values()))
    except ConfigError as error:
        print(error.message, file=sys.stderr)
        return FAILED
    return _fetched(list(missing), home)


def end_at_once() -> None:
    """Let SIGINT and SIGTERM end the process as it stands: the hubs' threads would first end their files."""

    def stop(_number: int, _frame: object) -> None:
        Console(file=sys.stderr).show_cursor()
        print("stopped; run it again to go on", file=sys.stderr, flush=True)
        os._exit(INTERRUPTED)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def named(settings: BaseModel, at: str = "") -> Iterator[Named]:
    """Every set of weights that settings name, however deep, in the order of the fields."""
    for name, value in settings:
        yield from _named(value, f"{at}.{name}" if at else name)


def _named(value: object, at: str) -> Iterator[Named]:
    if isinstance(value, Weights):
        remote = value.model_copy(update={"offline": False}) if value.repository else None
        yield Named(at, value.source, remote)
    elif isinstance(value, BaseModel):
        fields = dict(value)
        if {"repository", "revision", "file"} <= fields.keys():  # one file of a repository, e.g. a LoRA
            repository, revision, file = (fields[name] for name in ("repository", "revision", "file"))
            yield Named(at, repository, Weights(repository=repository, revision=revision, files=(file,)))
        else:
            yield from named(value, at)
    elif isinstance(value, tuple):
        for index, part in enumerate(cast("tuple[object, ...]", value)):
            yield from _named(part, f"{at}.{index}")
    elif isinstance(value, Path) and value.name in LICENCES:
        yield Named(at, f"path:{value.name}")


def _shown(found: Sequence[Named], home: Path) -> dict[Named, int]:
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


def _agreed(conditions: Sequence[Named]) -> bool:
    """Ask whoever sits at the terminal; where nobody does, say how to agree."""
    names = ", ".join(one.source for one in conditions)
    if not sys.stdin.isatty():
        print(f"not free of conditions: {names}. Read the terms, and give --accept-licences", file=sys.stderr)
        return False
    print(f"Not free of conditions: {names}. Have you read the terms, and accept them? [y/N] ", end="", file=sys.stderr)
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _fetched(wanted: Sequence[Named], home: Path) -> int:
    status = DONE
    with _display() as bars:
        for one in wanted:
            try:
                if one.weights is not None:
                    fetch(one.weights, home, bars(one.source))
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
