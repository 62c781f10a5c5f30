"""What a person sees between the address and `ready`: a bar at a terminal, elsewhere a line for what has changed."""

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from services.loading import Loading, State

_MAX_NAMED = 3
"""Parts that the bar names; it counts the rest."""
_FAILED = ("UNHEALTHY", "DEPLOY_FAILED")


@dataclass(frozen=True, slots=True)
class Part:
    """A model or a deployment of a server that starts."""

    name: str
    state: State
    detail: str = ""


def list_parts(deployments: Mapping[str, str], loading: Iterable[Loading]) -> list[Part]:
    """What a server waits for: its deployments, and models that processes say they load, by name.

    A deployment that says how its model of the same name is doing counts once, and is ready when both are.

    Args:
        deployments: the status of each, in Serve's words.
        loading: what processes say of models.
    """
    parts = {name: Part(name, _convert_status(status)) for name, status in deployments.items()}
    for one in loading:
        hosted = parts.get(one.model)
        if hosted is None or hosted.state == "loading":
            waits = hosted is not None and one.state == "ready"
            parts[one.model] = Part(one.model, "loading" if waits else one.state, one.detail)
    return [parts[name] for name in sorted(parts)]


def _convert_status(status: str) -> State:
    if status in _FAILED:
        return "failed"
    # One that serves already, and gets more or fewer replicas, is no longer loading.
    return "loading" if status == "UPDATING" else "ready"


class Screen(Protocol):
    """Where a start is shown."""

    def show(self, parts: Sequence[Part]) -> None:
        """Show how far the parts are."""
        ...

    def print_message(self, line: str) -> None:
        """Say something once."""
        ...


@contextmanager
def open_screen(stream: TextIO) -> Generator[Screen]:
    """Show how far the parts are, on a stream, as long as the block lasts."""
    console = Console(file=stream, highlight=False)
    if not console.is_terminal:
        yield Lines(stream)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False) as bars:
        yield Bar(bars)


class Bar:
    """At a terminal: one bar, which goes away when all is ready."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task = bars.add_task("starting", total=None)

    def show(self, parts: Sequence[Part]) -> None:
        done = sum(part.state == "ready" for part in parts)
        self._bars.update(self._task, description=summarize(parts), completed=done, total=len(parts) or None)

    def print_message(self, line: str) -> None:
        self._bars.console.print(Text(line))


class Lines:
    """Elsewhere: one line for each part, when it is ready or has failed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._reported: set[str] = set()

    def show(self, parts: Sequence[Part]) -> None:
        for part in parts:
            if part.state != "loading" and part.name not in self._reported:
                self._reported.add(part.name)
                words = f"{part.name}: {'loaded' if part.state == 'ready' else 'could not be loaded'}"
                self.print_message(f"{words} ({part.detail})" if part.detail else words)

    def print_message(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


def summarize(parts: Sequence[Part]) -> str:
    """Say in a few words what is still waited for."""
    waiting = [part for part in parts if part.state != "ready"]
    if not waiting:
        return "starting"
    named = ", ".join(f"{part.name} ({part.detail})" if part.detail else part.name for part in waiting[:_MAX_NAMED])
    more = len(waiting) - _MAX_NAMED
    return f"loading {named}" + (f" and {more} more" if more > 0 else "")
