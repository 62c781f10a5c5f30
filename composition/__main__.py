"""Run the server on this machine, or on the cluster that RAY_ADDRESS names; manage API keys; fetch weights.

`python -m composition serve --config FILE`, `python -m composition keys create OWNER --config FILE`,
`python -m composition pull --config FILE`. The command line of a user, `reel`, calls this.
"""

import argparse
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, cast

import ray
from ray import serve
from ray.serve._private import api as private  # what `serve run` itself uses: Ray has no public equal for a file
from ray.serve.config import ProxyLocation
from ray.serve.schema import ApplicationStatus, ServeDeploySchema

from composition.configuration import LOCAL_CONFIG, load_configuration, read_configuration
from composition.pull import Acceptance, end_at_once, pull
from composition.store import Store
from services.errors import ConfigError, ReelError

POLL_S = 1.0


def run(config: ServeDeploySchema) -> int:
    """Serve until SIGINT or SIGTERM. Prints the URL, then `ready` when every deployment is healthy."""
    http = config.http_options
    _need_port(http.host, http.port)
    here = cast("Any", ray)
    here.init(namespace="serve", include_dashboard=False, log_to_driver=False, configure_logging=False)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # after Ray, which sets its own
        signal.signal(number, lambda _number, _frame: stop.set())
    try:
        deploy(config)
        shown = "127.0.0.1" if http.host in ("0.0.0.0", "::") else http.host  # noqa: S104 - compared, not bound
        print(f"http://{shown}:{http.port}", flush=True)
        failure = _wait_until_ready({application.name for application in config.applications}, stop)
        if failure is not None:
            print(failure, file=sys.stderr)
            return 1
        if not stop.is_set():
            print("ready", flush=True)
        stop.wait()
        return 0
    finally:
        cast("Any", serve).shutdown()
        here.shutdown()


def deploy(config: ServeDeploySchema) -> None:
    """Begin to serve what a configuration says, on the Ray that this process is connected to."""
    http = config.http_options.model_dump()
    start = cast("Any", private).serve_start
    start(http_options=http, proxy_location=ProxyLocation(config.proxy_location)).deploy_apps(config)


def _wait_until_ready(names: set[str], stop: threading.Event) -> str | None:
    """Return None when all is healthy or a stop was asked for, else what failed."""
    while not stop.wait(POLL_S):
        applications = serve.status().applications
        found = [applications[name] for name in names if name in applications]
        for application in found:
            if application.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
                reasons = [d.message for d in application.deployments.values() if d.message]
                return "\n".join([application.message, *reasons])
        if len(found) == len(names) and all(a.status == ApplicationStatus.RUNNING for a in found):
            return None
    return None


def _need_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"port: {host}:{port} cannot be had ({error.strerror}); name another with --port"
            ) from error


def manage_keys(database: str, action: str, owner: str | None) -> int:
    """Create, list or revoke API keys in a database."""
    store = Store(database)
    if action == "create" and owner:
        print(store.add_key(owner))
        print("This key is not kept and cannot be shown again.", file=sys.stderr)
    elif action == "revoke" and owner:
        print(f"{store.revoke_keys(owner)} revoked")
    elif action == "list":
        for key in store.api_keys():
            made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(key.created_at))
            print(f"{key.owner}\t{made}\tsha256:{key.sha256[:12]}…")
    else:
        raise ConfigError(f"keys {action}: name the owner")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The entry point."""
    parser = argparse.ArgumentParser(prog="python -m composition", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve")
    serving.add_argument("--host")
    serving.add_argument("--port", type=int)
    serving.add_argument("--only", action="append", default=[], metavar="MODEL")
    keys = commands.add_parser("keys")
    keys.add_argument("action", choices=["create", "list", "revoke"])
    keys.add_argument("owner", nargs="?")
    pulling = commands.add_parser("pull")
    pulling.add_argument("--accept-licences", action="store_true")
    pulling.add_argument("--accept-licence", action="append", default=[], metavar="OWNER/NAME")
    for command in (serving, keys, pulling):
        command.add_argument("--config", type=Path, default=LOCAL_CONFIG)
    given = parser.parse_args(arguments)
    try:
        if given.command == "serve":
            return run(read_configuration(given.config, given.host, given.port, given.only))
        configuration = load_configuration(given.config)
        if given.command == "keys":
            return manage_keys(configuration.state.database_url, given.action, given.owner)
        end_at_once()
        acceptance = Acceptance(given.accept_licences, tuple(given.accept_licence))
        return pull(configuration.models, configuration.state.state, acceptance)
    except ReelError as error:
        print(error.message, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
