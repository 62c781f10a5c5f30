"""A real server for tests: a `python -m composition serve` process with the local configuration."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from composition.configuration.file import LOCAL_CONFIG, parse_configuration, select_models
from composition.configuration.settings import FrontSettings, JobsSettings, StateSettings
from miniatures.random.served import host_apart, replace_models
from tests.waiting import until

ROOT = Path(__file__).parents[2]
CLIP = ROOT / "clients" / "media" / "bigbuckbunny.mp4"
START_S = 420.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _assemble(home: Path, models: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the local configuration with its state in `home`; the number of threads is left to the environment.

    The budget of memory for decoders is there too: servers of tests that run at the same time do not share it.
    """
    media = {"node_memory_folder": str(home / "decoders"), **settings.get("media", {})}
    settings = {**settings, "media": media}
    raw = replace_models(yaml.safe_load(LOCAL_CONFIG.read_text()), models)
    for application in raw["applications"]:
        shape = {"front": FrontSettings, "jobs": JobsSettings}.get(application["name"], StateSettings)
        args = {name: value for name, value in settings.items() if name in shape.model_fields}
        application["args"] |= {"home": str(home), **args}
        for deployment in application["deployments"]:
            deployment["ray_actor_options"].pop("runtime_env", None)
    return raw


def measure_load(processes: Sequence[psutil.Process], seconds: float) -> list[float]:
    """Measure the processor time of each process over some seconds, in seconds per second."""
    before = [sum(process.cpu_times()[:2]) for process in processes]
    began = time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    return [(sum(process.cpu_times()[:2]) - was) / took for process, was in zip(processes, before, strict=True)]


class Server:
    """A server with its own home folder.

    Args:
        home: its REELGRAPH_HOME.
        models: kind → block of the model, as in `random_models`.
        only: graphs or models to serve.
        twice: applications with two replicas. A model named here gets its own application.
        apart: models and graphs that get their own application too; True: all.
        settings: settings of the front door, the job runner and the state, by name.
    """

    def __init__(
        self,
        home: Path,
        models: Mapping[str, Any],
        only: Sequence[str] = ("v2v", "rolling-edit"),
        *,
        twice: Sequence[str] = (),
        apart: bool | Sequence[str] = False,
        **settings: Any,
    ):
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        raw = _assemble(home, models, settings)
        leaving = None if apart is True else [*twice, *(apart or ())]
        found = select_models(parse_configuration(host_apart(raw, leaving), ROOT), only)
        raw = found.document
        for application in raw["applications"]:
            if application["name"] in twice:
                application["deployments"][0]["num_replicas"] = 2
        self._hosts = {block.name: block.name for block in found.blocks}
        self._hosts |= {name: block.name for block in found.blocks for name in (*block.models, *block.graphs)}
        self.config = home / "serve_config.yaml"
        self.config.write_text(yaml.safe_dump(raw))
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self._keys: dict[str, str] = {}

    def add_key(self, owner: str) -> None:
        """Create an API key by the operator's command."""
        command = [sys.executable, "-m", "composition", "keys", "create", owner, "--config", str(self.config)]
        self._keys[owner] = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    def start(self) -> "Server":
        """Start the server and wait until it is ready."""
        log = (self.home / "server.log").open("wb")
        command = [sys.executable, "-m", "composition", "serve", "--config", str(self.config), "--port", str(self.port)]
        # With more threads, models that share few cores slow each other down many times.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_ADDRESS": "local", "PYTHONFAULTHANDLER": "1"}
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=environment)

        def ready() -> bool:
            assert self.process
            text = (self.home / "server.log").read_text(errors="replace")
            assert self.process.poll() is None, text
            return "\nready" in f"\n{text}"

        try:
            until(ready, START_S, "the start of the server")
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop the server by a signal and return its exit status."""
        assert self.process
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(60)

    def kill(self) -> None:
        """Kill the server and all its child processes at once, like a power cut."""
        assert self.process
        below: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            below = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        for process in below:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(60)
        psutil.wait_procs(below, 30)

    def replicas(self, name: str) -> list[psutil.Process]:
        """Return the processes of the replicas that host a model or graph, or belong to an application."""
        assert self.process
        host = self._hosts[name]
        title = f"ServeReplica:{host}:{host}"
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if process.cmdline() and title == process.cmdline()[0].split("::")[-1].split(".")[0]:
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def is_idle(self, name: str, seconds: float = 0.5) -> bool:
        """Return whether the replicas that host a model have used almost no processor time over some seconds."""
        return max(measure_load(self.replicas(name), seconds)) < 0.2

    def busiest(self, name: str) -> psutil.Process:
        """Return the replica with the highest load of those that host a model or graph."""
        processes = until(lambda: self.replicas(name), what=f"a replica of {name}")
        loads = measure_load(processes, 0.2)
        return processes[loads.index(max(loads))]

    def client(self, owner: str | None = None) -> httpx.Client:
        """Return an HTTP client with the API key of an owner, by default the first one created."""
        owner = owner or next(iter(self._keys), None)
        headers = {"Authorization": f"Bearer {self._keys[owner]}"} if owner else {}
        return httpx.Client(base_url=self.url, timeout=60, headers=headers)
