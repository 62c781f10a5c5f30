"""What a person sees while something is made: bars at a terminal, plain lines elsewhere. Both on stderr.

Nothing moves by itself: a bar stands where the last event, or the last byte, has put it. Text from a server is never
read as markup.
"""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TextIO, TypeAlias

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from reelgraph.flows import OnBytes
from reelgraph.objects import (
    Event,
    FactEvent,
    FrameEvent,
    ProgressEvent,
    ResultEvent,
    Scores,
    SegmentEvent,
    StageEvent,
    StatusEvent,
    TextEvent,
)

Show: TypeAlias = Callable[[Event], None]

_FRAMES = "frames"
"""The bar of frames that are written."""
_PLAIN = "video"
"""The video whose frames may be told singly."""


class Display(Protocol):
    """Where progress is shown."""

    def note(self, line: str) -> None:
        """Say something once."""
        ...

    def transfer(self, label: str) -> AbstractContextManager[OnBytes]:
        """Show bytes going to or from the server."""
        ...

    def waiting(self, label: str) -> AbstractContextManager[None]:
        """Show that something takes its time."""
        ...

    def watching(self) -> AbstractContextManager[Show]:
        """Show a job by its events."""
        ...


def display(stream: TextIO) -> Display:
    """Return the display that fits the stream."""
    console = Console(file=stream, highlight=False)
    return Bars(console) if console.is_terminal else Lines(stream)


class Bars:
    """Progress at a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def note(self, line: str) -> None:
        self._console.print(Text(line))

    @contextmanager
    def transfer(self, label: str) -> Generator[OnBytes]:
        with self._bars(DownloadColumn(), TransferSpeedColumn()) as bars:
            task = bars.add_task(label, total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)

    @contextmanager
    def waiting(self, label: str) -> Generator[None]:
        with self._console.status(Text(label)):
            yield

    @contextmanager
    def watching(self) -> Generator[Show]:
        view = _JobView(self._bars(MofNCompleteColumn(), TimeElapsedColumn()))
        with Live(view, console=self._console, refresh_per_second=8):
            yield view.show

    def _bars(self, *numbers: ProgressColumn) -> Progress:
        label = TextColumn("{task.description}", markup=False)
        return Progress(label, BarColumn(), *numbers, console=self._console)


class _JobView:
    """What a job's events have told so far, as something that rich can draw."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._done: dict[str, int] = {}
        self._texts: dict[str, Text] = {}
        self._written: set[str] = set()
        self._singly = False
        """Whether each frame is told by itself: then segments, which come later, tell nothing new."""
        self._status = Text("waiting")
        self._there: list[Text] = []

    def __rich__(self) -> Group:
        return Group(self._status, *self._texts.values(), self._bars, *self._there)

    def show(self, event: Event) -> None:
        match event:
            case StatusEvent():
                self._status = Text(event.status.replace("_", " "))
            case TextEvent():
                self._write(event)
            case ProgressEvent():
                self._move(event.stage, event.done, event.total)
            case FrameEvent():
                self._singly = True
                self._move(_FRAMES, event.frames_done, event.frames_total)
            case SegmentEvent():
                if not (self._singly and event.variant == _PLAIN):
                    self._move(_bar(event), event.frames_done, event.frames_total)
            case ResultEvent():
                self._there.append(Text(f"{event.variant} is there"))
            case StageEvent():
                self._written.add(event.name)
            case FactEvent():  # told at the end, with the video
                pass

    def _write(self, event: TextEvent) -> None:
        if event.stage not in self._texts or event.stage in self._written:  # the stage has begun again
            self._texts[event.stage] = Text.assemble((f"{event.stage} ", "bold"))
            self._written.discard(event.stage)
        self._texts[event.stage].append(event.piece)

    def _move(self, name: str, done: int, total: int | None) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total)
        task = self._tasks[name]
        if done < self._done.get(name, 0):  # the stage has begun again
            self._bars.reset(task)
        self._done[name] = done
        self._bars.update(task, completed=done, total=total)


class Lines:
    """Progress where no terminal is: a line for what is new, a stage's steps at every tenth."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def note(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    @contextmanager
    def transfer(self, label: str) -> Generator[OnBytes]:
        tenths = _Tenths()

        def show(done: int, total: int | None) -> None:
            if total and tenths.new(label, done, total):
                self.note(f"{label}: {done} of {total} bytes")

        yield show

    @contextmanager
    def waiting(self, label: str) -> Generator[None]:
        self.note(label)
        yield

    @contextmanager
    def watching(self) -> Generator[Show]:
        lines = _JobLines(self.note)
        try:
            yield lines.show
        finally:
            lines.end()


class _Tenths:
    """Knows in which tenth each bar stood last."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def new(self, name: str, done: int, total: int) -> bool:
        tenth = done * 10 // total
        seen = self._last.get(name)
        self._last[name] = tenth
        return seen != tenth


class _JobLines:
    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._tenths = _Tenths()
        self._texts: dict[str, str] = {}
        self._singly = False

    def show(self, event: Event) -> None:
        match event:
            case StatusEvent():
                self._note(event.status.replace("_", " "))
            case TextEvent():
                self._texts[event.stage] = self._texts.get(event.stage, "") + event.piece
            case ProgressEvent():
                self._step(event)
            case FrameEvent():
                self._singly = True
                self._note(f"frame {_count(event)}{_told(event.scores)}")
            case SegmentEvent():
                if not (self._singly and event.variant == _PLAIN):
                    self._note(f"{_bar(event)}: {_count(event)}")
            case ResultEvent():
                self._note(f"{event.variant} is there")
            case StageEvent():
                self._tell(event.name)
                self._note(f"{event.name}: done in {event.seconds:.1f} s ({event.model}, {event.source})")
            case FactEvent():  # told at the end, with the video
                pass

    def end(self) -> None:
        for stage in list(self._texts):
            self._tell(stage)

    def _step(self, event: ProgressEvent) -> None:
        if event.total > 0 and self._tenths.new(event.stage, event.done, event.total):
            self._note(f"{event.stage}: {event.done} of {event.total}")

    def _tell(self, stage: str) -> None:
        """Say in one line what a stage has written: half sentences help nobody in a log."""
        text = " ".join(self._texts.pop(stage, "").split())
        if text:
            self._note(f"{stage}: {text}")


def _bar(event: SegmentEvent) -> str:
    return _FRAMES if event.variant == _PLAIN else f"{event.variant} {_FRAMES}"


def _count(event: FrameEvent | SegmentEvent) -> str:
    return f"{event.frames_done} of {event.frames_total}" if event.frames_total else str(event.frames_done)


def _told(scores: Scores | None) -> str:
    known = scores.model_dump(include=set(Scores.model_fields), exclude_none=True) if scores else {}
    told = ", ".join(f"{name.removesuffix('_loss').replace('_', ' ')} {value:.3g}" for name, value in known.items())
    return f": {told}" if told else ""
