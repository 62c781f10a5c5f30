"""`reel pipeline` and `reel upscale`, and the fields of both from Python."""

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from conftest import WAIT_S, Blocking, Looping, Program, Reel
from test_progress import events_of, last_picture, terminal
from video_server import Script, VideoServer

from reelgraph import wire
from reelgraph.fields import VideoFields
from reelgraph.objects import Identity, ResultEvent, SegmentEvent, Video
from tests.clients.stories import CONTENT, FAILURE, HD, IDENTITY, PAINTED

Way = Blocking | Looping

STAGES = [
    {"name": "image", "model": "flux", "source": "path:tiny", "revision": "1", "replica": "a", "seconds": 12.25},
    {"name": "upscale", "model": "realesrgan", "source": "x", "revision": "1", "replica": "b", "seconds": 0.5},
]
PIPELINE_STORY: list[tuple[str, dict[str, Any]]] = [
    ("status", {"status": "in_progress"}),
    ("progress", {"stage": "paint", "done": 2, "total": 2}),
    ("result", {"variant": "image"}),
    ("frame", {"index": 0, "frames_done": 1, "frames_total": 2, "scores": None}),
    ("frame", {"index": 1, "frames_done": 2, "frames_total": 2, "scores": None}),
    ("segment", {"variant": "video", "index": 0, "first": 0, "frames": 2, "frames_done": 2, "frames_total": 2}),
    ("result", {"variant": "video"}),
    ("tomorrow", {"what": "a kind of event that is newer than the client"}),
    ("segment", {"variant": "hd", "index": 0, "first": 0, "frames": 2, "frames_done": 2, "frames_total": 2}),
    ("result", {"variant": "hd"}),
    ("status", {"status": "completed"}),
]
TOLD = [
    "in progress",
    "paint: 2 of 2",
    "image is complete",
    "frame 1 of 2",
    "frame 2 of 2",
    "video is complete",
    "hd frames: 2 of 2",
    "hd is complete",
    "completed",
]


@pytest.fixture
def script() -> Script:
    return Script(story=list(PIPELINE_STORY), about={"stages": STAGES})


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the picture of a face, an identity, and what is neither."""
    (tmp_path / "face.png").write_bytes(b"a face")
    (tmp_path / "me.json").write_text(json.dumps(IDENTITY))
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "nan.json").write_text('{"box": [NaN]}')
    (tmp_path / "endless.json").write_text('{"box": [1e999]}')
    (tmp_path / "half.json").write_text(r'{"box": "\ud800"}')
    (tmp_path / "in.mp4").write_bytes(b"a clip")
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(4 << 30)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("fox*")}


# `reel pipeline`.


def test_all_stages_with_their_results(reel: Reel, server: VideoServer, place: Path) -> None:
    result = reel("pipeline", "a fox", "--image-out", "fox.png", "--video-out", "fox-small.mp4", "-o", "fox.mp4")
    assert result.exit_code == 0, result.stderr
    assert made(place) == {"fox.png": PAINTED, "fox-small.mp4": CONTENT, "fox.mp4": HD}
    assert server.jobs["video_1"].fields == {"model": "full-pipeline", "prompt": "a fox", "animate": True}
    assert result.stdout.splitlines() == [
        "image    flux        12.2 s",
        "upscale  realesrgan   0.5 s",
        "seed: 7",
        "fox.png",
        "fox-small.mp4",
        "fox.mp4",
    ]
    assert [line for line in result.stderr.splitlines() if line in TOLD] == TOLD
    asked = [seen.query for seen in server.requests("GET", "/v1/videos/video_1/content")]
    assert asked == [{"variant": "image"}, {"variant": "video"}, {}]


def test_json_has_no_table_beside_it(reel: Reel, place: Path) -> None:
    told = json.loads(reel("pipeline", "a fox", "-o", "fox.mp4", "--json").stdout)
    assert (told["main"], told["facts"], told["paths"]) == ("hd", {"seed": 7}, ["fox.mp4"])
    assert [stage["model"] for stage in told["stages"]] == ["flux", "realesrgan"]


@pytest.mark.parametrize(
    ("arguments", "sent", "there"),
    [
        (("--no-upscale", "-o", "fox.mp4"), {"animate": True, "upscale": False}, {"fox.mp4": CONTENT}),
        (("--no-animate", "-o", "fox.PNG"), {"animate": False}, {"fox.PNG": PAINTED}),
        (
            ("--no-animate", "--scale", "2", "-o", "fox.png", "--image-out", "fox-small.png"),
            {"animate": False, "upscale": {"scale": 2}},
            {"fox.png": HD, "fox-small.png": PAINTED},
        ),
        (
            ("--no-animate", "--no-upscale", "--no-restyle", "-o", "fox.png"),
            {"animate": False, "upscale": False, "restyle": False},
            {"fox.png": PAINTED},
        ),
    ],
)
def test_stages_are_left_out(
    reel: Reel, server: VideoServer, place: Path, arguments: tuple[str, ...], sent: Any, there: dict[str, bytes]
) -> None:
    result = reel("pipeline", "a fox", *arguments)
    assert result.exit_code == 0, result.stderr
    assert server.jobs["video_1"].fields == {"model": "full-pipeline", "prompt": "a fox", **sent}
    assert made(place) == there


OPTIONS = (
    *("--negative-prompt", "blur", "--true-cfg-scale", "2", "--size", "64x48", "--steps", "2", "--seed", "-1"),
    *("--guidance-scale", "3", "--identity-strength", "0.5", "--identity-start", "0.1", "--identity-end", "0.9"),
    *("--lora", "ink", "--lora", "style/oil:-0.5", "--restyle", "watercolour", "--restyle-strength", "0.6"),
    *("--restyle-negative-prompt", "oil", "--restyle-steps", "4", "--restyle-guidance-scale", "5"),
    *("--restyle-guidance-rescale", "0.7", "--restyle-seed", "3", "--restyle-max-area", "4096"),
    *("--num-frames", "4", "--fps", "7", "--motion-bucket-id", "100", "--noise-aug-strength", "0.1"),
    *("--animate-steps", "5", "--animate-seed", "4", "--animate-max-area", "9216", "--animate-size", "96x64"),
    *("--animate-min-guidance-scale", "1", "--animate-max-guidance-scale", "3", "--scale", "3"),
)
FIELDS: dict[str, Any] = {
    "negative_prompt": "blur",
    "true_cfg_scale": 2.0,
    "size": "64x48",
    "steps": 2,
    "seed": -1,
    "guidance_scale": 3.0,
    "identity_strength": 0.5,
    "identity_start": 0.1,
    "identity_end": 0.9,
    "loras": ["ink", "style/oil:-0.5"],
    "restyle": {
        "prompt": "watercolour",
        "negative_prompt": "oil",
        "strength": 0.6,
        "steps": 4,
        "guidance_scale": 5.0,
        "guidance_rescale": 0.7,
        "seed": 3,
        "max_area": 4096,
    },
    "animate": {
        "num_frames": 4,
        "fps": 7.0,
        "motion_bucket_id": 100,
        "noise_aug_strength": 0.1,
        "steps": 5,
        "seed": 4,
        "max_area": 9216,
        "size": "96x64",
        "min_guidance_scale": 1.0,
        "max_guidance_scale": 3.0,
    },
    "upscale": {"scale": 3},
}


def test_every_option_arrives(reel: Reel, server: VideoServer, place: Path) -> None:
    for face in (("--face", "face.png"), ("--identity", "me.json")):
        result = reel("pipeline", "a fox", *OPTIONS, *face, "-o", "fox.mp4")
        assert result.exit_code == 0, result.stderr
    common = {"model": "full-pipeline", "prompt": "a fox", **FIELDS}
    assert server.jobs["video_1"].fields == {**common, "face": "file_1"}
    assert server.jobs["video_2"].fields == {**common, "identity": IDENTITY}
    assert [data for _, data in server.files.values()] == [b"a face"]


OUT = ("-o", "fox.mp4")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (OUT, "Missing argument"),
        (("a fox",), "Missing option"),
        (("a fox", "-o", "fox.png"), "fox.png must end with .mp4"),
        (("a fox", "-o", "fox.mp4", "--no-animate"), "fox.mp4 must end with .png"),
        (("a fox", "-o", "nowhere/fox.mp4"), "does not exist"),
        (("a fox", *OUT, "--image-out", "fox.gif"), "fox.gif must end with .png, .jpg, .jpeg or .webp"),
        (("a fox", *OUT, "--video-out", "fox.avi"), "fox.avi must end with .mp4"),
        (("a fox", *OUT, "--image-out", "nowhere/fox.png"), "does not exist"),
        (("a fox", *OUT, "--video-out", "./fox.mp4"), "each result must have a different file"),
        (("a fox", "-o", "fox.png", "--no-animate", "--video-out", "fox.mp4"), "not allowed with --no-animate"),
        (("a fox", "-o", "fox.png", "--no-animate", "--fps", "7"), "not allowed together with animate.fps"),
        (("a fox", "-o", "fox.png", "--no-animate", "--animate-steps", "7"), "not allowed together with animate.steps"),
        (("a fox", *OUT, "--no-upscale", "--scale", "2"), "not allowed together with upscale.scale"),
        (("a fox", *OUT, "--no-restyle", "--restyle", "ink"), "not allowed together with restyle.prompt"),
        (("a fox", *OUT, "--face", "face.png", "--identity", "me.json"), "give only one"),
        (("a fox", *OUT, "--face", "nowhere.png"), "does not exist"),
        (("a fox", *OUT, "--identity", "nowhere.json"), "cannot be read as JSON"),
        (("a fox", *OUT, "--identity", "broken.json"), "cannot be read as JSON"),
        (("a fox", *OUT, "--identity", "face.png"), "cannot be read as JSON"),
        (("a fox", *OUT, "--identity", "nan.json"), "cannot be read as JSON"),
        (("a fox", *OUT, "--identity", "endless.json"), "cannot be read as JSON"),
        (("a fox", *OUT, "--identity", "half.json"), "cannot be read as JSON"),
        (("a fox", *OUT, "--identity", "list.json"), "must have a JSON object"),
        (("a fox", *OUT, "--identity", "huge.json"), "larger than the limit of 33554432"),
        (("a fox", *OUT, "--noise-aug-strength", "nan"), "must be a finite number"),
        (("a fox", *OUT, "--restyle-strength", "inf"), "must be a finite number"),
    ],
)
def test_nothing_is_sent_for_a_wrong_command_line(
    reel: Reel, server: VideoServer, place: Path, arguments: tuple[str, ...], told: str
) -> None:
    result = reel("pipeline", *arguments)
    assert (result.exit_code, told in " ".join(result.stderr.replace("│", " ").split())) == (2, True), result.stderr
    assert server.seen == []
    assert made(place) == {}


def test_a_failed_job_leaves_no_file(reel: Reel, script: Script, place: Path) -> None:
    script.story[-1] = FAILURE
    result = reel("pipeline", "a fox", "--image-out", "fox.png", "-o", "fox.mp4")
    assert (result.exit_code, "out of memory (model_failed)" in result.stderr) == (1, True)
    assert made(place) == {}


def test_what_the_server_refuses(reel: Reel, place: Path) -> None:
    result = reel("pipeline", "a fox", "--steps", "0", "-o", "fox.mp4")
    assert (result.exit_code, "steps: input should be greater than or equal to 1" in result.stderr) == (2, True)


def test_an_interrupt_cancels_the_job(program: Program, server: VideoServer, script: Script, place: Path) -> None:
    script.hold_at = 4
    process = program("pipeline", "a fox", "-o", "fox.mp4")
    assert server.held.wait(WAIT_S)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=WAIT_S)
    assert (process.returncode, "cancelled video_1 on the server" in told) == (130, True), told
    assert server.jobs["video_1"].cancelled.is_set()
    assert made(place) == {}


@pytest.mark.parametrize(("command", "count"), [("pipeline", 50), ("storyboard", 55), ("upscale", 14), ("film", 18)])
def test_the_help_says_something_of_every_option(
    reel: Reel, monkeypatch: pytest.MonkeyPatch, command: str, count: int
) -> None:
    monkeypatch.setenv("COLUMNS", "600")
    options = [line for line in reel(command, "--help").stdout.splitlines() if re.match(r"│ [ *] +--", line)]
    assert len(options) == count
    assert all(line.rstrip("│ ").removesuffix("[required]").rstrip().endswith(".") for line in options)


# `reel upscale`.


@pytest.mark.parametrize(
    ("arguments", "sent", "there"),
    [
        (("--video", "in.mp4", "--scale", "2", "-o", "fox.mp4"), {"input_video": "file_1", "scale": 2}, CONTENT),
        (("--image", "face.png", "-o", "fox.png"), {"image": "file_1"}, PAINTED),
    ],
)
def test_a_video_or_a_picture_is_enlarged(
    reel: Reel, server: VideoServer, place: Path, arguments: tuple[str, ...], sent: dict[str, Any], there: bytes
) -> None:
    result = reel("upscale", *arguments)
    assert result.exit_code == 0, result.stderr
    assert server.jobs["video_1"].fields == {"model": "realesrgan", **sent}
    assert list(made(place).values()) == [there]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("-o", "fox.mp4"), "give exactly one"),
        (("--video", "in.mp4", "--image", "face.png", "-o", "fox.mp4"), "give exactly one"),
        (("--image", "face.png", "-o", "fox.mp4"), "fox.mp4 must end with .png"),
        (("--image", "nowhere.png", "-o", "fox.png"), "does not exist"),
    ],
)
def test_nothing_is_enlarged_for_a_wrong_command_line(
    reel: Reel, server: VideoServer, place: Path, arguments: tuple[str, ...], told: str
) -> None:
    result = reel("upscale", *arguments)
    assert (result.exit_code, told in " ".join(result.stderr.replace("│", " ").split())) == (2, True), result.stderr
    assert server.seen == []


# From Python.


def test_a_pipeline_from_python(client: Any, way: Way, server: VideoServer, tmp_path: Path) -> None:
    given: VideoFields = {
        "prompt": "a fox",
        "animate": {"num_frames": 4, "seed": None},
        "upscale": False,
        "restyle": "ink",
        "loras": [{"name": "oil", "weight": 0.5}, "ink:2"],
        "identity": Identity.model_validate(IDENTITY),
    }
    video = way.take(client.videos.create(model="full-pipeline", **given))
    sent = {**given, "animate": {"num_frames": 4}, "identity": IDENTITY}
    assert server.jobs["video_1"].fields == {"model": "full-pipeline", **sent}
    assert (video.main, video.parent, video.children) == ("video", None, [])
    events = way.take(client.videos.events(video.id))
    there = [event.variant for event in events if isinstance(event, ResultEvent)]
    assert there == ["image", "video", "hd"]
    assert [event.variant for event in events if isinstance(event, SegmentEvent)] == ["video", "hd"]
    for options, content in (({}, CONTENT), ({"variant": "hd"}, HD), ({"variant": "image"}, PAINTED)):
        way.take(client.videos.download(video.id, tmp_path / "fox", **options))
        assert (tmp_path / "fox").read_bytes() == content
        assert b"".join(way.take(client.videos.stream_content(video.id, **options))) == content


def test_a_form_carries_what_is_turned_off_and_what_is_nested(
    client: Any, way: Way, server: VideoServer, place: Path
) -> None:
    fields: VideoFields = {
        "prompt": "false",
        "face": place / "face.png",
        "animate": False,
        "upscale": {"scale": 2},
        "restyle": {"prompt": "ink", "strength": 0.5, "steps": None},
        "loras": [{"name": "oil"}, "ink"],
    }
    way.take(client.videos.create(model="full-pipeline", **fields))
    assert server.jobs["video_1"].fields == {
        "model": "full-pipeline",
        "prompt": "false",
        "face": "a face",
        "animate": "false",
        "upscale": '{"scale": 2}',
        "restyle": '{"prompt": "ink", "strength": 0.5}',
        "loras": '[{"name": "oil"}, "ink"]',
    }
    assert wire.create_video("full-pipeline", {**fields, "loras": ["oil:2", "ink"]}).form["loras"] == ["oil:2", "ink"]


def test_text_to_video_from_python(client: Any, way: Way, server: VideoServer) -> None:
    way.take(client.videos.create(model="text-to-video", prompt="a fox", num_frames=8, fps=8, guidance_scale=9))
    fields = {"prompt": "a fox", "num_frames": 8, "fps": 8, "guidance_scale": 9}
    assert server.jobs["video_1"].fields == {"model": "text-to-video", **fields}


def test_an_older_server_says_nothing_of_parts_and_results() -> None:
    video = Video.model_validate({"id": "video_1", "model": "v2v", "status": "queued", "created_at": 1})
    assert (video.main, video.facts, video.parent, video.children) == ("video", {}, None, [])
    (segment,) = events_of([("segment", {"index": 0, "first": 0, "frames": 1, "frames_done": 1})])
    assert isinstance(segment, SegmentEvent)
    assert segment.variant == "video"


def test_a_terminal_shows_both_videos_and_what_is_there() -> None:
    bars, screen = terminal()
    with bars.show_job() as show:
        for event in events_of(PIPELINE_STORY):
            show(event)
    picture = " ".join(last_picture(screen).split())
    assert "hd frames ━" in picture
    assert picture.endswith("image is complete video is complete hd is complete")
