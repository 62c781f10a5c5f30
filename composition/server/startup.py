"""Start-up progress between the URL and `ready`: a progress bar at a terminal, else a line for each change."""

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from services.loading import Loading, State

_MAX_NAMED = 3
"""Number of parts that the bar names; the others are counted."""
_FAILED = ("UNHEALTHY", "DEPLOY_FAILED")


@dataclass(frozen=True, slots=True)
class Part:
    """A model or deployment that is being started."""

    name: str
    state: State
    detail: str = ""
    """Progress or error of the loading model."""


def list_parts(deployments: Mapping[str, str], loading: Iterable[Loading]) -> list[Part]:
    """Return the deployments and models of a server, sorted by name.

    A deployment and its model of the same name are one part, which is ready when both are.

    Args:
        deployments: name of each deployment → its status in Serve.
        loading: loading states that processes report for models.
    """
    parts = {name: Part(name, _convert_status(status)) for name, status in deployments.items()}
    for one in loading:
        hosted = parts.get(one.model)
        if hosted is None or hosted.state == "loading":
            is_pending = hosted is not None and one.state == "ready"
            parts[one.model] = Part(one.model, "loading" if is_pending else one.state, one.detail)
    return [parts[name] for name in sorted(parts)]


def _convert_status(status: str) -> State:
    if status in _FAILED:
        return "failed"
    # A deployment that only gets more or fewer replicas is already serving.
    return "loading" if status == "UPDATING" else "ready"


class Screen(Protocol):
    """A display of start-up progress."""

    def show_parts(self, parts: Sequence[Part]) -> None:
        """Show the states of the parts."""
        ...

    def print_message(self, line: str) -> None:
        """Print a message."""
        ...


@contextmanager
def open_screen(stream: TextIO) -> Generator[Screen]:
    """Open a display of start-up progress on a stream for the `with` block."""
    console = Console(file=stream, highlight=False)
    if not console.is_terminal:
        yield Lines(stream)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False) as bars:
        yield Bar(bars)


class Bar:
    """A progress bar at a terminal, removed when all parts are ready."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task = bars.add_task("starting", total=None)

    def show_parts(self, parts: Sequence[Part]) -> None:
        done = sum(part.state == "ready" for part in parts)
        self._bars.update(self._task, description=summarize(parts), completed=done, total=len(parts) or None)

    def print_message(self, line: str) -> None:
        self._bars.console.print(Text(line))


class Lines:
    """One line for each part when it is ready or has failed, for output that is no terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._reported: set[str] = set()

    def show_parts(self, parts: Sequence[Part]) -> None:
        for part in parts:
            if part.state != "loading" and part.name not in self._reported:
                self._reported.add(part.name)
                words = f"{part.name}: {'loaded' if part.state == 'ready' else 'could not be loaded'}"
                self.print_message(f"{words} ({part.detail})" if part.detail else words)

    def print_message(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


def summarize(parts: Sequence[Part]) -> str:
    """Return a short text that names the parts that are still loading."""
    waiting = [part for part in parts if part.state != "ready"]
    if not waiting:
        return "starting"
    named = ", ".join(f"{part.name} ({part.detail})" if part.detail else part.name for part in waiting[:_MAX_NAMED])
    more = len(waiting) - _MAX_NAMED
    return f"loading {named}" + (f" and {more} more" if more > 0 else "")
