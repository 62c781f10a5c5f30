"""Faces: both clients, and `reel face`."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Blocking, Looping, Reel
from video_server import VideoServer

from reelgraph.errors import ApiError
from tests.clients.stories import CROP, IDENTITY

Way = Blocking | Looping

TABLE = """\
faces               2
box                 left 0.351  top 0.113  right 0.531  bottom 0.340
left eye            0.396  0.197
right eye           0.484  0.201
nose                0.440  0.250
left mouth corner   0.400  0.300
right mouth corner  0.480  0.302
notice              2 faces were found, and the largest is taken
"""


def test_a_face_is_found(client: Any, way: Way, server: VideoServer, clip: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    found = way.take(client.faces.find(clip, on_progress=lambda *at: seen.append(at)))
    assert found.identity.embedding == IDENTITY["embedding"]
    assert (found.faces, found.crop.content, found.stages[0].seconds) == (2, CROP, 0.5)
    assert way.take(client.faces.find("file_1")) == found
    assert way.take(client.faces.find("file_1", model="mine")) == found
    named = {"image": "file_1", "model": "mine"}
    assert server.asked == [({}, {"image": clip.read_bytes()}), ({"image": "file_1"}, {}), (named, {})]
    assert seen[-1] == (6000, 6000)


def test_what_is_refused_says_why(client: Any, way: Way, server: VideoServer, clip: Path) -> None:
    with pytest.raises(ApiError) as caught:
        way.take(client.faces.find("file_none"))
    assert (caught.value.status, caught.value.param) == (422, "image")
    with pytest.raises(FileNotFoundError):
        way.take(client.faces.find(clip.with_name("nowhere.png")))
    assert len(server.seen) == 1


def test_a_table_and_files(reel: Reel, server: VideoServer, clip: Path) -> None:
    crop, identity = clip.with_name("crop.png"), clip.with_name("me.json")
    result = reel("face", clip, "-o", crop, "--identity-out", identity)
    assert (result.exit_code, result.stdout) == (0, TABLE)
    assert crop.read_bytes() == CROP
    assert json.loads(identity.read_text()) == IDENTITY
    assert server.asked == [({}, {"image": clip.read_bytes()})]
    assert reel("image", "a fox", "--identity", identity, "-o", clip.with_name("p.png")).exit_code == 0
    assert server.asked[1][0]["identity"] == IDENTITY


def test_a_model_is_chosen(reel: Reel, server: VideoServer, clip: Path) -> None:
    assert reel("face", clip, "--model", "mine").exit_code == 0
    assert server.asked == [({"model": "mine"}, {"image": clip.read_bytes()})]


def test_as_json(reel: Reel, clip: Path) -> None:
    told = json.loads(reel("face", clip, "--json").stdout)
    assert (told["identity"], told["faces"]) == (IDENTITY, 2)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nowhere.png",), "does not exist"),
        (("in.mp4", "-o", "crop.jpg"), "must end with .png"),
        (("in.mp4", "--identity-out", "nowhere/me.json"), "there is no folder"),
    ],
)
def test_nothing_is_sent_for_a_wrong_command_line(
    reel: Reel,
    server: VideoServer,
    clip: Path,
    arguments: tuple[str, ...],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(clip.parent)
    result = reel("face", *arguments)
    assert (result.exit_code, told in " ".join(result.stderr.replace("│", " ").split())) == (2, True), result.stderr
    assert server.seen == []
    assert list(clip.parent.iterdir()) == [clip]
