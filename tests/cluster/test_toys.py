"""A model and a graph are added by a folder, a line and a block each, and are then there on every surface."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
import yaml
from PIL import Image

from tests.cluster.server import ROOT, free_port
from tests.waiting import until

pytestmark = pytest.mark.cluster

TOYS = ROOT / "tests" / "toys"
BLOCKS = """
  - name: toy
    route_prefix: null
    import_path: composition.app:models
    args: {models: {toy: {kind: toy, max_frames: 20, defaults: {fps: 4}}}}
    deployments:
      - {<<: *brisk, name: toy, ray_actor_options: {num_cpus: 0.02}}

  - name: there-and-back
    route_prefix: null
    import_path: composition.app:graphs
    args: {graphs: {there-and-back: {defaults: {turns: 2}}}}
    deployments:
      - {<<: *brisk, name: there-and-back, ray_actor_options: {num_cpus: 0.02}}
"""
SERVE = """
import asyncio, sys
from pathlib import Path
import ray
from composition.configuration.file import read_configuration
from composition.server.deploying import deploy
from reelgraph import Graphs
from services.frames import Frames

async def count(name, request):
    return [len(item.pixels) async for item in Graphs().run(name, request) if isinstance(item, Frames)]

config, port, image = sys.argv[1:]
ray.init("local", namespace="serve", num_cpus=2, include_dashboard=False, log_to_driver=False)
deploy(read_configuration(Path(config), "127.0.0.1", int(port), ["there-and-back", "toy"]))
print("deployed", flush=True)
sys.stdin.readline()
from composition.graphs.single import SINGLES
from composition.graphs.there_and_back.request import ThereAndBackRequest
print(sum(asyncio.run(count("there-and-back", ThereAndBackRequest(image=image, animate={"num_frames": 3})))))
print(sum(asyncio.run(count("toy", SINGLES["toy"].request(image=image, num_frames=7)))), flush=True)
"""
"""Serves the toys, then runs both by handle: over HTTP nothing would be proved of those."""
VALUE = (200, 100, 50)


class House:
    """A copy of the project with the toys in it.

    Args:
        root: an empty folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        ignored = shutil.ignore_patterns("__pycache__", "checkpoints")
        for name in ("services", "composition", "clients", "miniatures"):
            shutil.copytree(ROOT / name, root / name, ignore=ignored)
        for name in ("reelgraph", "docs", "pyproject.toml", "serve_config.local.yaml"):
            (root / name).symlink_to("clients" if name == "reelgraph" else ROOT / name)
        (root / "docs").unlink()
        (root / "docs").mkdir()
        self.environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        self.before = self.texts()

    def texts(self) -> dict[str, str]:
        """Path → text of each source file."""
        files = [path for path in self.root.rglob("*") if path.suffix in (".py", ".yaml")]
        return {str(path.relative_to(self.root)): path.read_text() for path in files}

    def add_toys(self) -> None:
        """Add a folder, a line and a block for each."""
        shutil.copytree(TOYS / "model", self.root / "services" / "toy")
        shutil.copytree(TOYS / "graph", self.root / "composition" / "graphs" / "there_and_back")
        add_line(self.root / "services" / "catalogue.py", "wan", "toy", "MODEL")
        add_line(self.root / "composition" / "graphs" / "catalogue.py", "full_pipeline", "there_and_back", "GRAPH")
        config = (ROOT / "serve_config.local.yaml").read_text()
        (self.root / "serve_config.local.yaml").unlink()
        (self.root / "serve_config.local.yaml").write_text(config + BLOCKS)

    def run(self, *command: str) -> str:
        """Run a program in the copy, and return what it prints."""
        done = subprocess.run(
            [sys.executable, *command],
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def reel(self, *words: str) -> str:
        """Run the command line of the copy."""
        return self.run("-c", "from reelgraph.cli import main; main()", *words)


def add_line(catalogue: Path, last: str, added: str, value: str) -> None:
    """Add a module's value to the one list of a catalogue, behind the last, and the module to the import."""
    text = catalogue.read_text()
    for old, new in (
        (f"    {last}.{value},\n", f"    {last}.{value},\n    {added}.{value},\n"),
        (f"    {last},\n)", f"    {last},\n    {added},\n)"),
        (f"from composition.graphs import {last},", f"from composition.graphs import {added}, {last},"),
    ):
        text = text.replace(old, new)
    catalogue.write_text(text)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    made = House(tmp_path_factory.mktemp("house"))
    made.add_toys()
    made.run("-m", "composition", "generate")
    return made


@pytest.fixture(scope="module")
def image(house: House) -> Path:
    path = house.root / "image.png"
    Image.fromarray(np.full((32, 48, 3), VALUE, np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def serving(house: House, image: Path) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """The URL of a server of both toys, and its process, which runs both by handle when it reads a line."""
    port, home = free_port(), house.root / "home"
    config = yaml.safe_load((house.root / "serve_config.local.yaml").read_text())
    for application in config["applications"]:
        application["args"]["home"] = str(home)
    file = house.root / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    with (house.root / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(file), str(port), str(image)],
            cwd=house.root,
            env=house.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        url = f"http://127.0.0.1:{port}"

        def ready() -> bool:
            assert process.poll() is None, (house.root / "log").read_text()
            try:
                models = httpx.get(f"{url}/v1/models", timeout=10).json()["data"]
            except (httpx.TransportError, KeyError, ValueError):
                return False
            return {"toy", "there-and-back"} <= {model["id"] for model in models if model["ready"]}

        try:
            until(ready, 240, "the start of the toys")
            yield url, process
        finally:
            process.kill()
            process.wait(60)


def wait_for(http: httpx.Client, job: str) -> dict[str, Any]:
    """Wait until a job is completed, and return it."""

    def ask() -> dict[str, Any] | None:
        found = http.get(f"/v1/videos/{job}").json()
        assert found["status"] != "failed", found
        return found if found["status"] == "completed" else None

    return until(ask, what="the end of the job")


def frames_of(path: Path) -> list[int]:
    """The red value in the middle of each frame of a video."""
    with av.open(str(path)) as container:
        return [int(frame.to_ndarray(format="rgb24")[16, 24, 0]) for frame in container.decode(video=0)]


def test_nothing_else_is_touched(house: House) -> None:
    after = house.texts()
    changed = {name for name in after if after[name] != house.before.get(name) and name != "config.yaml"}
    generated = {name for name in changed if after[name].startswith("# Generated")}
    assert generated
    assert all(name.startswith("clients/") for name in generated)
    assert changed - generated == {
        "composition/graphs/catalogue.py",
        "serve_config.local.yaml",
        "services/catalogue.py",
        *(f"services/toy/{path.name}" for path in (TOYS / "model").glob("*.py")),
        *(f"composition/graphs/there_and_back/{path.name}" for path in (TOYS / "graph").glob("*.py")),
    }


def test_commands_have_help(house: House) -> None:
    commands = house.reel("--help")
    assert "toy" in commands
    assert "there-and-back" in commands
    assert "--fade" in house.reel("toy", "--help")
    assert "--turns" in house.reel("there-and-back", "--help")


def test_models_are_listed_with_the_defaults_and_limits_of_the_configuration(serving: tuple[str, Any]) -> None:
    models = {model["id"]: model for model in httpx.get(f"{serving[0]}/v1/models", timeout=30).json()["data"]}
    toy, graph = models["toy"]["fields"], models["there-and-back"]["fields"]
    assert (models["toy"]["kind"], models["toy"]["roles"]) == ("toy", ["image-to-video"])
    assert (toy["num_frames"]["maximum"], toy["fps"]["default"]) == (20, 4)
    assert graph["turns"]["default"] == 2


def test_openapi_describes_both(serving: tuple[str, Any]) -> None:
    document = json.dumps(httpx.get(f"{serving[0]}/openapi.json", timeout=30).json())
    assert '"toy"' in document
    assert '"there-and-back"' in document
    assert "How dark the last frame is" in document


def test_http_runs_both(serving: tuple[str, Any], image: Path, tmp_path: Path) -> None:
    with httpx.Client(base_url=serving[0], timeout=60) as http:
        for fields, count in (
            ({"model": "toy", "num_frames": "6"}, 6),
            ({"model": "there-and-back", "animate": '{"num_frames": 3}', "turns": "1"}, 6),
        ):
            job = http.post("/v1/videos", data=fields, files={"image": image.read_bytes()}).json()
            ended = wait_for(http, job["id"])
            assert ended["frames_done"] == count
            (tmp_path / "a.mp4").write_bytes(http.get(f"/v1/videos/{job['id']}/content").content)
            assert frames_of(tmp_path / "a.mp4") == pytest.approx([VALUE[0]] * count, abs=4)
        refused = http.post(
            "/v1/videos", data={"model": "toy", "num_frames": "21"}, files={"image": image.read_bytes()}
        )
        assert (refused.status_code, refused.json()["error"]["param"]) == (422, "num_frames")


def test_the_command_line_runs_both(house: House, serving: tuple[str, Any], image: Path, tmp_path: Path) -> None:
    toy, graph = tmp_path / "toy.mp4", tmp_path / "graph.mp4"
    house.reel("--url", serving[0], "toy", "--image", str(image), "--num-frames", "5", "--fade", "1", "-o", str(toy))
    house.reel("--url", serving[0], "there-and-back", "--image", str(image), "--turns", "2", "-o", str(graph))
    assert frames_of(toy) == pytest.approx([200, 150, 100, 50, 0], abs=6)
    assert len(frames_of(graph)) == 2 * 2 * 8


def test_the_client_runs_both(house: House, serving: tuple[str, Any], image: Path) -> None:
    code = """
import sys
from pathlib import Path
from reelgraph import Client
with Client(sys.argv[1]) as client:
    for fields in ({"model": "toy", "fade": 0.5}, {"model": "there-and-back", "turns": 1}):
        video = client.videos.create(image=Path(sys.argv[2]), **fields)
        print(client.videos.wait(video.id).status)
"""
    assert house.run("-c", code, serving[0], str(image)).split() == ["completed", "completed"]


def test_handles_run_both(serving: tuple[str, "subprocess.Popen[str]"]) -> None:
    process = serving[1]
    assert process.stdin
    assert process.stdout
    assert process.stdout.readline() == "deployed\n"
    process.stdin.write("\n")
    process.stdin.flush()
    assert [process.stdout.readline().strip() for _ in range(2)] == ["12", "7"]
