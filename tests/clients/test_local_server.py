"""A server that lives as long as a call. The working folder is a checkout with a stand-in of `composition`."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from composition.graphs.catalogue import BY_NAME
from reelgraph import Client
from reelgraph.errors import LocalServerFailed
from reelgraph.progress import Lines
from reelgraph.server import local_server
from services.catalogue import KINDS
from tests.clients.stories import CAPTION, CONTENT, FRAMES

ROOT = Path(__file__).parents[2]
WAIT_S = 120
REEL = [sys.executable, "-c", "from reelgraph.cli import main; main()"]
WITHOUT_RAY = [sys.executable, "-c", "import sys; sys.modules['ray'] = None; from reelgraph.cli import main; main()"]

Reel = Callable[..., "subprocess.Popen[str]"]


def stand_in(folder: Path, body: str, module: str = "composition/__main__.py") -> None:
    """Write a module that does `body` and leaves its process id in the file `pid`: by default that of a package."""
    path = folder / module
    path.parent.mkdir(parents=True)
    for package in path.relative_to(folder).parents[:-1]:
        (folder / package / "__init__.py").touch()
    head = f"import os, pathlib, sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    sign = f"pathlib.Path({str(folder / 'pid')!r}).write_text(str(os.getpid()))\n"
    path.write_text(f"{head}{sign}{body}\n")


def serving(script: str = "") -> str:
    """A server in the place of ours, which is made of our classes all the same."""
    real = f"sys.path.insert(0, {str(ROOT)!r})\nsys.modules.pop('composition', None)\n"
    return f"{real}from video_server import Script, serve_as_composition\nserve_as_composition(Script({script}))"


def is_alive(folder: Path) -> bool:
    try:
        os.kill(int((folder / "pid").read_text()), 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def place(clip: Path) -> Path:
    (clip.parent / "reelgraph").symlink_to(ROOT / "clients")
    return clip.parent


@pytest.fixture
def reel(place: Path) -> Reel:
    def start(*arguments: str, command: list[str] = REEL) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=place
        )

    return start


def test_local_starts_and_stops_a_server(reel: Reel, place: Path) -> None:
    stand_in(place, serving())
    out, told = (process := reel("v2v", "--video", "in.mp4", "-o", "out.mp4", "--local")).communicate(timeout=WAIT_S)
    assert process.returncode == 0, told
    assert (place / "out.mp4").read_bytes() == CONTENT
    assert out == f"caption: {CAPTION}\nseed: 7\nout.mp4\n"
    assert told.splitlines()[0] == "starting a server on this machine"
    assert told.splitlines()[-1] == "stopping the server"
    assert not is_alive(place)


def test_the_demo_leaves_a_video_and_its_caption(reel: Reel, place: Path) -> None:
    stand_in(place, serving())
    stand_in(place, "pathlib.Path(sys.argv[1]).write_text(' '.join(sys.argv[2:]))", "miniatures/sheet.py")
    out, told = (process := reel("demo")).communicate(timeout=WAIT_S)
    assert process.returncode == 0, told
    made = place / "reel-demo"
    names = ["continuation.mp4", "continuation-x4.mp4", "caption.txt", "contact-sheet.png"]
    assert out.splitlines()[-4:] == [f"reel-demo/{name}" for name in names]
    assert (made / "continuation.mp4").read_bytes() == CONTENT
    assert (made / "continuation-x4.mp4").read_bytes() == CONTENT
    assert (made / "caption.txt").read_text(encoding="utf-8") == f"{CAPTION}\n"
    rows = (made / "contact-sheet.png").read_text(encoding="utf-8")
    assert rows.startswith("--row the clip that is given ")
    assert rows.endswith(f"--row goes on as: {CAPTION} reel-demo/continuation-x4.mp4")
    assert "upload bouncing-triangle.mp4" in told
    assert not is_alive(place)


@pytest.mark.parametrize(
    ("how", "command"),
    [
        (signal.SIGINT, ("demo",)),
        (signal.SIGTERM, ("v2v", "--video", "in.mp4", "-o", "out.mp4", "--local")),
    ],
)
def test_an_interrupt_stops_what_was_started(
    reel: Reel, place: Path, how: signal.Signals, command: tuple[str, ...]
) -> None:
    stand_in(place, serving("hold_at=8"))
    process = reel(*command)
    assert process.stderr is not None
    told = ""
    while "denoise: 1 of 2" not in told:  # the job stands still now
        line = process.stderr.readline()
        assert line, told
        told += line
    process.send_signal(how)
    told += process.communicate(timeout=WAIT_S)[1]
    assert process.returncode == 130, told
    assert "cancelled video_1 on the server" in told
    assert "Traceback" not in told
    assert not is_alive(place)


def test_an_interrupt_is_heard_where_it_was_ignored(reel: Reel, place: Path) -> None:
    """As in the background of a script."""
    stand_in(place, serving("hold_at=8"))
    process = reel("demo", command=["bash", "-c", 'trap "" INT; exec "$@"', "bash", *REEL])
    assert process.stderr is not None
    told = ""
    while "denoise: 1 of 2" not in told:  # the job stands still now
        line = process.stderr.readline()
        assert line, told
        told += line
    process.send_signal(signal.SIGINT)
    told += process.communicate(timeout=WAIT_S)[1]
    assert process.returncode == 130, told
    assert "cancelled video_1 on the server" in told
    assert not is_alive(place)


def test_a_server_that_dies_is_quoted(reel: Reel, place: Path) -> None:
    stand_in(place, serving("die_at=5"))
    process = reel("v2v", "--video", "in.mp4", "-o", "out.mp4", "--local")
    _, told = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1
    assert "the server ended with status 7; it said:\nthe model fell over" in told
    assert not (place / "out.mp4").exists()


def test_a_server_that_does_not_come_up_is_quoted(reel: Reel, place: Path) -> None:
    stand_in(place, "sys.exit('serve_config.yaml: no such model')")
    process = reel("demo")
    _, told = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1
    assert "the server ended before it was ready; it said:\nserve_config.yaml: no such model" in told


def test_a_talkative_server_is_not_blocked(place: Path) -> None:
    done = place / "done"
    os.mkfifo(done)
    talk = "for _ in range(20_000): print('x' * 60, flush=True)"
    code = (
        f"print('http://127.0.0.1:9', 'ready', sep='\\n', flush=True)\n{talk}\nopen({str(done)!r}, 'w').write('done')"
    )
    with local_server(Lines(io.StringIO()), [sys.executable, "-c", code]) as url:
        assert url == "http://127.0.0.1:9"
        assert done.read_text() == "done"  # a pipe that nobody reads holds 1000 of these lines


def test_a_server_that_does_not_want_to_stop_is_killed(place: Path) -> None:
    stubborn = (
        "import os, pathlib, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"pathlib.Path({str(place / 'pid')!r}).write_text(str(os.getpid()))\n"
        "print('http://127.0.0.1:9', 'ready', sep='\\n', flush=True)\nsignal.pause()"
    )
    with local_server(Lines(io.StringIO()), [sys.executable, "-c", stubborn], stop_s=0.1):
        assert is_alive(place)
    assert not is_alive(place)


@pytest.mark.parametrize(
    ("command", "only"),
    [
        (("v2v", "--video", "in.mp4", "--model", "image-to-video=wan-5b", "-o", "o"), ["v2v", "wan-5b"]),
        (("i2v", "--image", "in.mp4", "-o", "o"), ["wan-i2v"]),
        (("film", "a fox", "--model", "mine", "-o", "o"), ["mine"]),
        (("image", "a fox", "-o", "o.png"), ["flux"]),
        (("image", "a fox", "--face", "in.mp4", "--model", "mine", "-o", "o.png"), ["mine", "instantid"]),
        (("face", "in.mp4"), ["instantid"]),
    ],
)
def test_a_server_of_its_own_has_what_is_asked(
    reel: Reel, place: Path, command: tuple[str, ...], only: list[str]
) -> None:
    stand_in(place, "sys.exit(' '.join(sys.argv[1:]))")
    process = reel(*command, "--local")
    _, told = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1
    words = told.splitlines()[-1].split()
    assert [name for option, name in pairwise(words) if option == "--only"] == only
    known = {*BY_NAME, *KINDS, *(alias for model in KINDS.values() for alias in model.aliases)}
    assert set(only) - {"wan-5b", "mine"} <= known


@pytest.mark.parametrize("command", [("serve",), ("keys", "list"), ("self-test",), ("demo",), ("models", "pull")])
def test_without_the_packages_of_the_server(reel: Reel, place: Path, command: tuple[str, ...]) -> None:
    stand_in(place, "")
    process = reel(*command, command=WITHOUT_RAY)
    _, told = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1
    assert f"the server's packages are not installed: run `make setup` in {place}" in told


@pytest.mark.parametrize("command", [("serve",), ("keys", "list"), ("self-test",), ("demo",), ("models", "pull")])
def test_without_the_server(reel: Reel, command: tuple[str, ...]) -> None:
    """As a wheel is installed: nothing stands beside the client."""
    process = reel(*command)
    _, told = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1
    assert told.startswith("reel: the server is not part of the installed client. It runs from a checkout"), told


def test_a_working_folder_with_packages_of_the_same_names(tmp_path: Path) -> None:
    for name in ("services", "composition", "miniatures"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise AssertionError('the {name} of the working folder')\n")
    process = subprocess.run(
        [*REEL, "keys", "create", "me"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "REELGRAPH_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "home").is_dir()


@pytest.mark.parametrize(
    ("given", "passed_on"),
    [
        (["serve", "--config", "in.mp4", "--port", "8001"], ["serve", "--config", "in.mp4", "--port", "8001"]),
        (["serve", "--host", "0.0.0.0"], ["serve", "--host", "0.0.0.0"]),
        (["serve", "--address", "local", "--only", "v2v"], ["serve", "--address", "local", "--only", "v2v"]),
        (["keys", "add", "--owner", "me", "--help"], ["keys", "add", "--owner", "me", "--help"]),
        (
            ["models", "pull", "--config", "in.mp4", "--accept-licences"],
            ["pull", "--config", "in.mp4", "--accept-licences"],
        ),
        (
            ["models", "pull", "--accept-licence", "a/b", "--accept-licence", "c/d"],
            ["pull", "--accept-licence", "a/b", "--accept-licence", "c/d"],
        ),
    ],
)
def test_serve_and_keys_become_the_server_side(reel: Reel, place: Path, given: list[str], passed_on: list[str]) -> None:
    stand_in(place, "import json\nprint(json.dumps(sys.argv[1:]))\nsys.exit(5)")
    process = reel(*given)
    out, _ = process.communicate(timeout=WAIT_S)
    assert (process.returncode, json.loads(out)) == (5, passed_on)
    assert (place / "pid").read_text() == str(process.pid)


def test_the_self_test_is_a_command_of_the_server_side(reel: Reel, place: Path) -> None:
    stand_in(place, "")
    stand_in(place, "import json\nprint(json.dumps(sys.argv[1:]))\nsys.exit(5)", "services/qwen_edit/self_test.py")
    process = reel("self-test", "--steps", "2", "--help")
    out, _ = process.communicate(timeout=WAIT_S)
    assert (process.returncode, json.loads(out)) == (5, ["--steps", "2", "--help"])
    assert (place / "pid").read_text() == str(process.pid)


def test_an_edit_with_a_server_of_its_own(reel: Reel, place: Path) -> None:
    story = "from tests.clients.stories import EDIT_STORY\n"
    stand_in(place, serving("story=EDIT_STORY").replace("from video_server", f"{story}from video_server"))
    process = reel("edit", "--rgb-video", "in.mp4", "--out-frames-dir", "frames", "--local")
    out, told = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, told
    assert out == "seed: 7\nframes\n"
    assert {path.name: path.read_bytes() for path in (place / "frames").iterdir()} == FRAMES
    assert told.splitlines()[-1] == "stopping the server"
    assert not is_alive(place)


def test_an_error_of_the_block_is_its_own(place: Path) -> None:
    stand_in(place, serving())
    command = [sys.executable, str(place / "composition" / "__main__.py"), "--host", "127.0.0.1", "--port", "0"]

    def fail() -> None:
        with local_server(Lines(io.StringIO()), command) as url, Client(url) as client:
            assert client.models.list().data
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not is_alive(place)


def test_a_server_without_words() -> None:
    silent = [sys.executable, "-c", ""]
    with (
        pytest.raises(LocalServerFailed, match=r"ended before it was ready$"),
        local_server(Lines(io.StringIO()), silent),
    ):
        pass
