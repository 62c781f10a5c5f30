"""Contact sheets, and clips in files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from miniatures import sheet as sheets
from miniatures import world
from miniatures.clips import read, write
from miniatures.judge import psnr, shapes_in
from miniatures.sheet import GAP, HEIGHT, LINE, Row, draw_sheet, draw_strip, main


def test_a_strip_shows_the_first_and_the_last_frame() -> None:
    clip = world.draw(5).clip(17)
    made = draw_strip(clip, across=4, height=64)
    assert made.shape == (64, 4 * 64 + 3 * GAP, 3)
    assert np.array_equal(made[:, :64], clip[0])
    assert np.array_equal(made[:, -64:], clip[-1])


def test_few_frames_are_all_shown() -> None:
    assert draw_strip(world.draw(5).clip(3), across=8, height=64).shape[1] == 3 * 64 + 2 * GAP


def test_a_sheet_has_a_line_and_a_strip_for_each_row() -> None:
    rows = [Row("above", world.draw(1).clip(9)), Row("below", world.draw(2).clip(2, scale=4))]
    paper = np.asarray(draw_sheet(rows))
    assert paper.shape[0] == 2 * (LINE + HEIGHT + GAP) + GAP
    assert (paper[GAP : GAP + LINE] < 128).any(), "the text"
    below = paper[GAP + 2 * LINE + HEIGHT + GAP :, GAP : GAP + HEIGHT][:HEIGHT]
    assert shapes_in(below, 1)[0].colour == world.draw(2).figures[0].colour


def test_a_clip_survives_its_file(tmp_path: Path) -> None:
    clip = world.draw(8).clip(9)
    write(tmp_path / "clip.mp4", clip)
    again = read(tmp_path / "clip.mp4")
    assert again.shape == clip.shape
    assert psnr(again, clip) > 25
    Image.fromarray(clip[0]).save(tmp_path / "picture.png")
    assert np.array_equal(read(tmp_path / "picture.png"), clip[:1])


def test_the_command_makes_one_of_files_and_scenes(tmp_path: Path) -> None:
    write(tmp_path / "clip.mp4", world.draw(8).clip(9))
    out = tmp_path / "sheet.png"
    assert (
        main([str(out), "--row", "a clip", str(tmp_path / "clip.mp4"), "--scene", "3", "outlined", "--person", "2"])
        == 0
    )
    with Image.open(out) as made:
        assert made.height == 3 * (LINE + HEIGHT + GAP) + GAP


@pytest.mark.parametrize("scene", [("x", "flat"), ("3", "cubist")])
def test_a_scene_is_a_seed_and_a_style(
    scene: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path / "sheet.png"), "--scene", *scene])
    assert (
        f"--scene {' '.join(scene)}: must be a seed of 0 or more and one of flat, outlined, stippled"
        in capsys.readouterr().err
    )


def test_what_is_no_video_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"nothing")
    assert main([str(tmp_path / "sheet.png"), "--row", "a clip", str(tmp_path / "clip.mp4")]) == 1
    assert "not a readable video or picture" in capsys.readouterr().err
    assert not (tmp_path / "sheet.png").exists()


def test_the_world_s_sheet_in_the_docs_shows_the_world(tmp_path: Path) -> None:
    docs = Path(sheets.__file__).parents[1] / "docs" / "world.png"
    scenes = [(1, "flat"), (4, "flat"), (0, "flat"), (8, "flat"), (3, "flat"), (10, "outlined"), (23, "stippled")]
    words = [word for seed, style in scenes for word in ("--scene", str(seed), style)]
    assert main([str(tmp_path / "world.png"), *words]) == 0
    with Image.open(docs) as kept, Image.open(tmp_path / "world.png") as made:
        assert np.array_equal(np.asarray(kept), np.asarray(made))
