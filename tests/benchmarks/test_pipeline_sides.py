"""The tape that encodes both videos of the pipeline benchmark and records the times of frames."""

import io

import av
import numpy as np
import pytest

from benchmarks.pipeline_sides import MP4, NET, SVD, Cutter, Tape
from composition.graphs.full_pipeline.request import HD
from services.frames import Frames, Result, StageDone

FRAMES = 13


def run(first: int, count: int, side: int = 32) -> Frames:
    pixels = np.random.default_rng(first).integers(0, 256, (count, side, side, 3), np.uint8)
    return Frames(pixels, first)


@pytest.mark.parametrize("lengths", [[13], [4, 4, 4, 1], [1] * 13])
def test_the_segments_are_one_whole_video_however_the_frames_come(lengths: list[int]) -> None:
    cutter = Cutter(FRAMES)
    pixels = np.random.default_rng(1).integers(0, 256, (FRAMES, 32, 32, 3), np.uint8)
    first = 0
    for count in lengths:
        assert not cutter.whole
        cutter.take(Frames(pixels[first : first + count], first))
        first += count
    assert cutter.whole
    assert cutter.segments == 3  # of 2, 8 and 3 frames
    with av.open(io.BytesIO(bytes(cutter.data)), "r") as video:
        assert [frame.time for frame in video.decode(video=0)] == list(range(FRAMES))


def test_a_gap_is_no_video() -> None:
    cutter = Cutter(FRAMES)
    cutter.take(run(0, 4))
    with pytest.raises(ValueError, match="expected frame 4, got frame 5"):
        cutter.take(run(5, 4))


def test_a_tape_tells_both_videos_and_every_stage() -> None:
    tape = Tape(FRAMES)
    for first, count in ((0, 8), (8, 5)):
        for item in (run(first, count), Result(HD, run(first, count, 64))):
            tape.note(item)
            tape.encode(item)
    for stage, model, seconds in (
        ("upscale", "realesrgan", 1.5),
        ("upscale", "realesrgan", 2.0),
        ("animate", "svd", 4),
    ):
        tape.note(StageDone(stage, model, "nowhere", "", "here", seconds))
    film = tape.film()
    assert (film.seconds[SVD], film.seconds[NET]) == (4, 3.5)
    assert 0 < film.first_enlarged < film.first_segment < film.last_window < film.makespan
    assert 0 < film.seconds[MP4] < film.makespan


def test_a_tape_with_frames_missing_is_no_film() -> None:
    tape = Tape(FRAMES)
    for item in (run(0, 13), Result(HD, run(0, 8, 64))):
        tape.note(item)
        tape.encode(item)
    with pytest.raises(ValueError, match="a video has fewer than 13 frames"):
        tape.film()
