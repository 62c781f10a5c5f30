"""`reel demo` and `reel gallery` as commands, and the files they write."""

import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from miniatures import world
from miniatures.clips import read
from miniatures.judge import path_of, shapes_in
from miniatures.sheet import GAP, HEIGHT, draw_strip
from tests.cluster.server import ROOT

pytestmark = pytest.mark.cluster

GIVEN = ROOT / "clients" / "media" / "bouncing-triangle.mp4"


def reel(folder: Path, *words: str) -> str:
    """Run a command as a user would, and return its output."""
    done = subprocess.run(  # noqa: PLW1510 - a failure is shown below
        [str(Path(sys.executable).parent / "reel"), *words],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "REELGRAPH_HOME": str(folder / "home")},
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_demo_shows_how_a_clip_goes_on(tmp_path: Path) -> None:
    printed = reel(tmp_path, "demo").splitlines()
    assert printed[-1] == "reel-demo/contact-sheet.png"
    given, made = read(GIVEN), read(tmp_path / "reel-demo" / "continuation.mp4")
    (shape,) = shapes_in(given[-1])
    caption = (tmp_path / "reel-demo" / "caption.txt").read_text().strip()
    assert shape.shape in caption
    assert shape.colour in caption
    seen = [shapes_in(frame, 1)[0] for frame in made]
    assert {one.colour for one in seen} == {shape.colour}
    assert np.mean([one.shape == shape.shape for one in seen]) > 0.75
    before, after = path_of(given), path_of(made)
    assert np.linalg.norm(after[0] - before[-1]) < 3, "continues from its last position"
    assert (after[5] - after[0]) @ (before[-1] - before[-3]) > 0, "and in its direction"
    assert read(tmp_path / "reel-demo" / "continuation-x4.mp4").shape == (len(made), 256, 256, 3)
    with Image.open(tmp_path / "reel-demo" / "contact-sheet.png") as sheet:
        lower = np.asarray(sheet.convert("RGB"))[-HEIGHT - GAP : -GAP]
        large = read(tmp_path / "reel-demo" / "continuation-x4.mp4")
        assert np.array_equal(lower[:, GAP:-GAP], draw_strip(large))


def test_the_gallery_shows_every_graph(tmp_path: Path) -> None:
    page = tmp_path / reel(tmp_path, "gallery").splitlines()[-1]
    html = page.read_text()
    found = re.findall(r'<figcaption>(.*?)</figcaption><img src="(.*?)"', html)
    assert len(re.findall("<h2>", html)) == 8
    assert len({name for _, name in found}) == len(found) > 8
    for text, name in found:
        with Image.open(page.parent / name) as row:
            assert np.asarray(row)[:, : row.height].std() > 5, unescape(text)
    first = read(page.parent / "parts" / "svd-20.mp4")
    true = world.draw(20, figures=1, motion="line").figures[0]
    assert shapes_in(first[-1], 1)[0].colour == true.colour
