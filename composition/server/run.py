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
from composition.server.console import Console, open_console
from composition.server.deploying import (
    change_beside,
    delete_applications,
    deploy,
    deploy_beside,
    list_statuses,
    wait_until_ready,
)
from composition.server.own_ray import choose_cluster, find_home, join_ray, require_token_auth, start_ray
from composition.server.ports import format_url, reserve_port
from composition.server.startup import list_parts, open_screen
from services.errors import ConfigError
from services.loading import list_loading
from services.private import open_home

POLL_S = 0.5
"""Between two looks at what Ray says of memory, and at whether the configuration is to be read again."""

Deploy = Callable[[ServeDeploySchema, ServeDeploySchema], None]
"""Deploys a configuration in place of another one: `deploy(new, old)`."""


class Signals:
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
        signal.signal(signal.SIGHUP, lambda _number, _frame: self._handle_hangup())

    def _handle_hangup(self) -> None:
        closed = self._ends_with_terminal and not has_terminal()
        (self.stop if closed else self.reload).set()


def has_terminal() -> bool:
    """Return whether this process has a controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def run_server(read: Callable[[], ServeDeploySchema], address: str | None = None) -> int:
    """Serve until SIGINT or SIGTERM. Prints the URL, then `ready` when every application answers.

    Args:
        read: reads the configuration; again at SIGHUP, after which the applications that it changes are restarted.
        address: the Ray cluster on which; by default the one that RAY_ADDRESS names, else a Ray of our own.

    Raises:
        ConfigError: the configuration is invalid, the address is taken, or what is on the cluster is in the way.
    """
    require_token_auth()
    config = read()
    home = open_home(find_home(config), lambda line: print(line, file=sys.stderr, flush=True))
    cluster = choose_cluster(address)
    with open_console(home) as said:
        serving = Server(read, config, home, said)
        return serving.run_alone() if cluster is None else serving.run_beside(cluster)


class Server:
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
        self._console = said
        self._signals = Signals()
        self._alarm = MemoryAlarm(said.logs / "ray")

    def run_alone(self) -> int:
        """Serve on a Ray of our own. Returns the exit status."""
        self._signals.listen()
        http = self._config.http_options
        with reserve_port(http.host, http.port):
            self._console.print_message(f"logs: {self._console.logs}")
            with start_ray(self._home, self._console.logs) as ray:
                self._signals.listen()
                print(f"Ray's address is {ray}", flush=True)  # for the log, where stdout leads
                if self._signals.stop.is_set():
                    return 0
                deploy(self._config)
                return self._serve(lambda new, _old: deploy(new))

    def run_beside(self, cluster: str) -> int:
        """Serve on a cluster that others use too, and leave what is theirs. Returns the exit status."""
        self._signals.listen()
        with join_ray(cluster) as joined:
            self._signals.listen()
            self._console.print_message(f"logs: {self._console.logs}")
            deploy_beside(self._config, joined)
            try:
                return self._serve(lambda new, old: change_beside(new, old, joined))
            finally:
                if left := delete_applications(self._config):
                    self._console.print_message(f"{joined}: {left}")

    def _serve(self, deploy_again: Deploy) -> int:
        http = self._config.http_options
        url = format_url(http.host, http.port, secure=bool(http.ssl_keyfile and http.ssl_certfile))
        self._console.print_status(url)
        if failure := self._wait(url):
            self._console.print_message(failure)
            return 1
        if not self._signals.stop.is_set():
            self._console.print_status("ready")
        while not self._signals.stop.wait(POLL_S):
            for shortage in self._alarm.read_new():
                self._console.print_message(str(shortage))
            if self._signals.reload.is_set():
                self._signals.reload.clear()
                self._reload(url, deploy_again)
        return 0

    def _wait(self, url: str) -> str | None:
        """Show how the applications start until all answer. Returns what failed, None where nothing did."""
        began = time.time()
        with open_screen(self._console.err) as screen:

            def watch(status: ServeStatus) -> None:
                screen.show(list_parts(list_statuses(self._config, status), list_loading(self._home, began)))
                for shortage in self._alarm.read_new():
                    screen.print_message(str(shortage))

            return wait_until_ready(self._config, url, self._signals.stop, watch)

    def _reload(self, url: str, deploy_again: Deploy) -> None:
        """Read the configuration again and deploy it. What is invalid is told, and changes nothing."""
        try:
            new = self._read()
            if new.http_options != self._config.http_options:
                raise ConfigError("http_options: they hold until the server is started again", param="http_options")
            deploy_again(new, self._config)
        except ConfigError as error:
            self._console.print_message(f"the configuration stays as it was: {error.message}")
            return
        self._config = new
        self._console.print_message("the configuration was read again")
        if failure := self._wait(url):
            self._console.print_message(failure)
