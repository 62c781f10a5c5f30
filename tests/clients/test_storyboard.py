"""`reel storyboard`: scripts with faces beside them, topics, and films that have placeholders."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Blocking, Looping, Reel
from video_server import Script, VideoServer

from tests.clients.stories import CONTENT, FAILURE, IDENTITY

SCENES_STORY: list[tuple[str, dict[str, Any]]] = [
    ("status", {"status": "in_progress"}),
    ("fact", {"name": "script_source", "value": "request"}),
    ("progress", {"stage": "scenes", "done": 0, "total": 200}),
    ("progress", {"stage": "scenes", "done": 150, "total": 200}),
    ("progress", {"stage": "stitch", "done": 1, "total": 2}),
    ("progress", {"stage": "stitch", "done": 2, "total": 2}),
    ("result", {"variant": "video"}),
    ("status", {"status": "completed"}),
]
SCENE = {"scene_number": 1, "description": "A boat leaves.", "duration": 2}
FACES = [
    {**SCENE, "face": "faces/me.png"},
    {**SCENE, "scene_number": 2, "face": "file_of_old", "lora": ["ink:0.5"], "style": "noir"},
    {**SCENE, "scene_number": 3, "face": "../you.png"},
    {**SCENE, "scene_number": 4, "face": "faces/me.png"},
    {**SCENE, "scene_number": 5, "face": None},
]
PLACEHOLDERS = {
    "facts": {"placeholders": "2, 3"},
    "degraded": "scene 2 is a placeholder: out of memory;\nscene 3 is a placeholder: it was deleted",
}
CHILDREN = [
    {"id": "video_a", "model": "full-pipeline", "status": "completed", "progress": 100},
    {"id": "video_b", "model": "full-pipeline", "status": "failed", "progress": 40, "newer": "than the client"},
]


@pytest.fixture
def script() -> Script:
    return Script(story=list(SCENES_STORY))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with scripts in another one, and faces beside them."""
    folder = tmp_path / "scripts"
    (folder / "faces").mkdir(parents=True)
    (folder / "faces" / "me.png").write_bytes(b"me")
    (tmp_path / "you.png").write_bytes(b"you")
    scripts: dict[str, Any] = {
        "plain": {"title": "The boat", "scenes": [SCENE]},
        "faces": {"scenes": FACES},
        "odd": {"scenes": {"1": SCENE}},
        "stray": {"scenes": [SCENE, "no scene"]},
        "list": [SCENE],
        "nowhere": {"scenes": [{**SCENE, "face": "nowhere.png"}]},
        "folder": {"scenes": [{**SCENE, "face": "faces"}]},
        "device": {"scenes": [{**SCENE, "face": "/dev/zero"}]},
        "long": {"scenes": [{**SCENE, "face": "x" * 5000}]},
    }
    for name, told in scripts.items():
        (folder / f"{name}.json").write_text(json.dumps(told), encoding="utf-8")
    (folder / "broken.json").write_text('{"scenes": [')
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "binary.json").write_bytes(b"\xff\x00")
    (folder / "marked.json").write_text(json.dumps(scripts["plain"]), encoding="utf-8-sig")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_script_becomes_a_film(reel: Reel, server: VideoServer, place: Path) -> None:
    result = reel("storyboard", "scripts/plain.json", "-o", "film.mp4")
    assert result.exit_code == 0, result.stderr
    assert (place / "film.mp4").read_bytes() == CONTENT
    told = {"title": "The boat", "scenes": [SCENE]}
    assert server.jobs["video_1"].fields == {"model": "storyboard", "script": told}
    assert result.stdout.splitlines()[-2:] == ["seed: 7", "film.mp4"]
    story = ["job video_1", "scenes: 0 of 200", "scenes: 150 of 200", "stitch: 2 of 2", "video is there", "completed"]
    assert [line for line in result.stderr.splitlines() if line in story] == story


def test_faces_beside_a_script_are_uploaded_once(reel: Reel, server: VideoServer, place: Path) -> None:
    result = reel("storyboard", "scripts/faces.json", "--face", "you.png", "-o", "film.mp4")
    assert result.exit_code == 0, result.stderr
    fields = server.jobs["video_1"].fields
    assert [data for _, data in server.files.values()] == [b"you", b"me", b"you"]
    faces = ["file_2", "file_of_old", "file_3", "file_2", None]
    expected = [{**scene, "face": face} for scene, face in zip(FACES, faces, strict=True)]
    assert fields == {"model": "storyboard", "face": "file_1", "script": {"scenes": expected}}


def test_a_script_may_have_a_byte_order_mark(reel: Reel, server: VideoServer, place: Path) -> None:
    assert reel("storyboard", "scripts/marked.json", "-o", "film.mp4").exit_code == 0
    told = (place / "scripts" / "marked.json").read_text(encoding="utf-8-sig")
    assert server.jobs["video_1"].fields["script"] == json.loads(told)


@pytest.mark.parametrize("name", ["odd", "stray"])
def test_what_is_an_object_the_server_judges(reel: Reel, server: VideoServer, place: Path, name: str) -> None:
    result = reel("storyboard", f"scripts/{name}.json", "-o", "film.mp4")
    assert (result.exit_code, "reel: script.scenes" in result.stderr) == (2, True)
    assert server.jobs == {}


def test_a_topic_with_every_option(reel: Reel, server: VideoServer, place: Path) -> None:
    options = (
        *("--scenes", "4", "--scene-s", "2.5", "--no-write-prompts", "--fallback", "error", "--crossfade-s", "0.5"),
        *("--interpolate", "2", "--lora", "ink", "--restyle", "noir", "--no-upscale", "--fps", "8", "--seed", "3"),
    )
    (place / "me.json").write_text(json.dumps(IDENTITY))
    result = reel("storyboard", "--topic", "a boat", *options, "--identity", "me.json", "-o", "film.mp4")
    assert result.exit_code == 0, result.stderr
    assert server.jobs["video_1"].fields == {
        "model": "storyboard",
        "topic": "a boat",
        "scenes": 4,
        "scene_s": 2.5,
        "write_prompts": False,
        "fallback": "error",
        "crossfade_s": 0.5,
        "interpolate": 2,
        "seed": 3,
        "loras": ["ink"],
        "identity": IDENTITY,
        "restyle": {"prompt": "noir"},
        "animate": {"fps": 8.0},
        "upscale": False,
    }


@pytest.mark.parametrize("how", [(), ("--json",)])
def test_a_film_with_placeholders_is_there_and_says_so(
    reel: Reel, script: Script, place: Path, how: tuple[str, ...]
) -> None:
    script.about = PLACEHOLDERS
    result = reel("storyboard", "scripts/plain.json", "-o", "film.mp4", *how)
    assert result.exit_code == 4
    assert (place / "film.mp4").read_bytes() == CONTENT
    assert result.stderr.splitlines()[-1] == (
        "reel: the film has placeholders for scenes that could not be made (2, 3): scene 2 is a placeholder: out of "
        "memory; scene 3 is a placeholder: it was deleted"
    )
    assert "film.mp4" in result.stdout


def test_what_is_only_damaged_is_no_placeholder(reel: Reel, script: Script, place: Path) -> None:
    script.about = {"degraded": "the sound is missing"}
    assert reel("storyboard", "scripts/plain.json", "-o", "film.mp4").exit_code == 0


def test_a_failed_film_leaves_no_file(reel: Reel, script: Script, place: Path) -> None:
    script.story[-1] = FAILURE
    script.about = PLACEHOLDERS
    result = reel("storyboard", "scripts/plain.json", "-o", "film.mp4")
    assert (result.exit_code, "out of memory (model_failed)" in result.stderr) == (1, True)
    assert not (place / "film.mp4").exists()


OUT = ("-o", "film.mp4")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (OUT, "give one of them"),
        (("scripts/plain.json", "--topic", "a boat", *OUT), "give one of them"),
        (("scripts/plain.json",), "Missing option"),
        (("scripts/plain.json", "-o", "film.avi"), "film.avi must end with .mp4"),
        (("scripts/none.json", *OUT), "does not exist"),
        (("scripts", *OUT), "is a directory"),
        (("scripts/broken.json", *OUT), "cannot be read as JSON"),
        (("scripts/deep.json", *OUT), "cannot be read as JSON"),
        (("scripts/binary.json", *OUT), "cannot be read as JSON"),
        (("scripts/list.json", *OUT), "holds no JSON object"),
        (("scripts/nowhere.json", *OUT), "the face of scene 1: 'nowhere.png' is no file beside"),
        (("scripts/folder.json", *OUT), "the face of scene 1: 'faces' is no file beside"),
        (("scripts/device.json", *OUT), "the face of scene 1: '/dev/zero' is no file beside"),
        (("scripts/long.json", *OUT), "is no file beside"),
        (("--topic", "x", "--fallback", "skip", *OUT), "is not one of"),
        (("--topic", "x", "--crossfade-s", "inf", *OUT), "must be a finite number"),
        (("--topic", "x", "--no-animate", *OUT), "a scene is a video"),
        (("--topic", "x", "--no-upscale", "--scale", "2", *OUT), "upscale.scale cannot be given for what is left out"),
    ],
)
def test_nothing_is_sent_for_a_wrong_command_line(
    reel: Reel, server: VideoServer, place: Path, arguments: tuple[str, ...], told: str
) -> None:
    result = reel("storyboard", *arguments)
    assert (result.exit_code, told in " ".join(result.stderr.replace("│", " ").split())) == (2, True), result.stderr
    assert server.seen == []
    assert not (place / "film.mp4").exists()


def test_a_storyboard_from_python(
    client: Any, way: Blocking | Looping, server: VideoServer, script: Script, place: Path
) -> None:
    script.about = {**PLACEHOLDERS, "children": CHILDREN, "parent": "video_9"}
    story = {"scenes": [SCENE]}
    way.take(client.videos.create(model="storyboard", script=story, interpolate=2))
    video = way.take(client.videos.create(model="storyboard", script=story, face=place / "you.png"))
    assert server.jobs["video_1"].fields == {"model": "storyboard", "script": story, "interpolate": 2}
    sent = {"model": "storyboard", "script": json.dumps(story), "face": "you"}
    assert server.jobs["video_2"].fields == sent
    assert [(child.id, child.status, child.progress) for child in video.children] == [
        ("video_a", "completed", 100),
        ("video_b", "failed", 40),
    ]
    assert (video.parent, video.facts["placeholders"]) == ("video_9", "2, 3")
