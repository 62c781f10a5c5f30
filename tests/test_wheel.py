"""The wheel: one package, small, and usable without a server beside other packages with the names of our rooms."""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.clients.video_server import Script, running

ROOT = Path(__file__).parent.parent
LARGEST = 2_000_000
WAIT_S = 120


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built offline from a copy of this checkout."""
    source, built = tmp_path_factory.mktemp("checkout") / "reelgraph", tmp_path_factory.mktemp("wheel")
    left_out = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info", "checkpoints")
    shutil.copytree(ROOT, source, symlinks=True, ignore=left_out)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    run([*command, "--wheel-dir", str(built), str(source)], source)
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an environment with the wheel and its dependencies."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, symlinks=True)
    (packages,) = place.glob("lib/python*/site-packages")
    for entry in sorted({entry for name in list_required("reelgraph") for entry in entries(name)}):
        (packages / entry.name).symlink_to(entry)
    before = {path.name for path in packages.iterdir()}
    python = place / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index", "--no-compile"]
    run([*pip, str(wheel)], place)  # pip verifies the dependencies
    (name, metadata) = sorted({path.name for path in packages.iterdir()} - before)
    assert (name, metadata.endswith(".dist-info")) == ("reelgraph", True)
    return place / "bin"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The folder of a project that has packages with the names of our rooms."""
    for name in ("services", "composition", "clients", "miniatures"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise AssertionError('the {name} of the project')\n")
    return tmp_path


def list_required(name: str, extra: str = "") -> set[str]:
    """Return the names of all direct and indirect dependencies of a distribution."""
    found: set[str] = set()
    for requirement in map(Requirement, distribution(name).requires or []):
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            found |= {requirement.name, *list_required(requirement.name)}
    return found


def entries(name: str) -> Iterator[Path]:
    """Yield the entries of a distribution in `site-packages`."""
    found = distribution(name)
    for file in found.files or []:
        if file.parts[0] not in ("..", "__pycache__"):
            yield Path(str(found.locate_file(file.parts[0])))


def run(command: list[str], folder: Path, status: int = 0) -> "subprocess.CompletedProcess[str]":
    """Run a program in a folder, without a checkout in PYTHONPATH."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done


def test_it_is_small_and_has_one_name(wheel: Path) -> None:
    assert wheel.stat().st_size < LARGEST
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0] for name in names} == {
        "reelgraph",
        "-".join(wheel.name.split("-")[:2]) + ".dist-info",
    }
    files = {path.relative_to(ROOT / "clients").as_posix() for path in (ROOT / "clients").rglob("*") if path.is_file()}
    expected = {name for name in files if "__pycache__" not in name}
    assert {name.removeprefix("reelgraph/") for name in names if name.startswith("reelgraph/")} == expected


def test_the_client_is_imported(installed: Path, project: Path) -> None:
    code = "import sys; from reelgraph import AsyncClient, Client; print('ray' in sys.modules, Client.__module__)"
    assert run([str(installed / "python"), "-c", code], project).stdout == "False reelgraph.client\n"


def test_the_client_reaches_a_server(installed: Path, project: Path) -> None:
    code = (
        "import json, sys\nfrom reelgraph import Client\n"
        "with Client(sys.argv[1]) as client: print(json.dumps([model.id for model in client.models.list().data]))"
    )
    with running(Script()) as server:
        told = run([str(installed / "python"), "-c", code, server.url], project).stdout
        listed = run([str(installed / "reel"), "--url", server.url, "models"], project).stdout
    assert json.loads(told)
    assert all(name in listed for name in json.loads(told))


def test_the_command_line_is_there(installed: Path, project: Path) -> None:
    assert "storyboard" in run([str(installed / "reel"), "--help"], project).stdout


@pytest.mark.parametrize("command", [["serve"], ["keys", "list"], ["demo"]])
def test_a_server_is_not_there(installed: Path, project: Path, command: list[str]) -> None:
    told = run([str(installed / "reel"), *command], project, status=1).stderr
    assert told == (
        "reel: the server is not part of the installed client. It runs from a checkout of reelgraph, or an image of "
        "it: `make setup` there installs its packages, and `.venv/bin/reel serve` starts it. Give its URL to this "
        "client with --url or REELGRAPH_URL\n"
    )


@pytest.mark.parametrize("module", ["reelgraph", "reelgraph.handles"])
def test_graphs_need_a_server(installed: Path, project: Path, module: str) -> None:
    told = run([str(installed / "python"), "-c", f"from {module} import Graphs"], project, status=1).stderr
    assert told.splitlines()[-1] == (
        "ImportError: reelgraph.Graphs needs the packages `services` and `composition`: the server is not part of the "
        "installed client. It runs from a checkout of reelgraph, or an image of it: `make setup` there installs its "
        "packages"
    )


def test_graphs_of_a_checkout_are_not_those_of_a_project(project: Path) -> None:
    (project / "reelgraph").symlink_to(ROOT / "clients")
    code = f"import sys; sys.path.insert(1, {str(ROOT)!r}); sys.path.remove(''); from reelgraph import Graphs"
    run([sys.executable, "-c", code], project)
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import reelgraph; sys.path.insert(0, ''); reelgraph.Graphs"
    told = run([sys.executable, "-c", code], project, status=1).stderr
    assert f"`import services` finds {project / 'services' / '__init__.py'}" in told.splitlines()[-1]
