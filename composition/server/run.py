"""Serving a configuration until it is stopped, on the server's own Ray or on a shared cluster."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ray.serve.schema import ServeDeploySchema, ServeStatus

from composition.media.confinement.status import read_confinement
from composition.server.alarms import MemoryAlarm
from composition.server.console import Console, open_console
from composition.server.deploying import (
    delete_applications,
    deploy,
    deploy_on_cluster,
    list_statuses,
    update_on_cluster,
    wait_until_ready,
)
from composition.server.own_ray import choose_cluster, find_home, join_ray, require_token_auth, start_ray
from composition.server.ports import format_url, reserve_port
from composition.server.startup import list_parts, open_screen
from services.errors import ConfigError
from services.loading import list_loading
from services.private import open_home

POLL_S = 0.5
"""Seconds between two checks of Ray's memory log and of the reload signal."""

Deploy = Callable[[ServeDeploySchema, ServeDeploySchema], None]
"""Deploys a configuration in place of another one: `deploy(new, old)`."""


class Signals:
    """Signal handlers of a server: SIGINT and SIGTERM stop it, SIGHUP reloads its configuration.

    A SIGHUP from a closed terminal stops it too, unless the server was started with nohup.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.reload = threading.Event()
        self._ends_with_terminal = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN and has_terminal()

    def listen(self) -> None:
        """Install the handlers, even if the signals were ignored. Call it again after Ray, which replaces them."""
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
    """Serve until SIGINT or SIGTERM, and return the exit status. Prints the URL, then `ready`.

    Args:
        read: reads the configuration. Called again on SIGHUP; changed applications are then restarted.
        address: address of a Ray cluster; by default RAY_ADDRESS, else the server starts its own Ray.

    Raises:
        ConfigError: the configuration is invalid, the port is in use, or the cluster has conflicting applications.
    """
    require_token_auth()
    config = read()
    home = open_home(find_home(config), lambda line: print(line, file=sys.stderr, flush=True))
    cluster = choose_cluster(address)
    with open_console(home) as console:
        server = Server(read, config, home, console)
        return server.run_on_own_ray() if cluster is None else server.run_on_cluster(cluster)


class Server:
    """Serves a configuration.

    Args:
        read: reads the configuration again.
        config: the configuration.
        home: REELGRAPH_HOME.
        console: the console for messages.
    """

    def __init__(
        self, read: Callable[[], ServeDeploySchema], config: ServeDeploySchema, home: Path, console: Console
    ) -> None:
        self._read = read
        self._config = config
        self._home = home
        self._console = console
        self._signals = Signals()
        self._alarm = MemoryAlarm(console.logs / "ray")

    def run_on_own_ray(self) -> int:
        """Serve on our own Ray. Returns the exit status."""
        self._signals.listen()
        http = self._config.http_options
        with reserve_port(http.host, http.port):
            self._console.print_message(f"logs: {self._console.logs}")
            with start_ray(self._home, self._console.logs) as ray:
                self._signals.listen()
                print(f"Ray's address is {ray}", flush=True)  # stdout is the log file here
                self._report_confinement()
                if self._signals.stop.is_set():
                    return 0
                deploy(self._config)
                return self._serve(lambda new, _old: deploy(new))

    def _report_confinement(self) -> None:
        """Log what confines decoders on this machine, and tell people what is missing."""
        confinement = read_confinement()
        print(json.dumps({"message": "confinement of decoders", **confinement.describe()}), flush=True)
        for lack in confinement.missing:
            self._console.print_message(f"decoders are not fully confined: {lack}")

    def run_on_cluster(self, cluster: str) -> int:
        """Serve on a shared cluster without changing other applications. Returns the exit status."""
        self._signals.listen()
        with join_ray(cluster) as joined:
            self._signals.listen()
            self._console.print_message(f"logs: {self._console.logs}")
            deploy_on_cluster(self._config, joined)
            try:
                return self._serve(lambda new, old: update_on_cluster(new, old, joined))
            finally:
                if failure := delete_applications(self._config):
                    self._console.print_message(f"{joined}: the applications could not be deleted: {failure}")

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
            for shortage in self._alarm.read_shortages():
                self._console.print_message(str(shortage))
            if self._signals.reload.is_set():
                self._signals.reload.clear()
                self._reload(url, deploy_again)
        return 0

    def _wait(self, url: str) -> str | None:
        """Show the start-up progress until all applications answer. Returns the failure, or None."""
        began = time.time()
        with open_screen(self._console.err) as screen:

            def watch(status: ServeStatus) -> None:
                screen.show_parts(list_parts(list_statuses(self._config, status), list_loading(self._home, began)))
                for shortage in self._alarm.read_shortages():
                    screen.print_message(str(shortage))

            return wait_until_ready(self._config, url, self._signals.stop, watch)

    def _reload(self, url: str, deploy_again: Deploy) -> None:
        """Read the configuration again and deploy it. An invalid configuration is reported and changes nothing."""
        try:
            new = self._read()
            if new.http_options != self._config.http_options:
                raise ConfigError("http_options: a change needs a restart of the server", param="http_options")
            deploy_again(new, self._config)
        except ConfigError as error:
            self._console.print_message(f"the configuration was not reloaded: {error.message}")
            return
        self._config = new
        self._console.print_message("the configuration was reloaded")
        if failure := self._wait(url):
            self._console.print_message(failure)
