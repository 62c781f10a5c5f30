"""Runs the README's commands verbatim against a running server."""

import json
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

README, USAGE = (
    re.findall(r"^```(sh|python)\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)
    for page in ("README.md", "docs/usage.md")
)


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


def count_frames(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def find_block(blocks: list[tuple[str, str]], words: str) -> str:
    """Return the one block that holds these words."""
    (block,) = [text for _, text in blocks if words in text]
    return block


def run_shell(server: Server, folder: Path, block: str) -> None:
    run(server, folder, ["bash", "-euo", "pipefail", "-c", block.replace("http://127.0.0.1:8000", server.url)])


def test_three_graphs_in_three_commands(server: Server, folder: Path) -> None:
    run_shell(server, folder, find_block(README, "reel v2v"))
    assert count_frames(folder / "continued.mp4") > 1
    assert count_frames(folder / "edited.mp4") == 9
    assert count_frames(folder / "star.mp4") == 14


@pytest.mark.parametrize("words", ["model=v2v ", "-o frames.zip", "gate="])
def test_curl(server: Server, folder: Path, words: str) -> None:
    run_shell(server, folder, find_block(USAGE, words))
    if words == "model=v2v ":
        assert count_frames(folder / "continued.mp4") > 1
    elif words == "-o frames.zip":
        with zipfile.ZipFile(folder / "frames.zip") as archive:
            assert archive.namelist() == [f"{index:06d}.png" for index in range(4)]
    else:
        with server.client() as client:
            made = client.get(f"/v1/videos/{json.loads((folder / 'job.json').read_text())['id']}").json()
        assert made["status"] == "completed"
        assert "gate_tries" in made["facts"]


def test_curl_with_the_full_pipeline(server: Server, folder: Path) -> None:
    run_shell(server, folder, find_block(USAGE, "model=full-pipeline "))
    assert count_frames(folder / "hd.mp4") == count_frames(folder / "small.mp4") == 14
    assert (folder / "star.png").read_bytes().startswith(b"\x89PNG")
    events = (folder / "events.txt").read_text()
    assert events.count("event: image_generation.partial_image\n") == 2
    assert events.count("event: image_generation.completed\n") == 1


def test_images_and_a_storyboard_on_the_command_line(server: Server, folder: Path) -> None:
    run_shell(server, folder, find_block(USAGE, "reel storyboard"))
    for name in ("large.png", "edited.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    assert count_frames(folder / "film.mp4") == 12 + 12 - 3


def test_videos_on_the_command_line(server: Server, folder: Path) -> None:
    run_shell(server, folder, find_block(USAGE, "reel v2v"))
    assert count_frames(folder / "joined.mp4") > 21
    assert count_frames(folder / "edited.mp4") == 9
    assert (folder / "continued.gif").read_bytes().startswith(b"GIF89a")
    assert len(list((folder / "frames").iterdir())) == 9


@pytest.mark.parametrize(("page", "words"), [(README, "from reelgraph import Client"), (USAGE, "import openai")])
def test_python(server: Server, folder: Path, page: list[tuple[str, str]], words: str) -> None:
    block = find_block(page, words)
    run(server, folder, [sys.executable, "-c", block.replace("http://127.0.0.1:8000", server.url)])
    assert count_frames(folder / "continued.mp4") > 1
