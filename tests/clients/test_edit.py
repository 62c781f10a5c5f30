"""`reel edit`: from files to results, and what is refused before anything is sent."""

import json
import signal
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from conftest import WAIT_S, Program, Reel
from video_server import Script, VideoServer

from tests.clients.stories import CONTENT, CSV, DEBUG, EDIT_STORY, FAILURE, FRAMES, TABLE, zip_files


@pytest.fixture
def script() -> Script:
    return Script(story=list(EDIT_STORY))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a first frame, edges in three forms, and a video."""
    edges = tmp_path / "edges"
    (edges / "deeper").mkdir(parents=True)
    for name in ("2.png", "10.png", ".DS_Store"):
        (edges / name).write_bytes(name.encode())
    for name in ("init.png", "edges.mp4", "in.mp4", "edges.zip", "edges.txt"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".hidden").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def everything(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_all_results_land(reel: Reel, server: VideoServer, place: Path) -> None:
    old = place / "out" / "frames"
    old.mkdir(parents=True)
    (old / "000001.png").write_bytes(b"of yesterday")
    (old / "000007.png").write_bytes(b"of yesterday")
    inputs = ("--init-frame", "init.png", "--edge-frames-dir", "edges")
    outputs = ("--out-video", "out/edit.mp4", "--out-frames-dir", "out/frames", "--metrics-out", "out/scores.csv")
    result = reel("edit", *inputs, *outputs, "--save-debug-dir", "out/much/deeper")
    assert result.exit_code == 0, result.stderr
    assert (place / "out" / "edit.mp4").read_bytes() == CONTENT
    assert everything(old) == {**FRAMES, "000007.png": b"of yesterday"}
    assert (place / "out" / "scores.csv").read_bytes() == CSV
    assert everything(place / "out" / "much" / "deeper") == DEBUG
    sent = {"model": "rolling-edit", "init_frame": "file_1", "edge_frames": "file_2", "debug": True}
    assert server.jobs["video_1"].fields == sent
    assert result.stdout == "seed: 7\nout/edit.mp4\nout/frames\nout/scores.csv\nout/much/deeper\n"
    story = [
        "job video_1",
        "frame 1 of 3",
        "frame 2: try 1 was refused: edge 0.9",
        "frame 2 of 3, after 2 tries: edge 0.52, gram 0.00123, lpips to init 0.25, lpips to prev 0.5",
        "frame 3 of 3, above its gate after 3 tries: edge 0.5",
    ]
    assert [line for line in result.stderr.splitlines() if line in story] == story


def test_a_folder_is_sent_as_a_zip_of_its_files(reel: Reel, server: VideoServer, place: Path) -> None:
    assert reel("edit", "--init-frame", "init.png", "--edge-frames-dir", "edges", "--out-video", "o").exit_code == 0
    file, data = server.files["file_2"]
    assert (file.filename, file.kind) == ("edges.zip", "pictures")
    with zipfile.ZipFile(BytesIO(data)) as archive:
        assert {info.filename: archive.read(info) for info in archive.infolist()} == {
            "2.png": b"2.png",
            "10.png": b"10.png",
        }
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


def test_a_zip_is_sent_as_it_is(reel: Reel, server: VideoServer, place: Path) -> None:
    inputs = ("--rgb-video", "in.mp4", "--edge-frames-dir", "edges.zip")
    assert reel("edit", *inputs, "--out-frames-dir", "frames").exit_code == 0
    assert [server.files[f"file_{number}"][1] for number in (1, 2)] == [b"edges.zip", b"in.mp4"]
    assert everything(place / "frames") == FRAMES


def test_every_option_arrives(reel: Reel, server: VideoServer, place: Path) -> None:
    options = (
        *("--edge-filter", "laplacian", "--edge-start", "3", "--prompt", "a fox", "--negative-prompt", "blur"),
        *("--num-inference-steps", "8", "--true-cfg-scale", "1.5", "--seed", "-1", "--max-frames", "5"),
        *("--max-area", "4096", "--fps", "12.5", "--ttlg-edge-scale", "1", "--ttlg-gram-scale", "0.5"),
        *("--ttlg-temporal-scale", "0", "--ttlg-lr", "1e-2", "--ttlg-every", "2", "--ttlg-start-step", "1"),
        *("--ttlg-end-step", "6", "--ttlg-last-steps", "4", "--ttlg-edge-size", "64", "--ttlg-gram-size", "96"),
        *("--ttlg-inner-steps", "3", "--ttlg-loss", "charbonnier", "--branch-from", "video:9:12"),
        *("--gate-edge-loss", "0.8", "--gate-gram-loss", "0.02", "--gate-temporal-loss", "1", "--gate-tries", "5"),
        *("--gate-lpips-to-init", "0.5", "--gate-lpips-to-prev", "0.4"),
    )
    result = reel("edit", "--edge-video", "edges.mp4", *options, "--out-video", "out.mp4", "--json")
    assert result.exit_code == 0, result.stderr
    assert server.jobs["video_1"].fields == {
        "model": "rolling-edit",
        "edge_video": "file_1",
        "edge_filter": "laplacian",
        "edge_start": 3,
        "prompt": "a fox",
        "negative_prompt": "blur",
        "steps": 8,
        "true_cfg_scale": 1.5,
        "seed": -1,
        "max_frames": 5,
        "max_area": 4096,
        "fps": 12.5,
        "ttlg": {
            "edge_scale": 1.0,
            "gram_scale": 0.5,
            "temporal_scale": 0.0,
            "lr": 0.01,
            "every": 2,
            "start_step": 1,
            "end_step": 6,
            "last_steps": 4,
            "edge_size": 64,
            "gram_size": 96,
            "inner_steps": 3,
            "loss": "charbonnier",
        },
        "gate": {
            "edge_loss": 0.8,
            "gram_loss": 0.02,
            "temporal_loss": 1.0,
            "lpips_to_init": 0.5,
            "lpips_to_prev": 0.4,
            "tries": 5,
        },
        "branch_from": {"video": "video:9", "frame": 12},
    }
    assert json.loads(result.stdout)["paths"] == ["out.mp4"]


def test_a_branch_needs_no_media_and_steps_have_a_short_name(reel: Reel, server: VideoServer, place: Path) -> None:
    result = reel("edit", "--branch-from", "video_9:4", "--steps", "3", "--metrics-out", "m.JSON", "--out-video", "o")
    assert result.exit_code == 0, result.stderr
    branch = {"video": "video_9", "frame": 4}
    assert server.jobs["video_1"].fields == {"model": "rolling-edit", "steps": 3, "branch_from": branch}
    assert (place / "m.JSON").read_bytes() == TABLE


OUT = ("--out-video", "out.mp4")
FROM_VIDEO = ("--rgb-video", "in.mp4")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (FROM_VIDEO, "give at least one"),
        ((*FROM_VIDEO, "--metrics-out", "m.csv", "--save-debug-dir", "debug"), "give at least one"),
        (OUT, "edges are required"),
        ((*OUT, "--init-frame", "init.png"), "edges are required"),
        ((*OUT, "--edge-video", "edges.mp4"), "a first frame is required"),
        ((*OUT, *FROM_VIDEO, "--edge-video", "edges.mp4", "--edge-frames-dir", "edges"), "give only one"),
        ((*OUT, *FROM_VIDEO, "--edge-frames-dir", "empty"), "has no files"),
        ((*OUT, *FROM_VIDEO, "--edge-frames-dir", "edges.txt"), "must be a folder or a .zip"),
        ((*OUT, *FROM_VIDEO, "--edge-frames-dir", "nowhere"), "does not exist"),
        ((*OUT, *FROM_VIDEO, "--init-frame", "edges"), "is a directory"),
        ((*FROM_VIDEO, "--out-video", "nowhere/out.mp4"), "does not exist"),
        ((*FROM_VIDEO, "--out-frames-dir", "in.mp4"), "is a file"),
        ((*FROM_VIDEO, "--out-frames-dir", "in.mp4/frames"), "is not a folder"),
        ((*OUT, *FROM_VIDEO, "--save-debug-dir", "in.mp4/debug"), "is not a folder"),
        ((*OUT, *FROM_VIDEO, "--metrics-out", "m.txt"), "must end with .csv or .json"),
        ((*OUT, *FROM_VIDEO, "--metrics-out", "nowhere/m.csv"), "does not exist"),
        ((*OUT, *FROM_VIDEO, "--ttlg-lr", "nan"), "must be a finite number"),
        ((*OUT, *FROM_VIDEO, "--fps", "-inf"), "must be a finite number"),
        ((*OUT, *FROM_VIDEO, "--ttlg-loss", "huber"), "is not one of"),
        ((*OUT, *FROM_VIDEO, "--edge-filter", "canny"), "is not one of"),
        ((*OUT, "--branch-from", "video_9"), "must be VIDEO_ID:FRAME"),
        ((*OUT, "--branch-from", "video_9:"), "must be VIDEO_ID:FRAME"),
        ((*OUT, "--branch-from", ":4"), "must be VIDEO_ID:FRAME"),
        ((*OUT, "--branch-from", "video_9:-1"), "must be VIDEO_ID:FRAME"),
    ],
)
def test_nothing_is_sent_for_a_wrong_command_line(
    reel: Reel, server: VideoServer, place: Path, arguments: tuple[str, ...], told: str
) -> None:
    before = sorted(place.rglob("*"))
    result = reel("edit", *arguments)
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.replace("│", " ").split())
    assert server.seen == []
    assert sorted(place.rglob("*")) == before


def test_the_help_says_something_of_every_option(reel: Reel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "320")
    options = [line for line in reel("edit", "--help").stdout.splitlines() if "--" in line]
    assert len(options) == 49
    assert all(line.rstrip("│ ").endswith((".", "...", "short).")) for line in options)


@pytest.mark.parametrize(
    ("name", "lands"),
    [
        ("../000009.png", False),
        ("/tmp/000009.png", False),
        ("deeper/000009.png", False),
        ("..\\000009.png", False),
        (".bashrc", False),
        ("٠٠٠٠٠٩.png", False),
        ("000009.png\n", False),
        ("000009.png/", False),
        ("000009.PNG", False),
        ("000009-soft_edges.png", False),
        ("9" * 200 + ".png", False),
        ("000009.png", True),
        ("1000009.png", True),
    ],
)
def test_only_frames_are_written(reel: Reel, script: Script, place: Path, name: str, lands: bool) -> None:
    script.contents = {"frames": zip_files({"000000.png": b"first", name: b"evil"})}
    before = set(place.rglob("*"))
    result = reel("edit", *FROM_VIDEO, "--out-frames-dir", "out/frames")
    assert result.exit_code == 0, result.stderr
    made = {"000000.png", *([name] if lands else [])}
    assert everything(place / "out" / "frames").keys() == made
    frames = {place / "out" / "frames" / frame for frame in made}
    assert set(place.rglob("*")) - before == {place / "out", place / "out" / "frames", *frames}


def test_a_link_in_the_folder_is_replaced_and_not_followed(reel: Reel, place: Path) -> None:
    kept = place / "kept.png"
    kept.write_bytes(b"kept")
    (place / "frames").mkdir()
    (place / "frames" / "000001.png").symlink_to(kept)
    assert reel("edit", *FROM_VIDEO, "--out-frames-dir", "frames").exit_code == 0
    assert everything(place / "frames") == FRAMES
    assert kept.read_bytes() == b"kept"


DAMAGED = zip_files(FRAMES).replace(FRAMES["000002.png"], b"X" * len(FRAMES["000002.png"]), 1)


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (b"<h1>Welcome</h1>", "cannot be read"),
        (DAMAGED, "cannot be read"),
        (zip_files(FRAMES)[:-50], "cannot be read"),
        (zip_files({"../evil.png": b"evil"}), "has no pictures"),
        (zip_files({}), "has no pictures"),
    ],
)
def test_a_zip_that_is_none_leaves_nothing(reel: Reel, script: Script, place: Path, sent: bytes, told: str) -> None:
    (place / "frames").mkdir()
    (place / "frames" / "000000.png").write_bytes(b"of yesterday")
    script.contents = {"frames": sent}
    result = reel("edit", *FROM_VIDEO, "--out-frames-dir", "frames")
    assert (result.exit_code, told in result.stderr) == (1, True), result.stderr
    assert everything(place / "frames") == {"000000.png": b"of yesterday"}


def test_a_broken_stream_of_frames_begins_again(reel: Reel, server: VideoServer, script: Script, place: Path) -> None:
    script.cut_content = [700]
    assert reel("edit", *FROM_VIDEO, "--out-frames-dir", "frames").exit_code == 0
    assert everything(place / "frames") == FRAMES
    assert len(server.requests("GET", "/v1/videos/video_1/content")) == 2


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_frames_that_their_gate_refused_are_told(
    reel: Reel, script: Script, place: Path, options: tuple[str, ...]
) -> None:
    script.about = {"degraded": "gate: frame 2: edge_loss above 0.8 after 3 tries"}
    result = reel("edit", *FROM_VIDEO, *OUT, *options)
    assert (result.exit_code, (place / "out.mp4").read_bytes()) == (0, CONTENT)
    told = "reel: the video is not as requested: gate: frame 2: edge_loss above 0.8 after 3 tries"
    assert told in result.stderr.splitlines()


def test_a_failed_edit_makes_no_folders(reel: Reel, script: Script, place: Path) -> None:
    script.story[-1] = FAILURE
    before = set(place.rglob("*"))
    result = reel("edit", *FROM_VIDEO, "--out-frames-dir", "frames", "--save-debug-dir", "debug")
    assert (result.exit_code, "out of memory (model_failed)" in result.stderr) == (1, True)
    assert set(place.rglob("*")) == before


def test_a_result_that_is_missing_is_told(reel: Reel, script: Script, place: Path) -> None:
    script.missing = {"metrics"}
    result = reel("edit", *FROM_VIDEO, *OUT, "--metrics-out", "m.csv")
    assert (result.exit_code, "there is no 'metrics'" in result.stderr) == (1, True)
    assert (place / "out.mp4").exists()
    assert not (place / "m.csv").exists()


def test_an_interrupt_cancels_the_edit(program: Program, server: VideoServer, script: Script, place: Path) -> None:
    script.hold_at = 3
    before = set(place.rglob("*"))
    process = program("edit", *FROM_VIDEO, "--out-frames-dir", "frames")
    assert server.held.wait(WAIT_S)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130, told
    assert "cancelled video_1 on the server" in told
    assert server.jobs["video_1"].cancelled.is_set()
    assert set(place.rglob("*")) == before


def test_metrics_of_a_job_as_json(reel: Reel, place: Path) -> None:
    reel("edit", *FROM_VIDEO, *OUT)
    target = place / "scores.json"
    for options, written in (((), CSV), (("--format", "json"), TABLE)):
        assert reel("jobs", "download", "video_1", "--variant", "metrics", *options, "-o", target).exit_code == 0
        assert target.read_bytes() == written
