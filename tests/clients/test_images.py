"""Painted pictures: both clients, whole and as streams, and `reel image`."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from conftest import WAIT_S, Blocking, Looping, Program, Reel
from video_server import Script, VideoServer

from reelgraph import wire
from reelgraph.errors import ApiError, ConnectionLost, UnexpectedAnswer
from reelgraph.objects import CompletedImage, Identity, ImageProgress, PartialImage
from tests.clients.stories import IDENTITY, PAINTED, painting

Way = Blocking | Looping


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the picture of a face, and an identity."""
    (tmp_path / "face.png").write_bytes(b"a face")
    (tmp_path / "me.json").write_text(json.dumps(IDENTITY))
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "binary.json").write_bytes(b"\xff\x00")
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(4 << 30)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*picture*")}


# The clients.


def test_pictures_are_painted(client: Any, way: Way, server: VideoServer) -> None:
    loras = [{"name": "ink", "weight": 0.5}, "oil:2"]
    answer = way.take(client.images.generate(prompt="a fox", n=2, loras=loras, seed=None))
    assert [(picture.content, picture.seed, picture.scores) for picture in answer.data] == [
        (PAINTED, 7, None),
        (PAINTED, 8, None),
    ]
    assert (answer.size, answer.facts["seed"], answer.stages[0].model) == ("64x48", 7, "internvl")
    assert server.asked == [({"prompt": "a fox", "n": 2, "loras": loras}, {})]


def test_a_face_on_this_disk_is_sent_along(client: Any, way: Way, server: VideoServer, clip: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    given = {"prompt": "a fox", "face": clip, "loras": ["ink:0.5"], "identity_strength": 0.5}
    way.take(client.images.generate(**given, on_progress=lambda *at: seen.append(at)))
    way.take(client.images.stream_generate(**given, partial_images=2))
    form = {"prompt": "a fox", "loras": "ink:0.5", "identity_strength": "0.5"}
    files = {"face": clip.read_bytes()}
    assert server.asked == [(form, files), ({**form, "partial_images": "2", "stream": "true"}, files)]
    assert seen[-1] == (6000, 6000)
    with pytest.raises(FileNotFoundError):
        way.take(client.images.stream_generate(prompt="x", face=clip.with_name("nowhere.png")))
    assert len(server.seen) == 2


def test_a_face_by_id_or_by_its_identity(client: Any, way: Way, server: VideoServer) -> None:
    identity = Identity.model_validate(IDENTITY)
    for given in ({"face": "file_1"}, {"identity": identity}, {"identity": IDENTITY}):
        way.take(client.images.generate(prompt="a fox", **given))
    told = {"prompt": "a fox", "identity": IDENTITY}
    assert [fields for fields, _ in server.asked] == [{"prompt": "a fox", "face": "file_1"}, told, told]


def test_a_stream_tells_of_steps_previews_and_pictures(client: Any, way: Way, server: VideoServer) -> None:
    events = way.take(client.images.stream_generate(prompt="a fox", n=2, progress=True))
    steps = [(event.done, event.total) for event in events if isinstance(event, ImageProgress)]
    assert steps == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    previews = [event for event in events if isinstance(event, PartialImage)]
    assert [(event.content, event.index, event.n) for event in previews] == [(b"0", 0, 2), (b"1", 1, 2)]
    pictures = [event for event in events if isinstance(event, CompletedImage)]
    assert [(event.content, event.seed, event.index) for event in pictures] == [
        (PAINTED + b"0", 7, 0),
        (PAINTED + b"1", 8, 1),
    ]
    assert server.asked == [({"prompt": "a fox", "n": 2, "progress": True, "stream": True}, {})]
    (seen,) = server.seen
    assert seen.headers["accept"] == "text/event-stream"


def test_what_is_refused_says_why(client: Any, way: Way, server: VideoServer) -> None:
    for call in (client.images.generate, client.images.stream_generate):
        with pytest.raises(ApiError) as caught:
            way.take(call(prompt="x", steps=0))
        assert (caught.value.status, caught.value.param) == (422, "steps")


OUT_OF_MEMORY = {"message": "out of memory", "type": "server_error", "param": None, "code": "model_failed"}


@pytest.mark.parametrize(
    ("end", "kind", "told"),
    [
        ([("error", {"type": "error", "status": 503, "error": OUT_OF_MEMORY})], ApiError, "out of memory (503, model"),
        ([("error", {"error": OUT_OF_MEMORY})], ApiError, "out of memory (500, model_failed)"),
        ([("error", {})], ApiError, "{} (500)"),
        ([("error", {"status": "x"})], UnexpectedAnswer, "cannot be parsed"),
        ([("error", [])], UnexpectedAnswer, "cannot be parsed"),
        ([("image_generation.completed", {"seed": 1})], UnexpectedAnswer, "cannot be parsed"),
        ([], ConnectionLost, "ended before the last picture"),
    ],
)
def test_a_stream_that_does_not_end_well(
    client: Any, way: Way, script: Script, end: list[Any], kind: type[Exception], told: str
) -> None:
    script.painting = painting(2)[:6] + end
    seen: list[Any] = []
    with pytest.raises(kind) as caught:
        way.take(noted(client.images.stream_generate(prompt="x", n=2), seen))
    assert told in str(caught.value)
    assert isinstance(seen[-1], CompletedImage)


def noted(events: Any, seen: list[Any]) -> Any:
    """The same events, of which those before an error are not lost."""
    return _noted_later(events, seen) if hasattr(events, "__aiter__") else _noted(events, seen)


def _noted(events: Any, seen: list[Any]) -> Any:
    for event in events:
        seen.append(event)
        yield event


async def _noted_later(events: Any, seen: list[Any]) -> Any:
    async for event in events:
        seen.append(event)
        yield event


def test_a_connection_that_breaks(client: Any, way: Way, script: Script) -> None:
    script.cut_events = [3]
    with pytest.raises(ConnectionLost):
        way.take(client.images.stream_generate(prompt="x"))


def test_closing_a_stream_closes_the_connection(client: Any, way: Way, server: VideoServer, script: Script) -> None:
    script.hold_at = 2
    stream = client.images.stream_generate(prompt="x")
    if isinstance(way, Blocking):
        next(stream)
        stream.close()
    else:
        way.take(anext(stream))
        way.take(stream.aclose())
    assert server.left.wait(WAIT_S)


def test_a_stream_may_be_silent_only_as_long_as_it_is_alive() -> None:
    assert wire.stream_image({"prompt": "x"}).read_timeout_s == 60


# `reel image`.


def test_one_picture(reel: Reel, server: VideoServer, place: Path) -> None:
    result = reel("image", "a fox", "-o", "picture.png")
    assert result.exit_code == 0, result.stderr
    assert made(place) == {"picture.png": PAINTED + b"0"}
    assert result.stdout == "notice: the face is small\nseed: 7\npicture.png\n"
    assert result.stderr.splitlines() == ["in progress", "paint: 0 of 2", "paint: 1 of 2", "paint: 2 of 2"]
    assert server.asked == [({"prompt": "a fox", "progress": True, "stream": True}, {})]


@pytest.mark.parametrize(
    ("name", "form"), [("picture.jpg", "jpeg"), ("picture.JPEG", "jpeg"), ("picture.webp", "webp")]
)
def test_the_suffix_selects_the_format(reel: Reel, server: VideoServer, place: Path, name: str, form: str) -> None:
    result = reel("image", "a fox", "--output-compression", "80", "-o", name)
    assert result.exit_code == 0, result.stderr
    fields, _ = server.asked[0]
    assert (fields["output_format"], fields["output_compression"]) == (form, 80)
    assert made(place) == {name: PAINTED + b"0"}


def test_several_pictures_are_numbered(reel: Reel, place: Path) -> None:
    result = reel("image", "a fox", "--n", "2", "-o", "a.picture.PNG", "--json")
    assert result.exit_code == 0, result.stderr
    assert made(place) == {"a.picture-1.PNG": PAINTED + b"0", "a.picture-2.PNG": PAINTED + b"1"}
    told = json.loads(result.stdout)
    assert [(picture["seed"], picture["path"]) for picture in told] == [(7, "a.picture-1.PNG"), (8, "a.picture-2.PNG")]
    assert "b64_json" not in told[0]


def test_every_option_arrives(reel: Reel, server: VideoServer, place: Path) -> None:
    options = (
        *("--negative-prompt", "blur", "--true-cfg-scale", "2", "--size", "64x48", "--steps", "2", "--seed", "-1"),
        *("--guidance-scale", "3", "--identity-strength", "0.5", "--identity-start", "0.1", "--identity-end", "0.9"),
        *("--face-pose", "photo", "--n", "1", "--lora", "ink", "--lora", "style/oil:-0.5", "--model", "flux-dev"),
    )
    for face in (("--face", "face.png"), ("--identity", "me.json")):
        result = reel("image", "a fox", *options, *face, "-o", "picture.png")
        assert result.exit_code == 0, result.stderr
    fields = {
        "prompt": "a fox",
        "negative_prompt": "blur",
        "true_cfg_scale": 2.0,
        "size": "64x48",
        "steps": 2,
        "seed": -1,
        "guidance_scale": 3.0,
        "identity_strength": 0.5,
        "identity_start": 0.1,
        "identity_end": 0.9,
        "face_pose": "photo",
        "n": 1,
        "loras": ["ink", "style/oil:-0.5"],
        "model": "flux-dev",
        "progress": True,
        "stream": True,
    }
    form = {name: value if isinstance(value, str | list) else json.dumps(value) for name, value in fields.items()}
    assert server.asked == [(form, {"face": b"a face"}), ({**fields, "identity": IDENTITY}, {})]


def test_a_pose_is_a_word_or_a_file(reel: Reel, server: VideoServer, place: Path) -> None:
    (place / "pose.png").write_bytes(b"a pose")
    for pose in ("none", "pose.png"):
        result = reel("image", "a fox", "--face", "face.png", "--face-pose", pose, "-o", "picture.png")
        assert result.exit_code == 0, result.stderr
    (first, files), (second, more) = server.asked
    assert (first["face_pose"], files) == ("none", {"face": b"a face"})
    assert ("face_pose" in second, more) == (False, {"face": b"a face", "face_pose": b"a pose"})
    result = reel("image", "a fox", "--face-pose", "side", "-o", "picture.png")
    assert result.exit_code == 2
    assert "side is neither none, photo nor a file" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "Missing argument"),
        (("a fox",), "Missing option"),
        (("a fox", "-o", "picture.bmp"), "must end with .png, .jpg, .jpeg or .webp"),
        (("a fox", "-o", "nowhere/picture.png"), "does not exist"),
        (("a fox", "-o", "p.png", "--face", "face.png", "--identity", "me.json"), "give only one"),
        (("a fox", "-o", "p.png", "--face", "nowhere.png"), "does not exist"),
        (("a fox", "-o", "p.png", "--identity", "nowhere.json"), "cannot be read"),
        (("a fox", "-o", "p.png", "--identity", "broken.json"), "cannot be read"),
        (("a fox", "-o", "p.png", "--identity", "deep.json"), "cannot be read"),
        (("a fox", "-o", "p.png", "--identity", "binary.json"), "cannot be read"),
        (("a fox", "-o", "p.png", "--identity", "list.json"), "must have a JSON object"),
        (("a fox", "-o", "p.png", "--identity", "huge.json"), "is larger than"),
        (("a fox", "-o", "p.png", "--guidance-scale", "nan"), "must be a finite number"),
    ],
)
def test_nothing_is_sent_for_a_wrong_command_line(
    reel: Reel, server: VideoServer, place: Path, arguments: tuple[str, ...], told: str
) -> None:
    result = reel("image", *arguments)
    assert (result.exit_code, told in " ".join(result.stderr.replace("│", " ").split())) == (2, True), result.stderr
    assert server.seen == []
    assert made(place) == {}


def test_what_the_server_refuses(reel: Reel, place: Path) -> None:
    result = reel("image", "a fox", "--steps", "0", "-o", "picture.png")
    assert (result.exit_code, "steps: input should be greater than or equal to 1" in result.stderr) == (2, True)
    assert made(place) == {}


def test_a_picture_that_was_there_before_the_failure_stays(reel: Reel, script: Script, place: Path) -> None:
    script.painting = [*painting(2)[:6], ("error", {"status": 500, "error": OUT_OF_MEMORY})]
    result = reel("image", "a fox", "--n", "2", "-o", "picture.png")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-2:] == ["picture-1.png is complete", "reel: out of memory (500, model_failed)"]
    assert made(place) == {"picture-1.png": PAINTED + b"0"}


def test_an_interrupt_stops_the_server(program: Program, server: VideoServer, script: Script, place: Path) -> None:
    script.hold_at = 2
    process = program("image", "a fox", "-o", "picture.png")
    assert server.held.wait(WAIT_S)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=WAIT_S)
    assert (process.returncode, "Traceback" in told) == (130, False), told
    assert server.left.wait(WAIT_S)
    assert made(place) == {}


def test_the_help_says_something_of_every_option(reel: Reel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for command, count in (("image", 20), ("face", 6)):
        options = [line for line in reel(command, "--help").stdout.splitlines() if " --" in line]
        assert len(options) == count
        assert all(line.rstrip("│ ").removesuffix("[required]").rstrip().endswith(".") for line in options)
