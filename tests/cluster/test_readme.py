"""The README's lines, run as they stand, against a server that is up."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import av
import pytest

from tests.cluster.server import ROOT, Server

pytestmark = pytest.mark.cluster

BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "clients").symlink_to(ROOT / "clients")
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    return tmp_path


def run(server: Server, folder: Path, command: list[str]) -> None:
    environment = {**os.environ, "REELGRAPH_URL": server.url, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(  # noqa: PLW1510 - a failure is shown below
        command, cwd=folder, capture_output=True, text=True, env=environment, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr


def frames(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


@pytest.mark.parametrize("model", ["v2v", "rolling-edit"])
def test_the_curl_lines(server: Server, folder: Path, model: str) -> None:
    (block,) = [text for kind, text in BLOCKS if kind == "sh" and f"model={model} " in text]
    run(server, folder, ["bash", "-euo", "pipefail", "-c", block.replace("http://127.0.0.1:8000", server.url)])
    if model == "v2v":
        assert frames(folder / "continued.mp4") > 1
    else:
        with zipfile.ZipFile(folder / "frames.zip") as archive:
            assert archive.namelist() == [f"{index:06d}.png" for index in range(4)]


def test_the_curl_lines_of_the_full_pipeline(server: Server, folder: Path) -> None:
    (block,) = [text for kind, text in BLOCKS if kind == "sh" and "model=full-pipeline " in text]
    run(server, folder, ["bash", "-euo", "pipefail", "-c", block.replace("http://127.0.0.1:8000", server.url)])
    assert frames(folder / "hd.mp4") == frames(folder / "small.mp4") == 14
    assert (folder / "star.png").read_bytes().startswith(b"\x89PNG")
    told = (folder / "events.txt").read_text()
    assert told.count("event: image_generation.partial_image\n") == 2
    assert told.count("event: image_generation.completed\n") == 1


def test_the_reel_lines_of_pictures_and_films(server: Server, folder: Path) -> None:
    (block,) = [text for kind, text in BLOCKS if kind == "sh" and "reel storyboard" in text]
    run(server, folder, ["bash", "-euo", "pipefail", "-c", block])
    assert (folder / "large.png").read_bytes().startswith(b"\x89PNG")
    assert frames(folder / "star.mp4") == 14
    assert frames(folder / "film.mp4") == 12 + 12 - 3


@pytest.mark.parametrize("library", ["openai", "reelgraph"])
def test_the_python_blocks(server: Server, folder: Path, library: str) -> None:
    (block,) = [
        text for kind, text in BLOCKS if kind == "python" and re.search(rf"^(import|from) {library}\b", text, re.M)
    ]
    run(server, folder, [sys.executable, "-c", block.replace("http://127.0.0.1:8000", server.url)])
    assert frames(folder / "continued.mp4") > 1


def test_the_reel_lines(server: Server, folder: Path) -> None:
    (block,) = [text for kind, text in BLOCKS if kind == "sh" and "reel v2v" in text]
    run(server, folder, ["bash", "-euo", "pipefail", "-c", block])
    assert frames(folder / "continued.mp4") > 1
    assert frames(folder / "joined.mp4") > 21
    assert frames(folder / "edited.mp4") == 9
    assert len(list((folder / "frames").iterdir())) == 9
