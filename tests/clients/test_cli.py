"""`reel`, within this process where that tells the truth, and as a process of its own where signals do."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import AS_A_PROGRAM, WAIT_S, Program, Reel
from typer.testing import CliRunner
from video_server import Script, VideoServer

from composition.graphs.catalogue import BY_NAME
from composition.graphs.single import SINGLES
from reelgraph.cli import app
from reelgraph.cli_resources import tabulate_models
from reelgraph.objects import Model
from services.catalogue import MODELS
from tests.clients.stories import CAPTION, CONTENT, FAILURE, PAINTED, THUMBNAIL


@pytest.fixture
def nobody() -> Iterator[str]:
    with socket.socket() as unused:  # bound, and not listening
        unused.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unused.getsockname()[1]}"


def test_v2v_from_file_to_file(reel: Reel, server: VideoServer, clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    result = reel("v2v", "--video", clip, "--steps", "4", "--solver", "dpm++", "--no-join", "-o", target)
    assert result.exit_code == 0, result.stderr
    assert target.read_bytes() == CONTENT
    sent = {"model": "v2v", "input_video": "file_1", "steps": 4, "solver": "dpm++", "join": False}
    assert server.jobs["video_1"].fields == sent
    assert server.files["file_1"][1] == clip.read_bytes()
    assert result.stdout == f"caption: {CAPTION}\nseed: 7\n{target}\n"
    progress = result.stderr.splitlines()
    story = ["upload in.mp4: 6000 of 6000 bytes", "job video_1", "in progress", "denoise: 2 of 2", "completed"]
    assert [line for line in progress if line in story] == story
    assert progress[-1] == f"download out.mp4: {len(CONTENT)} of {len(CONTENT)} bytes"


def test_i2v_sends_pictures_and_options(reel: Reel, server: VideoServer, clip: Path, tmp_path: Path) -> None:
    last = tmp_path / "last.png"
    last.write_bytes(b"png")
    options = ("--prompt", "a bear", "--negative-prompt", "blur", "--num-frames", "5", "--max-area", "4096")
    more = ("--size", "64x48", "--shift", "2.5", "--guidance-scale", "3", "--guidance-scale-2", "4", "--seed", "9")
    target = tmp_path / "out.mp4"
    result = reel("i2v", "--image", clip, "--last-image", last, *options, *more, "-o", target, "--json")
    assert result.exit_code == 0, result.stderr
    assert server.jobs["video_1"].fields == {
        "model": "wan-i2v",
        "image": "file_1",
        "last_image": "file_2",
        "prompt": "a bear",
        "negative_prompt": "blur",
        "num_frames": 5,
        "max_area": 4096,
        "size": "64x48",
        "shift": 2.5,
        "guidance_scale": 3.0,
        "guidance_scale_2": 4.0,
        "seed": 9,
    }
    told = json.loads(result.stdout)
    assert (told["id"], told["paths"], told["caption"]) == ("video_1", [str(target)], CAPTION)


def test_a_failed_job_is_told_and_leaves_no_file(reel: Reel, script: Script, clip: Path, tmp_path: Path) -> None:
    script.story[-1] = FAILURE
    result = reel("v2v", "--video", clip, "-o", tmp_path / "out.mp4")
    assert result.exit_code == 1
    assert "reel: video_1 failed: out of memory (model_failed)" in result.stderr
    assert list(tmp_path.iterdir()) == [clip]


def test_what_the_server_refuses_is_a_wrong_request(reel: Reel, clip: Path, tmp_path: Path) -> None:
    result = reel("v2v", "--video", clip, "--steps", "0", "-o", tmp_path / "out.mp4")
    assert result.exit_code == 2
    assert "steps: input should be greater than or equal to 1, got 0" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("v2v", "--video", "nowhere.mp4", "-o", "out.mp4"),
        ("v2v", "--video", ".", "-o", "out.mp4"),
        ("v2v", "--video", "in.mp4", "-o", "nowhere/out.mp4"),
        ("v2v", "--video", "in.mp4", "-o", "."),
        ("v2v", "--video", "in.mp4"),
        ("v2v", "--video", "in.mp4", "-o", "out.mp4", "--solver", "euler"),
        ("i2v", "--image", "in.mp4", "-o", "out.mp4", "--join"),
        ("film", "-o", "out.mp4"),
        ("film", "a fox"),
        ("files", "upload", "nowhere.mp4"),
        ("--url", "127.0.0.1:8000", "models"),
        ("models", "pull", "--config", "nowhere.yaml"),
        ("models", "push"),
        ("jobs", "list", "--limit", "0"),
    ],
)
def test_nothing_is_sent_for_a_wrong_command_line(
    reel: Reel, server: VideoServer, clip: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(clip.parent)
    assert reel(*arguments).exit_code == 2
    assert server.seen == []


def test_jobs(reel: Reel, server: VideoServer, clip: Path, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        reel("v2v", "--video", clip, "-o", tmp_path / f"{number}.mp4")
    assert [line.split()[:3] for line in reel("jobs", "list", "--limit", "2").stdout.splitlines()] == [
        ["video_3", "completed", "100%"],
        ["video_2", "completed", "100%"],
    ]
    assert json.loads(reel("jobs", "list", "--after", "video_2", "--json").stdout)["data"][0]["id"] == "video_1"
    shown = reel("jobs", "show", "video_1")
    assert ["status", "completed"] in [line.split() for line in shown.stdout.splitlines()]
    assert json.loads(reel("jobs", "show", "video_1", "--json").stdout)["params"]["seed"] == 7
    watched = reel("jobs", "watch", "video_1")
    assert (watched.exit_code, "denoise: 2 of 2" in watched.stderr) == (0, True)
    thumbnail = tmp_path / "thumbnail.jpg"
    assert reel("jobs", "download", "video_1", "--variant", "thumbnail", "-o", thumbnail).stdout == f"{thumbnail}\n"
    assert thumbnail.read_bytes() == THUMBNAIL
    assert reel("jobs", "cancel", "video_2").stdout == "video_2  failed\n"
    failed = reel("jobs", "watch", "video_2")
    assert (failed.exit_code, "the job was cancelled (cancelled)" in failed.stderr) == (1, True)
    assert reel("jobs", "delete", "video_3").stdout == "video_3  deleted\n"
    assert list(server.jobs) == ["video_1", "video_2"]
    missing = reel("jobs", "show", "video_3")
    assert (missing.exit_code, "there is no 'video_3' (404, not_found)" in missing.stderr) == (1, True)


def test_files(reel: Reel, server: VideoServer, clip: Path) -> None:
    assert reel("files", "list").stdout == ""
    assert reel("files", "upload", clip, "--purpose", "trial").stdout == "file_1\n"
    assert server.files["file_1"][0].purpose == "trial"
    listed = reel("files", "list").stdout.split()
    assert (listed[:5], listed[-1]) == (["file_1", "video", "64x48", "6000", "B"], "in.mp4")
    assert json.loads(reel("files", "show", "file_1", "--json").stdout)["rate"] == "24000/1001"
    assert ["width", "64"] in [line.split() for line in reel("files", "show", "file_1").stdout.splitlines()]
    assert reel("files", "delete", "file_1").stdout == "file_1  deleted\n"
    assert server.files == {}


TABLE = """\
ID      KIND   STATE               ROLES
v2v     graph  waiting for models  describe, image-to-video
wan-5b  wan    ready               image-to-video
svd     svd    updating            image-to-video
"""


def test_models(reel: Reel) -> None:
    assert reel("models").stdout == TABLE
    assert reel("models", "list").stdout == reel("models").stdout
    (graph, *_) = json.loads(reel("models", "--json").stdout)["data"]
    assert (graph["ready"], graph["fields"]["steps"]["maximum"]) == (False, 50)
    assert reel("models", "list", "--json").stdout == reel("models", "--json").stdout


def test_roles_are_wrapped_in_their_column() -> None:
    roles = ["text-to-image", "image-to-video", "restyle"]
    models = [Model(id="wan", kind="wan", ready=False), Model(id="sb", kind="graph", roles=roles, ready=True)]
    assert tabulate_models(models, 50) == [
        "ID   KIND   STATE      ROLES",
        "wan  wan    not ready",
        "sb   graph  ready      text-to-image,",
        "                       image-to-video, restyle",
    ]
    assert tabulate_models(models, 5)[-1] == f"{'':23}restyle"
    assert len(tabulate_models(models, None)) == 3


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("v2v", "--video", "in.mp4"), {"model": "v2v", "input_video": "file_1"}),
        (("edit", "--rgb-video", "in.mp4"), {"model": "rolling-edit", "rgb_video": "file_1"}),
        (("pipeline", "a fox"), {"model": "full-pipeline", "prompt": "a fox", "animate": True}),
        (("storyboard", "--topic", "a fox"), {"model": "storyboard", "topic": "a fox"}),
    ],
)
def test_models_are_chosen_for_roles(
    reel: Reel, server: VideoServer, clip: Path, command: tuple[str, ...], told: dict[str, object]
) -> None:
    out = "--out-video" if command[0] == "edit" else "--out"
    chosen = ("--model", "image-to-video=wan-5b", "--model", "describe=internvl-8b")
    with contextlib.chdir(clip.parent):
        result = reel(*command, *chosen, out, "out.mp4")
    assert result.exit_code == 0, result.stderr
    models = {"image-to-video": "wan-5b", "describe": "internvl-8b"}
    assert server.jobs["video_1"].fields == {**told, "models": models}
    assert told["model"] in BY_NAME


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["wan-5b"], "--model: must be ROLE=ID, got 'wan-5b'"),
        (["=wan-5b"], "--model: must be ROLE=ID, got '=wan-5b'"),
        (["describe="], "--model: must be ROLE=ID, got 'describe='"),
        (["describe=a", "describe=b"], "--model: describe: must have one model, got a and b"),
    ],
)
def test_a_choice_that_cannot_be_read(reel: Reel, server: VideoServer, clip: Path, given: list[str], told: str) -> None:
    words = [word for each in given for word in ("--model", each)]
    result = reel("v2v", "--video", clip, *words, "-o", clip.parent / "out.mp4")
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.replace("│", " ").split())
    assert server.seen == []


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("i2v", "--image", "in.mp4"), {"model": "wan-i2v", "image": "file_1"}),
        (("animate", "--image", "in.mp4"), {"model": "svd", "image": "file_1"}),
        (("upscale", "--video", "in.mp4"), {"model": "realesrgan", "input_video": "file_1"}),
        (("film", "a fox"), {"model": "text-to-video", "prompt": "a fox"}),
    ],
)
def test_a_model_alone_is_chosen_by_its_id(
    reel: Reel, server: VideoServer, clip: Path, command: tuple[str, ...], told: dict[str, object]
) -> None:
    with contextlib.chdir(clip.parent):
        for which in ((), ("--model", "mine")):
            assert reel(*command, *which, "-o", "out.mp4").exit_code == 0
    first, second = (job.fields for job in server.jobs.values())
    assert first == told
    assert second["model"] == "mine"
    assert told["model"] in {*SINGLES, *(alias for model in MODELS for alias in model.aliases)}


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("flux", "a fox", "--lora", "ink:0.5"), {"model": "flux", "prompt": "a fox", "loras": ["ink:0.5"]}),
        (
            ("qwen-edit", "--image", "in.mp4", "--prompt", "red", "--ttlg-lr", "0.1", *("--reference", "in.mp4") * 2),
            {
                "model": "qwen-edit",
                "image": "file_1",
                "prompt": "red",
                "ttlg": {"lr": 0.1},
                "references": ["file_1", "file_1"],
            },
        ),
        (("hunyuan-dit", "ink", "--image", "in.mp4"), {"model": "hunyuan-dit", "prompt": "ink", "image": "file_1"}),
    ],
)
def test_a_model_that_paints_gives_a_picture(
    reel: Reel, server: VideoServer, clip: Path, command: tuple[str, ...], told: dict[str, object]
) -> None:
    with contextlib.chdir(clip.parent):
        wrong = reel(*command, "-o", "out.mp4")
        assert (wrong.exit_code, "must end with .png" in wrong.stderr, server.seen) == (2, True, [])
        result = reel(*command, "-o", "out.png")
        assert result.exit_code == 0, result.stderr
        assert Path("out.png").read_bytes() == PAINTED
    assert server.jobs["video_1"].fields == told


@pytest.mark.parametrize(
    ("command", "name", "form"),
    [
        (("v2v", "--video", "in.mp4"), "a.mp4", None),
        (("v2v", "--video", "in.mp4"), "a.GIF", "gif"),
        (("animate", "--image", "in.mp4"), "a.webp", "webp"),
        (("upscale", "--video", "in.mp4"), "frames.zip", "png"),
        (("upscale", "--image", "in.mp4"), "a.png", None),
        (("upscale", "--image", "in.mp4"), "a.jpg", "jpeg"),
        (("flux", "a fox"), "a.jpeg", "jpeg"),
        (("flux", "a fox"), "a.webp", "webp"),
        (("edit", "--rgb-video", "in.mp4"), "a.gif", "gif"),
        (("pipeline", "a fox"), "a.gif", "gif"),
        (("pipeline", "a fox", "--no-animate"), "a.jpg", "jpeg"),
        (("storyboard", "--topic", "foxes"), "a.gif", "gif"),
    ],
)
def test_the_suffix_selects_the_format(
    reel: Reel, server: VideoServer, clip: Path, command: tuple[str, ...], name: str, form: str | None
) -> None:
    with contextlib.chdir(clip.parent):
        result = reel(*command, "--out-video" if command[0] == "edit" else "-o", name)
        assert result.exit_code == 0, result.stderr
        assert Path(name).is_file()
    (seen,) = server.requests("GET", "/v1/videos/video_1/content")
    assert seen.query.get("format") == form


@pytest.mark.parametrize(
    ("command", "name", "told"),
    [
        (("v2v", "--video", "in.mp4"), "a.avi", "a.avi must end with .mp4, .gif, .webp or .zip"),
        (("v2v", "--video", "in.mp4"), "a.png", "a.png must end with .mp4, .gif, .webp or .zip"),
        (("edit", "--rgb-video", "in.mp4"), "a.mov", "a.mov must end with .mp4, .gif, .webp or .zip"),
        (("upscale", "--image", "in.mp4"), "a.gif", "a.gif must end with .png, .jpg, .jpeg or .webp"),
        (("flux", "a fox"), "a.bmp", "a.bmp must end with .png, .jpg, .jpeg or .webp"),
        (("storyboard", "--topic", "foxes"), "a.mkv", "a.mkv must end with .mp4, .gif, .webp or .zip"),
    ],
)
def test_a_suffix_that_stands_for_no_format(
    reel: Reel, server: VideoServer, clip: Path, command: tuple[str, ...], name: str, told: str
) -> None:
    with contextlib.chdir(clip.parent):
        result = reel(*command, "--out-video" if command[0] == "edit" else "-o", name)
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.replace("│", " ").split())
    assert server.seen == []


@pytest.mark.parametrize(
    ("name", "options", "query"),
    [
        ("a.gif", (), {"format": "gif"}),
        ("a.zip", (), {"format": "png"}),
        ("a.mp4", (), {}),
        ("a.avi", (), {}),
        ("a", ("--format", "webp"), {"format": "webp"}),
        ("a.gif", ("--format", "mp4"), {"format": "mp4"}),
        ("a.jpg", ("--variant", "thumbnail"), {"variant": "thumbnail", "format": "jpeg"}),
        ("a.zip", ("--variant", "frames"), {"variant": "frames"}),
        ("a.json", ("--variant", "metrics"), {"variant": "metrics"}),
    ],
)
def test_the_suffix_selects_the_format_of_a_job_s_result(
    reel: Reel, server: VideoServer, clip: Path, name: str, options: tuple[str, ...], query: dict[str, str]
) -> None:
    with contextlib.chdir(clip.parent):
        assert reel("v2v", "--video", "in.mp4", "-o", "first.mp4").exit_code == 0
        result = reel("jobs", "download", "video_1", *options, "-o", name)
    assert result.exit_code == 0, result.stderr
    assert server.requests("GET", "/v1/videos/video_1/content")[-1].query == query
    with contextlib.chdir(clip.parent):
        assert reel("jobs", "download", "video_1", "-o", "a.png").exit_code == 2, "a video is no picture"


def test_openai_s_seconds_are_an_option(reel: Reel, server: VideoServer, clip: Path) -> None:
    result = reel("v2v", "--video", clip, "--seconds", "2.5", "-o", clip.parent / "out.mp4")
    assert result.exit_code == 0, result.stderr
    assert server.jobs["video_1"].fields == {"model": "v2v", "input_video": "file_1", "seconds": 2.5}
    assert reel("edit", "--seconds", "2.5").exit_code == 2, "how long an edit lasts its edges say"


def test_a_film_from_a_text_to_a_file(reel: Reel, server: VideoServer, tmp_path: Path) -> None:
    options = ("--num-frames", "16", "--fps", "8", "--steps", "25", "--guidance-scale", "9", "--size", "256x256")
    target = tmp_path / "fox.mp4"
    result = reel("film", "a fox", *options, "--seed", "3", "--negative-prompt", "blur", "-o", target)
    assert (result.exit_code, result.stdout) == (0, f"seed: 7\n{target}\n"), result.stderr
    assert target.read_bytes() == CONTENT
    assert server.jobs["video_1"].fields == {
        "model": "text-to-video",
        "prompt": "a fox",
        "num_frames": 16,
        "fps": 8.0,
        "steps": 25,
        "guidance_scale": 9.0,
        "size": "256x256",
        "seed": 3,
        "negative_prompt": "blur",
    }


def test_the_key_comes_from_the_environment_or_an_option(reel: Reel, server: VideoServer, script: Script) -> None:
    script.api_key = "secret"
    assert reel("--api-key", "secret", "models").exit_code == 0
    env = {"REELGRAPH_API_KEY": "secret", "REELGRAPH_URL": server.url}
    assert CliRunner().invoke(app, ["models"], env=env).exit_code == 0
    refused = reel("models")
    assert (refused.exit_code, "the key is not known" in refused.stderr) == (1, True)


@pytest.mark.parametrize("command", [("models",), ("jobs", "watch", "video_1"), ("jobs", "list")])
def test_no_server(nobody: str, command: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, ["--url", nobody, *command])
    assert result.exit_code == 3
    assert nobody in result.stderr
    assert "reel serve" in result.stderr
    assert "--local" in result.stderr


def test_version() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout.startswith("reelgraph 0.")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_cancels_the_job(
    program: Program,
    server: VideoServer,
    script: Script,
    clip: Path,
    how: signal.Signals,
) -> None:
    script.hold_at = 8
    target = clip.parent / "out.mp4"
    process = program("v2v", "--video", clip, "-o", target)
    assert server.held.wait(WAIT_S)
    process.send_signal(how)
    _, told = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130, told
    assert "cancelled video_1 on the server" in told
    assert "Traceback" not in told
    assert server.jobs["video_1"].cancelled.is_set()
    assert list(clip.parent.iterdir()) == [clip]


def test_an_interrupt_of_watching_lets_the_job_go_on(
    program: Program, server: VideoServer, script: Script, reel: Reel, clip: Path
) -> None:
    reel("v2v", "--video", clip, "-o", clip.parent / "out.mp4")
    script.hold_at = 8
    process = program("jobs", "watch", "video_1")
    assert server.held.wait(WAIT_S)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=WAIT_S)
    assert (process.returncode, "video_1 is still running" in told) == (130, True)
    assert server.requests("POST", "/v1/videos/video_1/cancel") == []


def test_a_pipe_that_is_closed_ends_quietly(server: VideoServer) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        result = subprocess.run(
            [*AS_A_PROGRAM, "--url", server.url, "models"],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr


def test_the_client_needs_nothing_of_the_server() -> None:
    names = "{name.partition('.')[0] for name in sys.modules}"
    code = f"import sys, reelgraph.cli; print(*{names} & {{'services', 'composition', 'ray', 'numpy', 'fastapi'}})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=WAIT_S, check=True)
    assert found.stdout.strip() == ""
