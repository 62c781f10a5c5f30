"""The signals of frames, and the faults that they tell of."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from composition.media.fault_kinds import KINDS
from composition.media.findings import describe_findings, find_faults, judge_parts
from composition.media.signals import FrameSignals, Origin, SignalMeter, pack_signals, unpack_signals
from composition.media.title_card import make_title_card
from miniatures.clips import read
from services.frames import Pixels

RATE = 16
FRAMES = 48
GIVEN: Origin = "given"
MADE: Origin = "made"
SHOT: Origin = "shot"
FADE: Origin = "fade"


def draw_pan(frames: int = FRAMES, seed: int = 0, size: tuple[int, int] = (64, 48)) -> Pixels:
    """A smooth random picture that moves by a pixel per frame."""
    width, height = size
    coarse = np.random.default_rng(seed).uniform(20, 235, (height // 8 + 2, (width + frames) // 8 + 2, 3))
    rows, columns = np.linspace(0, height / 8, height), np.linspace(0, (width + frames) / 8, width + frames)
    low_rows, low_columns = rows.astype(int), columns.astype(int)
    down, across = (rows - low_rows)[:, None, None], (columns - low_columns)[None, :, None]
    upper = coarse[low_rows][:, low_columns] * (1 - across) + coarse[low_rows][:, low_columns + 1] * across
    lower = coarse[low_rows + 1][:, low_columns] * (1 - across) + coarse[low_rows + 1][:, low_columns + 1] * across
    picture = (upper * (1 - down) + lower * down).astype(np.uint8)
    return np.ascontiguousarray([picture[:, index : index + width] for index in range(frames)])


def list_origins(given: int, made: int) -> list[Origin]:
    """Return the origins of frames that a user gave, and of others that follow."""
    return [GIVEN if index < given else MADE for index in range(given + made)]


def measure(pixels: Pixels, origins: Sequence[Origin] | None = None, rate: int = RATE) -> list[FrameSignals]:
    return SignalMeter().measure(pixels, origins or list_origins(0, len(pixels)), [1 / rate] * len(pixels))


def tell(pixels: Pixels, origins: Sequence[Origin] | None = None, rate: int = RATE) -> str:
    return describe_findings(find_faults(measure(pixels, origins, rate)))


@pytest.mark.parametrize("length", [1, 5, 16])
@pytest.mark.parametrize("size", [(64, 48), (1, 1), (37, 5), (300, 200)])
def test_the_signals_do_not_depend_on_how_frames_come(size: tuple[int, int], length: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (21, size[1], size[0], 3), np.uint8)
    whole, state, parts = measure(pixels), "", []
    for first in range(0, len(pixels), length):
        run = pixels[first : first + length]
        meter = SignalMeter(state)
        frames = meter.measure(run, list_origins(0, len(run)), [1 / RATE] * len(run))
        state = meter.state
        parts.append(pack_signals(frames, state))
    assert unpack_signals(parts) == whole
    assert len(state) < 8000


def test_what_is_measured_of_a_frame() -> None:
    first, second = np.full((24, 32, 3), 100, np.uint8), np.full((24, 32, 3), 100, np.uint8)
    first[:, 16:] = 200
    second[:, 16:, 0] = 210
    one, two = measure(np.stack([first, second]))
    assert (one.means, one.spreads, one.extent) == ((150, 150, 150), (50, 50, 50), 100)
    assert (one.change, one.peak, one.residual) == (None, None, None)
    assert (two.means, two.spreads, two.extent) == ((155, 100, 100), (55, 0, 0), 110)
    assert (two.change, two.peak) == (pytest.approx(35, abs=0.001), 100)
    assert two.residual == pytest.approx(0, abs=0.01)  # all of it is a change of the colours
    assert (two.brightness, two.contrast) == (118.333, 18.333)


def test_a_moving_clip_has_no_fault() -> None:
    assert tell(draw_pan()) == ""


@pytest.mark.parametrize("frames", [1, 2, 3, 4])
def test_the_shortest_videos(frames: int) -> None:
    assert tell(draw_pan(frames)) == ""
    assert tell(np.full((frames, 8, 8, 3), 128, np.uint8)).startswith("flat 0")


def test_a_frozen_run() -> None:
    pixels = draw_pan()
    pixels[12:20] = pixels[12]
    assert tell(pixels) == "frozen 12-19"


@pytest.mark.parametrize(("rate", "frames"), [(8, 4), (16, 4), (24, 4), (30, 5), (60, 9)])
def test_how_long_a_frozen_run_is_at_least(rate: int, frames: int) -> None:
    pixels = draw_pan()
    pixels[12 : 12 + frames] = pixels[12]
    assert tell(pixels, rate=rate) == f"frozen 12-{11 + frames}"
    pixels = draw_pan()
    pixels[12 : 11 + frames] = pixels[12]
    assert tell(pixels, rate=rate) == ""


def test_frames_that_are_shown_several_times_are_not_frozen() -> None:
    """A slow clip in a video of a higher rate."""
    assert tell(np.repeat(draw_pan(8), 6, axis=0), rate=24) == ""


def test_a_still_picture_is_not_frozen() -> None:
    still = np.repeat(draw_pan(1), FRAMES, axis=0)
    assert tell(still) == ""
    assert tell(still, rate=8) == ""
    assert tell(still, rate=4) == "frozen 0-47"  # for twelve seconds
    assert tell(still, [SHOT, *list_origins(0, FRAMES - 1)], rate=4) == ""


def test_flicker() -> None:
    pixels = draw_pan()
    pixels[10:22:2] = np.minimum(255, pixels[10:22:2] * 1.08).astype(np.uint8)
    findings = find_faults(measure(pixels))
    assert [(each.kind, abs(each.first - 10) <= 1, abs(each.last - 21) <= 1) for each in findings] == [
        ("flicker", True, True)
    ]


def test_a_cut_and_a_jump() -> None:
    other = np.concatenate((draw_pan()[:30], draw_pan(seed=1)[30:]))
    assert tell(other) == "cut 30"
    brighter = draw_pan()
    brighter[30:] = np.minimum(255, brighter[30:] + 12.0)
    assert tell(brighter) == "jump 30"


def test_a_jump_in_a_still_video() -> None:
    pixels = np.repeat(draw_pan(1), FRAMES, axis=0)
    pixels[30:, ..., 2] = np.maximum(0, pixels[30:, ..., 2] - 12.0)
    assert tell(pixels) == "jump 30"


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize(("first", "last"), [(0, 3), (20, 20), (20, 30), (44, 47), (0, 47)])
def test_flat_frames(level: int, first: int, last: int) -> None:
    pixels = draw_pan()
    pixels[first : last + 1] = level
    assert tell(pixels) == f"flat {first}" + (f"-{last}" if last > first else "")


def test_a_fade_to_black_is_no_fault() -> None:
    light = np.clip((40 - np.arange(FRAMES)) / 10, 0, 1)[:, None, None, None]
    assert tell((draw_pan() * light).astype(np.uint8)) == ""


def test_a_cut_that_was_asked_for_is_no_fault() -> None:
    pixels = np.concatenate((draw_pan()[:30], draw_pan(seed=1)[30:]))
    origins = list_origins(0, FRAMES)
    origins[30] = SHOT
    assert tell(pixels, origins) == ""


@pytest.mark.parametrize("fade", [1, 2, 3, 6, 12])
def test_a_cross_fade_is_no_fault_and_a_jump_in_it_is_one(fade: int) -> None:
    weight = np.clip((np.arange(FRAMES) - 19) / (fade + 1), 0, 1)[:, None, None, None]
    pixels = (draw_pan() * (1 - weight) + draw_pan(seed=1) * weight).astype(np.uint8)
    origins = list_origins(0, FRAMES)
    for index in range(20, 20 + fade):
        origins[index] = FADE
    origins[20 + fade] = SHOT
    assert tell(pixels, origins) == ""
    pixels[40:] = np.maximum(0, pixels[40:] - 15.0)
    assert tell(pixels, origins) == "jump 40"


def test_a_title_card_between_moving_scenes_is_not_frozen(tmp_path: Path) -> None:
    file = tmp_path / "card.mp4"
    file.write_bytes(make_title_card("Scene 2\nA red star", 64, 48, Fraction(RATE), Fraction(1)))
    card = read(file)
    pixels = np.concatenate((draw_pan(16), card, draw_pan(16, seed=1)))
    origins = list_origins(0, len(pixels))
    origins[16] = origins[16 + len(card)] = SHOT
    assert tell(pixels, origins) == ""
    assert "frozen 16-31" in tell(pixels)


def test_the_frames_of_a_user_are_never_at_fault() -> None:
    pixels = np.concatenate((draw_pan()[:10], draw_pan(seed=1)[10:]))
    pixels[12:24] = pixels[12]
    pixels[2] = 0
    origins = list_origins(30, 18)
    assert tell(pixels) != ""
    assert tell(pixels, origins) == ""


def test_a_jump_where_the_clip_of_a_user_ends() -> None:
    pixels = draw_pan()
    pixels[30:] = np.minimum(255, pixels[30:] + np.array([10.0, 0, 0]))
    assert tell(pixels, list_origins(30, 18)) == "jump 30"


def test_a_continuation_that_stands_still() -> None:
    pixels = draw_pan()
    pixels[30:] = pixels[29]
    assert tell(pixels, list_origins(30, 18)) == "frozen 30-47"


def test_a_grey_card_goes_on_in_grey() -> None:
    card = np.full((20, 48, 64, 3), 118, np.uint8)
    assert tell(card, list_origins(10, 10)) == ""


def test_only_some_kinds() -> None:
    pixels = draw_pan()
    pixels[12:20] = pixels[12]
    pixels[30] = 0
    frames = measure(pixels)
    assert describe_findings(find_faults(frames)) == "frozen 12-19; flat 30"
    assert describe_findings(find_faults(frames, ["flat"])) == "flat 30"


def test_a_description_is_short() -> None:
    pixels = draw_pan(200)
    pixels[2:200:9] = 0
    text = tell(pixels)
    assert text.startswith("flat 2, 11, 20")
    assert text.endswith("65 and 14 more")


def test_the_judgement_of_a_video_in_parts() -> None:
    pixels = draw_pan()
    pixels[30] = 0
    parts = [pack_signals(measure(pixels)[:20], ""), pack_signals(measure(pixels)[20:], "")]
    judged = judge_parts([{"faults": list(KINDS)}, *parts])
    assert describe_findings(judged.findings) == "flat 30"
    assert [index for index, flags in enumerate(judged.list_flags()) if flags] == [30]
    assert judge_parts([{"faults": ["cut"]}, *parts]).findings == []
    assert judge_parts([{"faults": list(KINDS)}, None, *parts]).frames == ()
    assert judge_parts([]).frames == ()
