"""Title cards: legible at every size, robust to any text, and a playable video."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composition.media.decode import Decoder
from composition.media.title_card import BACKGROUND, HEADING, MAX_TEXT, draw_title_card, make_title_card
from services.frames import Frames, Pixels

TEXT = "Scene 12\nA small red boat leaves a quiet harbour at dawn, and gulls circle above it."


def lit(card: Pixels) -> Pixels:
    """Return where a card differs from its background, (height, width) bool."""
    return (card[0] != np.array(BACKGROUND, np.uint8)).any(-1)


def rows(card: Pixels) -> list[tuple[int, int]]:
    """Return the first and the last row of each line of text."""
    written = np.flatnonzero(np.diff(np.pad(lit(card).any(1), 1)))
    return list(zip(written[::2].tolist(), (written[1::2] - 1).tolist(), strict=True))


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=700) | st.just(TEXT), st.integers(1, 300), st.integers(1, 300))
def test_no_text_is_cut_at_the_edge_of_any_card(text: str, width: int, height: int) -> None:
    card = draw_title_card(text, width, height)
    Frames(card)
    assert card.shape == (1, height, width, 3)
    written = lit(card)
    assert not written[[0, -1]].any()
    assert not written[:, [0, -1]].any()


@pytest.mark.parametrize(("width", "height"), [(64, 64), (320, 180), (360, 640), (1280, 720), (4096, 2304)])
def test_a_card_has_a_large_heading_over_its_text_in_the_middle(width: int, height: int) -> None:
    lines = rows(draw_title_card(TEXT, width, height))
    heading, body = lines[0], lines[1:]
    assert len(body) >= 2
    assert heading[1] - heading[0] + 1 >= max(5, min(width, height) // 20)
    assert abs(heading[0] - (height - 1 - body[-1][1])) <= height // 10
    columns = np.flatnonzero(lit(draw_title_card(TEXT, width, height)).any(0))
    assert abs(columns[0] - (width - 1 - columns[-1])) <= max(2, width // 100)


def test_a_first_line_is_a_heading_while_it_fits_into_one_line() -> None:
    def is_heading(text: str) -> bool:
        return bool((draw_title_card(f"{text}\nA boat.", 280, 210) == np.array(HEADING, np.uint8)).all(-1).any())

    assert is_heading("Scene 12")
    assert is_heading("Scene 12, at the harbour")  # in a smaller font
    assert not is_heading("Scene 12, at the quiet harbour of a small town")


def test_a_word_that_is_wider_than_the_card_is_broken() -> None:
    lines = rows(draw_title_card("x" * 200, 320, 180))
    assert len(lines) >= 4


def test_letters_that_the_font_lacks_leave_the_number() -> None:
    number = draw_title_card("Scene 3", 640, 360)
    assert lit(number).any()
    for text in ("一只红色的小船", "قارب أحمر", "красная лодка", "🎬 🚤", "\x00\x1b\u202e", "\ud800"):
        assert np.array_equal(draw_title_card(f"Scene 3\n{text}", 640, 360), number)
    assert not lit(draw_title_card("一只红色的小船", 640, 360)).any()


def test_accents_and_dashes_are_made_plain() -> None:
    assert np.array_equal(
        draw_title_card("Scene 3\nUn ca\u00adfé — très doux", 640, 360),
        draw_title_card("Scene 3\nUn cafe - tres doux", 640, 360),
    )


def test_what_does_not_fit_ends_in_dots() -> None:
    """The text before and after differs only in the end of the last line."""
    words = "boat " * 110
    whole, longer = draw_title_card(words, 320, 180), draw_title_card(words + "ship", 320, 180)
    assert np.array_equal(whole, longer)
    assert not np.array_equal(
        draw_title_card("boat " * 200, 320, 2000), draw_title_card(("boat " * 200)[:MAX_TEXT], 320, 2000)
    )
    assert np.array_equal(draw_title_card("boat " * 200, 320, 2000), draw_title_card("boat " * 201, 320, 2000))
    fits = draw_title_card("boat " * 20, 320, 180)
    assert rows(fits)[-1][1] < rows(whole)[-1][1]
    end = lit(whole)[rows(whole)[-1][0] : rows(whole)[-1][1] + 1]
    right = np.flatnonzero(end.any(0))[-1]
    dots = end[:, right - 1 : right + 1]
    assert dots[-2:].any()
    assert not dots[: len(dots) // 2].any()


@pytest.mark.parametrize(
    ("rate", "seconds", "frames"),
    [(Fraction(25), Fraction(4), 100), (Fraction(24000, 1001), Fraction(3, 2), 36), (Fraction(8), Fraction(0), 1)],
)
async def test_a_placeholder_is_a_video_of_its_card(
    tmp_path: Path, rate: Fraction, seconds: Fraction, frames: int
) -> None:
    data = make_title_card(TEXT, 128, 96, rate, seconds)
    assert data == make_title_card(TEXT, 128, 96, rate, seconds)
    path = tmp_path / "placeholder.mp4"
    path.write_bytes(data)
    card = draw_title_card(TEXT, 128, 96)
    async with Decoder.open(path) as decoder:
        await decoder.verify()
        facts = decoder.facts
        assert (facts.width, facts.height, facts.frames, facts.rate) == (128, 96, frames, rate)
        shown = [frame async for run in decoder.stream_runs() for frame in run.pixels]
    assert len(shown) == frames
    assert all(np.abs(frame.astype(int) - card[0]).mean() < 3 for frame in shown)
