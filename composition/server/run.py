"""Serving a configuration until somebody stops it: on a Ray of its own, or beside others on a cluster."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ray.serve.schema import ServeDeploySchema, ServeStatus

from composition.server.alarms import MemoryAlarm
from composition.server.console import Console, console
from composition.server.deploying import change_beside, deploy, deploy_beside, remove, statuses_of, wait_until_ready
from composition.server.own_ray import home_of, joined_ray, need_tokens, own_ray, wanted_address
from composition.server.ports import held_port, url_of
from composition.server.startup import list_parts, startup
from services.errors import ConfigError
from services.loading import list_loading
from services.private import open_home

LOOK_S = 0.5
"""Between two looks at what Ray says of memory, and at whether the configuration is to be read again."""

Deploy = Callable[[ServeDeploySchema, ServeDeploySchema], None]
"""Deploys a configuration in place of another one: `deploy(new, old)`."""


class Wishes:
    """What a person wants of a server that runs: SIGINT and SIGTERM stop it, SIGHUP lets it read its file again.

    A SIGHUP that comes because its terminal was closed stops it too, unless it was started to outlive that (nohup).
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.reload = threading.Event()
        self._ends_with_terminal = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN and has_terminal()

    def listen(self) -> None:
        """Take the signals, also where they were ignored. To be called again after Ray, which takes them too."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda _number, _frame: self.stop.set())
        signal.signal(signal.SIGHUP, lambda _number, _frame: self._hear_hangup())

    def _hear_hangup(self) -> None:
        closed = self._ends_with_terminal and not has_terminal()
        (self.stop if closed else self.reload).set()


def has_terminal() -> bool:
    """Return whether this process has a controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def run(read: Callable[[], ServeDeploySchema], address: str | None = None) -> int:
    """Serve until SIGINT or SIGTERM. Prints the URL, then `ready` when every application answers.

    Args:
        read: reads the configuration; again at SIGHUP, after which the applications that it changes are restarted.
        address: the Ray cluster on which; by default the one that RAY_ADDRESS names, else a Ray of our own.

    Raises:
        ConfigError: the configuration is invalid, the address is taken, or what is on the cluster is in the way.
    """
    need_tokens()
    config = read()
    home = open_home(home_of(config), lambda line: print(line, file=sys.stderr, flush=True))
    cluster = wanted_address(address)
    with console(home) as said:
        serving = Serving(read, config, home, said)
        return serving.run_alone() if cluster is None else serving.run_beside(cluster)


class Serving:
    """A configuration that is being served.

    Args:
        read: reads it again.
        config: what was read.
        home: REELGRAPH_HOME.
        said: where people are told.
    """

    def __init__(
        self, read: Callable[[], ServeDeploySchema], config: ServeDeploySchema, home: Path, said: Console
    ) -> None:
        self._read = read
        self._config = config
        self._home = home
        self._said = said
        self._wishes = Wishes()
        self._alarm = MemoryAlarm(said.logs / "ray")

    def run_alone(self) -> int:
        """Serve on a Ray of our own. Returns the exit status."""
        self._wishes.listen()
        http = self._config.http_options
        with held_port(http.host, http.port):
            self._said.tell(f"logs: {self._said.logs}")
            with own_ray(self._home, self._said.logs) as ray:
                self._wishes.listen()
                print(f"Ray's address is {ray}", flush=True)  # for the log, where stdout leads
                if self._wishes.stop.is_set():
                    return 0
                deploy(self._config)
                return self._serve(lambda new, _old: deploy(new))

    def run_beside(self, cluster: str) -> int:
        """Serve on a cluster that others use too, and leave what is theirs. Returns the exit status."""
        self._wishes.listen()
        with joined_ray(cluster) as joined:
            self._wishes.listen()
            self._said.tell(f"logs: {self._said.logs}")
            deploy_beside(self._config, joined)
            try:
                return self._serve(lambda new, old: change_beside(new, old, joined))
            finally:
                if left := remove(self._config):
                    self._said.tell(f"{joined}: {left}")

    def _serve(self, deploy_again: Deploy) -> int:
        http = self._config.http_options
        url = url_of(http.host, http.port, secure=bool(http.ssl_keyfile and http.ssl_certfile))
        self._said.print_line(url)
        if failure := self._wait(url):
            self._said.tell(failure)
            return 1
        if not self._wishes.stop.is_set():
            self._said.print_line("ready")
        while not self._wishes.stop.wait(LOOK_S):
            for shortage in self._alarm.list_new():
                self._said.tell(str(shortage))
            if self._wishes.reload.is_set():
                self._wishes.reload.clear()
                self._reload(url, deploy_again)
        return 0

    def _wait(self, url: str) -> str | None:
        """Show how the applications start until all answer. Returns what failed, None where nothing did."""
        began = time.time()
        with startup(self._said.err) as screen:

            def watch(status: ServeStatus) -> None:
                screen.show(list_parts(statuses_of(self._config, status), list_loading(self._home, began)))
                for shortage in self._alarm.list_new():
                    screen.note(str(shortage))

            return wait_until_ready(self._config, url, self._wishes.stop, watch)

    def _reload(self, url: str, deploy_again: Deploy) -> None:
        """Read the configuration again and deploy it. What is invalid is told, and changes nothing."""
        try:
            new = self._read()
            if new.http_options != self._config.http_options:
                raise ConfigError("http_options: they hold until the server is started again", param="http_options")
            deploy_again(new, self._config)
        except ConfigError as error:
            self._said.tell(f"the configuration stays as it was: {error.message}")
            return
        self._config = new
        self._said.tell("the configuration was read again")
        if failure := self._wait(url):
            self._said.tell(failure)
