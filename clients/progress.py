"""Progress display: bars at a terminal, plain lines elsewhere.

Bars show the last event or byte; they are not extrapolated. Text from a server is never interpreted as markup.
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
    FrameScores,
    ProgressEvent,
    ResultEvent,
    Scores,
    SegmentEvent,
    StageEvent,
    StatusEvent,
    TextEvent,
    TryEvent,
)

Show: TypeAlias = Callable[[Event], None]

_FRAMES = "frames"
"""Label of the bar for finished frames."""
_PLAIN = "video"
"""Variant whose frames may have events of their own."""


class Display(Protocol):
    """Shows progress."""

    def note(self, line: str) -> None:
        """Show a line."""
        ...

    def show_transfer(self, label: str) -> AbstractContextManager[OnBytes]:
        """Show an upload or download."""
        ...

    def show_wait(self, label: str) -> AbstractContextManager[None]:
        """Show that an operation of unknown duration is running."""
        ...

    def show_job(self) -> AbstractContextManager[Show]:
        """Show a job's progress by its events."""
        ...


def make_display(stream: TextIO) -> Display:
    """Return bars for a terminal, lines for any other stream."""
    console = Console(file=stream, highlight=False)
    return Bars(console) if console.is_terminal else Lines(stream)


class Bars:
    """Progress bars at a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def note(self, line: str) -> None:
        self._console.print(Text(line))

    @contextmanager
    def show_transfer(self, label: str) -> Generator[OnBytes]:
        with self._make_bars(DownloadColumn(), TransferSpeedColumn()) as bars:
            task = bars.add_task(label, total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)

    @contextmanager
    def show_wait(self, label: str) -> Generator[None]:
        with self._console.status(Text(label)):
            yield

    @contextmanager
    def show_job(self) -> Generator[Show]:
        view = _JobView(self._make_bars(MofNCompleteColumn(), TimeElapsedColumn()))
        with Live(view, console=self._console, refresh_per_second=8):
            yield view.show

    def _make_bars(self, *numbers: ProgressColumn) -> Progress:
        label = TextColumn("{task.description}", markup=False)
        return Progress(label, BarColumn(), *numbers, console=self._console)


class _JobView:
    """State of a job from its events, as a rich renderable."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._done: dict[str, int] = {}
        self._texts: dict[str, Text] = {}
        self._finished: set[str] = set()
        """Stages that have finished."""
        self._has_frame_events = False
        """Whether each frame has an event; then segments, which come later, are not shown."""
        self._refused: Text | None = None
        """The last refused try of the frame that is being made."""
        self._status = Text("waiting")
        self._results: list[Text] = []

    def __rich__(self) -> Group:
        refused = [] if self._refused is None else [self._refused]
        return Group(self._status, *self._texts.values(), self._bars, *refused, *self._results)

    def show(self, event: Event) -> None:
        match event:
            case StatusEvent():
                self._status = Text(event.status.replace("_", " "))
            case TextEvent():
                self._append_text(event)
            case ProgressEvent():
                self._update_bar(event.stage, event.done, event.total)
            case FrameEvent() | TryEvent():
                self._show_frame(event)
            case SegmentEvent():
                if not (self._has_frame_events and event.variant == _PLAIN):
                    self._update_bar(_name_bar(event), event.frames_done, event.frames_total)
            case ResultEvent():
                self._results.append(Text(f"{event.variant} is complete"))
            case StageEvent():
                self._finished.add(event.name)
            case FactEvent():  # shown at the end, with the video
                pass

    def _show_frame(self, event: FrameEvent | TryEvent) -> None:
        if isinstance(event, TryEvent):
            self._refused = Text(_format_refusal(event))
            return
        self._refused = None
        self._has_frame_events = True
        self._update_bar(_FRAMES, event.frames_done, event.frames_total)

    def _append_text(self, event: TextEvent) -> None:
        if event.stage not in self._texts or event.stage in self._finished:  # the stage has restarted
            self._texts[event.stage] = Text.assemble((f"{event.stage} ", "bold"))
            self._finished.discard(event.stage)
        self._texts[event.stage].append(event.piece)

    def _update_bar(self, name: str, done: int, total: int | None) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total)
        task = self._tasks[name]
        if done < self._done.get(name, 0):  # the stage has restarted
            self._bars.reset(task)
        self._done[name] = done
        self._bars.update(task, completed=done, total=total)


class Lines:
    """Progress as lines: one for each change, and one for each 10 % of a stage."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def note(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    @contextmanager
    def show_transfer(self, label: str) -> Generator[OnBytes]:
        tenths = _TenthCounter()

        def show(done: int, total: int | None) -> None:
            if total and tenths.advance(label, done, total):
                self.note(f"{label}: {done} of {total} bytes")

        yield show

    @contextmanager
    def show_wait(self, label: str) -> Generator[None]:
        self.note(label)
        yield

    @contextmanager
    def show_job(self) -> Generator[Show]:
        lines = _JobLines(self.note)
        try:
            yield lines.show
        finally:
            lines.end()


class _TenthCounter:
    """Remembers the last tenth of each bar."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def advance(self, name: str, done: int, total: int) -> bool:
        """Record the position of a bar, and return whether its tenth has changed."""
        tenth = done * 10 // total
        previous = self._last.get(name)
        self._last[name] = tenth
        return previous != tenth


class _JobLines:
    """Writes lines for the events of a job."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._tenths = _TenthCounter()
        self._texts: dict[str, str] = {}
        self._has_frame_events = False

    def show(self, event: Event) -> None:
        match event:
            case StatusEvent():
                self._note(event.status.replace("_", " "))
            case TextEvent():
                self._texts[event.stage] = self._texts.get(event.stage, "") + event.piece
            case ProgressEvent():
                self._show_step(event)
            case FrameEvent() | TryEvent():
                self._show_frame(event)
            case SegmentEvent():
                if not (self._has_frame_events and event.variant == _PLAIN):
                    self._note(f"{_name_bar(event)}: {_format_count(event)}")
            case ResultEvent():
                self._note(f"{event.variant} is complete")
            case StageEvent():
                self._write_text(event.name)
                self._note(f"{event.name}: done in {event.seconds:.1f} s ({event.model}, {event.source})")
            case FactEvent():  # shown at the end, with the video
                pass

    def end(self) -> None:
        """Write the texts of stages that have not finished."""
        for stage in list(self._texts):
            self._write_text(stage)

    def _show_frame(self, event: FrameEvent | TryEvent) -> None:
        if isinstance(event, TryEvent):
            self._note(_format_refusal(event))
            return
        self._has_frame_events = True
        self._note(f"frame {_format_count(event)}{_format_verdict(event.scores)}{_format_scores(event.scores)}")

    def _show_step(self, event: ProgressEvent) -> None:
        if event.total > 0 and self._tenths.advance(event.stage, event.done, event.total):
            self._note(f"{event.stage}: {event.done} of {event.total}")

    def _write_text(self, stage: str) -> None:
        """Write the text of a stage as one line."""
        text = " ".join(self._texts.pop(stage, "").split())
        if text:
            self._note(f"{stage}: {text}")


def _name_bar(event: SegmentEvent) -> str:
    return _FRAMES if event.variant == _PLAIN else f"{event.variant} {_FRAMES}"


def _format_count(event: FrameEvent | SegmentEvent) -> str:
    return f"{event.frames_done} of {event.frames_total}" if event.frames_total else str(event.frames_done)


def _format_refusal(event: TryEvent) -> str:
    """Describe a refused try; frames count from 1, as in the count of finished frames."""
    return f"frame {event.index + 1}: try {event.scores.tries} was refused{_format_scores(event.scores)}"


def _format_verdict(scores: FrameScores | None) -> str:
    """Return how often a frame was made, and whether it passed its gate, if that is worth saying."""
    if scores is None or (scores.tries == 1 and scores.passed is not False):
        return ""
    count = "1 try" if scores.tries == 1 else f"{scores.tries} tries"
    return f", above its gate after {count}" if scores.passed is False else f", after {count}"


def _format_scores(scores: Scores | None) -> str:
    known = scores.model_dump(include=set(Scores.model_fields), exclude_none=True) if scores else {}
    text = ", ".join(f"{name.removesuffix('_loss').replace('_', ' ')} {value:.3g}" for name, value in known.items())
    return f": {text}" if text else ""
