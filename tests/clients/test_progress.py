"""What is shown of a job, at a terminal and elsewhere."""

import io
import re
from typing import Any

from rich.console import Console

from reelgraph.objects import EVENTS, Event
from reelgraph.progress import Bars, Lines, make_display
from tests.clients.stories import CAPTION, EDIT_STORY, STORY


def events_of(story: list[tuple[str, dict[str, Any]]]) -> list[Event]:
    return [
        EVENTS[name].model_validate({"id": number, **data})
        for number, (name, data) in enumerate(story, 1)
        if name in EVENTS
    ]


STORY_EVENTS = events_of(STORY)


def terminal() -> tuple[Bars, io.StringIO]:
    screen = io.StringIO()
    return Bars(Console(file=screen, force_terminal=True, width=100, height=40, color_system=None)), screen


def last_picture(screen: io.StringIO) -> str:
    """What stands on the screen in the end: rich draws all of it anew each time."""
    return re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", screen.getvalue().rsplit("\x1b[2K", 1)[-1])


def test_lines_tell_each_thing_once() -> None:
    stream = io.StringIO()
    with Lines(stream).show_job() as show:
        for event in STORY_EVENTS:
            show(event)
    assert stream.getvalue().splitlines() == [
        "queued",
        "in progress",
        "describe: a red ball [/b] rolls slowly",
        "describe: done in 0.5 s (internvl, path:tiny)",
        "denoise: 1 of 2",
        "denoise: 2 of 2",
        "frames: 5 of 5",
        "completed",
    ]


def test_lines_tell_a_frame_with_its_scores() -> None:
    stream = io.StringIO()
    with Lines(stream).show_job() as show:
        for event in events_of(EDIT_STORY):
            show(event)
    assert stream.getvalue().splitlines() == [
        "in progress",
        "frame 1 of 3",
        "edit: 4 of 4",
        "frame 2: try 1 was refused: edge 0.9",
        "frame 2 of 3, after 2 tries: edge 0.52, gram 0.00123, lpips to init 0.25, lpips to prev 0.5",
        "frame 3 of 3, above its gate after 3 tries: edge 0.5",
        "completed",
    ]


def test_a_frame_of_nobody_knows_how_many_is_told() -> None:
    stream = io.StringIO()
    with Lines(stream).show_job() as show:
        show(EVENTS["frame"].model_validate({"id": 1, "index": 4, "frames_done": 5, "scores": {"newer": [1]}}))
    assert stream.getvalue() == "frame 5\n"


def test_lines_keep_a_text_that_was_not_finished() -> None:
    stream = io.StringIO()
    with Lines(stream).show_job() as show:
        show(STORY_EVENTS[3])
    assert stream.getvalue() == "describe: a red ball [/b]\n"


def test_lines_tell_steps_by_tenths() -> None:
    stream = io.StringIO()
    with Lines(stream).show_transfer("upload in.mp4") as show:
        for done in range(0, 1001, 10):
            show(done, 1000)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 11
    assert lines[-1] == "upload in.mp4: 1000 of 1000 bytes"


def test_bars_stand_where_the_events_have_put_them() -> None:
    bars, screen = terminal()
    with bars.show_job() as show:
        for event in STORY_EVENTS:
            show(event)
    picture = last_picture(screen)
    assert "completed" in picture
    assert " ".join(f"describe {CAPTION}".split()) in " ".join(picture.split())
    assert re.search(r"denoise\s+━+\s+2/2", picture)
    assert re.search(r"frames\s+━+\s+5/5", picture)


def test_the_bar_of_frames_moves_with_each_and_not_back() -> None:
    bars, screen = terminal()
    with bars.show_job() as show:
        for event in events_of(EDIT_STORY[:-2]):  # the last is a segment of the first frame alone
            show(event)
    assert re.search(r"frames\s+━+\S*\s*━*\s*2/3", last_picture(screen))


def test_a_stage_that_begins_again_is_shown_again() -> None:
    bars, screen = terminal()
    again = [event for event in STORY_EVENTS if event.id in (8, 9)]
    with bars.show_job() as show:
        for event in (*again, again[0]):
            show(event)
    assert re.search(r"denoise\s+━+\S*\s+━*\s*1/2", last_picture(screen))


def test_a_text_that_is_written_again_replaces_the_first() -> None:
    bars, screen = terminal()
    with bars.show_job() as show:
        for event in STORY_EVENTS:
            show(event)
        show(EVENTS["text"].model_validate({"id": 12, "stage": "describe", "piece": "a blue ball"}))
    assert "describe a blue ball" in last_picture(screen)
    assert "red" not in last_picture(screen)


def test_transfers_and_notes_at_a_terminal() -> None:
    bars, screen = terminal()
    with bars.show_transfer("upload [in].mp4") as show:
        show(500, 1000)
        show(1000, 1000)
    bars.note("job [video_1]")
    with bars.show_wait("starting [a] server"):
        pass
    assert "upload [in].mp4" in screen.getvalue()
    assert "1.0/1.0 kB" in screen.getvalue()
    assert "job [video_1]" in screen.getvalue()
    assert "starting [a] server" in screen.getvalue()


def test_a_file_gets_lines() -> None:
    assert isinstance(make_display(io.StringIO()), Lines)
