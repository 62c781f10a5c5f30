"""A server beside another user's Ray, and on it: isolation of both, and from other users of the machine."""

import contextlib
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from tests.cluster.server import ROOT, free_port, until

pytestmark = pytest.mark.cluster

NOBODY = 65534
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
DEPLOY = """
import sys
from pathlib import Path
import ray, yaml
from ray.serve.schema import ServeDeploySchema
from composition.server.deploying import deploy
ray.init(address=sys.argv[1], namespace="serve", log_to_driver=False)
deploy(ServeDeploySchema.model_validate(yaml.safe_load(Path(sys.argv[2]).read_text())))
"""


def application(name: str, route: str | None) -> dict[str, Any]:
    part = "back" if route is None else "front"
    options = [{"name": part, "num_replicas": 1, "graceful_shutdown_wait_loop_s": 0.1}]
    return {"name": name, "route_prefix": route, "import_path": f"tests.cluster.tiny:{part}", "deployments": options}


def write_config(path: Path, port: int, **routes: str | None) -> Path:
    applications = [application(name, route) for name, route in routes.items()]
    http = {"host": "127.0.0.1", "port": port}
    path.write_text(yaml.safe_dump({"http_options": http, "proxy_location": "HeadOnly", "applications": applications}))
    return path


def ask(port: int, path: str = "/") -> dict[str, Any]:
    answer = httpx.get(f"http://127.0.0.1:{port}{path}", timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


def tree(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    top = psutil.Process(process.pid)
    return [top, *top.children(recursive=True)]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder with a short path that all users can enter, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="own", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@dataclass
class Foreign:
    """A Ray started by another user, which serves an application."""

    address: str
    port: int
    environment: dict[str, str]
    pid: int

    def is_untouched(self) -> bool:
        return ask(self.port) == {"pid": self.pid, "umask": 0o022}


@pytest.fixture(scope="module")
def environment(place: Path) -> dict[str, str]:
    """Environment of both. Ray looks for `ray/ray_current_cluster` in RAY_TMPDIR."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, "PYTHONPATH": str(ROOT), "RAY_TMPDIR": str(place), "REELGRAPH_HOME": str(place / "home")}


@pytest.fixture(scope="module")
def foreign(place: Path, environment: dict[str, str]) -> Iterator[Foreign]:
    token = place / "their-token"
    token.write_text("ab" * 32)
    theirs = {**environment, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    gcs, port = free_port(), free_port()
    ports = {"port": gcs, "ray-client-server-port": free_port(), "min-worker-port": 0, "max-worker-port": 0}
    ports |= {"dashboard-agent-listen-port": free_port()}
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--disable-usage-stats"]
    command += ["--include-dashboard=false", "--num-cpus=2", f"--temp-dir={place / 'ray'}"]
    command += [f"--{name}={number}" for name, number in ports.items()]
    with (place / "ray.log").open("w") as log:
        head = subprocess.Popen(command, cwd=place, env=theirs, stdout=log, stderr=log, text=True, umask=0o022)
    try:
        current = place / "ray" / "ray_current_cluster"
        until(current.exists, 60, "the start of their Ray")
        address = current.read_text().strip()
        config = write_config(place / "theirs.yaml", port, theirs="/")
        deploy = [sys.executable, "-c", DEPLOY, address, str(config)]
        subprocess.run(deploy, cwd=place, env=theirs, check=True, capture_output=True, timeout=120)
        until(lambda: httpx.get(f"http://127.0.0.1:{port}/", timeout=30).is_success, 60, "their application")
        yield Foreign(address, port, theirs, ask(port)["pid"])
    finally:
        everything = tree(head)
        for process in everything:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        head.wait()
        psutil.wait_procs(everything[1:], 30)


def serve(config: Path, environment: dict[str, str], *words: str) -> "subprocess.Popen[str]":
    """Start a server as a script's background job: SIGINT is ignored, and the umask lets all users read.

    The working folder is a project with packages of our names.
    """
    command = [sys.executable, "-P", "-m", "composition", "serve", "--config", str(config), *words]
    project = config.parent / "project"
    for name in ("composition", "services", "tests"):
        (project / name).mkdir(parents=True, exist_ok=True)
        (project / name / "__init__.py").write_text(f"raise AssertionError('the {name} of the working folder')\n")
    return subprocess.Popen(
        ["bash", "-c", 'trap "" INT; exec "$@"', "bash", *command],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        umask=0o022,
    )


def wait_until_ready(process: "subprocess.Popen[str]", port: int) -> None:
    assert process.stdout
    assert process.stderr
    lines = [process.stdout.readline() for _ in range(2)]
    assert lines == [f"http://127.0.0.1:{port}\n", "ready\n"], process.communicate(timeout=60)


def refusal(process: "subprocess.Popen[str]") -> str:
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, "")
    return err.splitlines()[-1]


@dataclass
class Own:
    """Our server and all its processes."""

    process: "subprocess.Popen[str]"
    port: int
    home: Path


@pytest.fixture(scope="module")
def own(place: Path, foreign: Foreign, environment: dict[str, str]) -> Iterator[Own]:
    """A server that starts while the other Ray is running, and has ended after its tests."""
    port, home = free_port(), place / "home"
    home.mkdir(mode=0o755)
    (home / "old.db").touch(mode=0o644)
    process = serve(write_config(place / "ours.yaml", port, tiny="/", unseen=None), environment)
    try:
        wait_until_ready(process, port)
        yield Own(process, port, home)
    finally:
        if process.poll() is None:
            for one in tree(process):
                one.kill()
            process.wait()


def test_only_this_machine_reaches_it(own: Own) -> None:
    def agent_listens() -> bool:
        return any("DashboardAgent" in " ".join(one.cmdline()) and listening(one) for one in tree(own.process))

    def listening(process: psutil.Process) -> list[tuple[str, int]]:
        found = [each.laddr for each in process.net_connections("inet") if each.status == psutil.CONN_LISTEN]
        return [(address.ip, address.port) for address in found if address]

    until(agent_listens, 60, "the start of Ray's agent")
    sockets = {process.name(): listening(process) for process in tree(own.process)}
    reached = [socket for each in sockets.values() for socket in each]
    assert ("127.0.0.1", own.port) in reached
    assert len(reached) > 8
    assert [socket for socket in reached if socket[0] not in LOOPBACK] == [], sockets


def test_nobody_else_reads_or_lists_it(own: Own, place: Path) -> None:
    assert ask(own.port)["umask"] == 0o077, "in its workers too"
    (session,) = (own.home / "ray").iterdir()
    below = [path for path in own.home.rglob("*") if not path.is_symlink()]
    assert any(path.is_socket() for path in below)
    assert any(path.name == "raylet.out" for path in below)
    open_to_others = [path for path in below if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)]
    assert [path for path in open_to_others if session / "t" not in (path, *path.parents)] == []
    if os.geteuid() == 0:
        look = ["bash", "-c", 'find "$1" -mindepth 1; shift; for path; do [ -e "$path" ] && echo "$path"; done', "bash"]
        control = place / "theirs.yaml"
        seen = subprocess.run(
            [*look, *map(str, [own.home, control, *below])],
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert seen.stdout == f"{control}\n"


def test_a_port_that_anybody_has_is_refused(
    own: Own, foreign: Foreign, place: Path, environment: dict[str, str]
) -> None:
    for port in (own.port, foreign.port):
        refused = refusal(serve(write_config(place / "refused.yaml", port, tiny="/"), environment))
        assert (
            refused == f"port: 127.0.0.1:{port} is not available (Address already in use); choose another with --port"
        )


def test_it_ends_at_an_interrupt_and_leaves_its_logs_and_theirs_alone(own: Own, foreign: Foreign) -> None:
    everything = tree(own.process)
    own.process.send_signal(signal.SIGINT)
    _, output = own.process.communicate(timeout=60)
    assert own.process.returncode == 0, output
    assert psutil.wait_procs(everything[1:], 30)[1] == []
    closed, logs, *parts = output.splitlines()
    assert closed == f"{own.home}: other users could read it (mode 755); closed it, and 1 files in it"
    assert sorted(parts) == ["back: loaded", "front: loaded"]
    folder = Path(logs.removeprefix("logs: "))
    assert folder.parent == own.home / "logs"
    assert (folder / "ray" / "raylet.out").stat().st_size > 0
    assert list((own.home / "ray").iterdir()) == []
    assert foreign.is_untouched()


def test_a_cluster_that_is_not_ours(foreign: Foreign, place: Path) -> None:
    config = write_config(place / "beside.yaml", foreign.port, tiny="/tiny", unseen=None)
    process = serve(config, foreign.environment, "--address", foreign.address)
    wait_until_ready(process, foreign.port)
    assert ask(foreign.port, "/tiny/")["pid"] != foreign.pid
    assert foreign.is_untouched()
    process.terminate()
    _, output = process.communicate(timeout=90)
    assert process.returncode == 0, output
    assert foreign.is_untouched()
    assert httpx.get(f"http://127.0.0.1:{foreign.port}/tiny/").json() == {"pid": foreign.pid, "umask": 0o022}


@pytest.mark.parametrize("way", ["port", "name", "route", "tokens are off", "no token"])
def test_what_is_in_the_way_on_a_cluster_is_named(foreign: Foreign, place: Path, way: str) -> None:
    port = free_port() if way == "port" else foreign.port
    config = write_config(place / "refused.yaml", port, **{"theirs" if way == "name" else "tiny": "/"})
    variables = {**foreign.environment, "RAY_ADDRESS": foreign.address}
    if way == "tokens are off":
        variables["RAY_AUTH_MODE"] = "disabled"
    if way == "no token":
        variables = {**variables, "HOME": str(place)}
        del variables["RAY_AUTH_TOKEN_PATH"], variables["RAY_AUTH_MODE"]
    refused = refusal(serve(config, variables))
    words = {
        "port": f"http_options: must be 127.0.0.1:{foreign.port}, where the proxies of Serve on {foreign.address} "
        f"listen, got 127.0.0.1:{port}",
        "name": f"applications: 'theirs' is already deployed on {foreign.address}",
        "route": f"applications: the route / of tiny is already used by the application 'theirs' on {foreign.address}",
        "tokens are off": "RAY_AUTH_MODE: must be token or unset, got disabled",
        "no token": f"address: {foreign.address}: there is no token for this cluster",
    }
    assert refused.startswith(words[way]), refused
    assert foreign.is_untouched()
