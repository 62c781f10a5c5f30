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
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import ray
import yaml
from pydantic import ValidationError
from ray import serve
from ray.serve._private import api as private  # what `serve run` itself uses: Ray has no public equal for a file
from ray.serve.config import ProxyLocation
from ray.serve.schema import ApplicationStatus, ServeDeploySchema

from composition.app import SERVICES, AppSettings, deployments_of, needed_by
from composition.pull import end_at_once, pull
from composition.store import Store
from services.errors import ConfigError, ReelError
from services.weights import from_folder

LOCAL_CONFIG = Path(__file__).resolve().parent.parent / "serve_config.local.yaml"
POLL_S = 1.0


def read_config(
    path: Path, host: str | None = None, port: int | None = None, only: Sequence[str] = ()
) -> ServeDeploySchema:
    """Read a configuration file. Raises ConfigError.

    Args:
        path: the file. Relative paths in it begin at its folder.
        host, port: others than it says.
        only: graphs or models; what none of them needs is left out.
    """
    try:
        raw = yaml.safe_load(path.read_text())
        if only:
            narrow(raw["applications"][0], only)
        config = ServeDeploySchema.model_validate(raw)
        application = cast("Any", config).applications[0]
        application.args = from_folder(application.args, settings_of(config), path.absolute().parent)
    except (OSError, yaml.YAMLError, ValidationError, LookupError, TypeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    overrides = {"host": host, "port": port}
    http = config.http_options.model_copy(update={k: v for k, v in overrides.items() if v is not None})
    return config.model_copy(update={"http_options": http})


def narrow(application: dict[str, Any], only: Sequence[str]) -> None:
    """Take out of an application's configuration the models that `only` does not need. Raises ConfigError."""
    settings = AppSettings.model_validate(application["args"])
    kept = {name for model in only for name in needed_by(model, settings.scenes_by)}
    wanted = {name: value for name, value in application["args"].items() if name.replace("_", "-") not in SERVICES}
    there = {name: value for name, value in application["args"].items() if name.replace("_", "-") in kept}
    application["args"] = wanted | there
    names = deployments_of(AppSettings.model_validate(application["args"]))
    application["deployments"] = [entry for entry in application["deployments"] if entry["name"] in names]


def settings_of(config: ServeDeploySchema) -> AppSettings:
    """The `args` of the application. Raises ValidationError, or IndexError where there is no application."""
    return AppSettings.model_validate(cast("dict[str, Any]", cast("Any", config).applications[0].args))


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


def manage_keys(config: ServeDeploySchema, action: str, owner: str | None) -> int:
    """Create, list or revoke API keys in the database that the configuration names."""
    store = Store(settings_of(config).database_url)
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
    for command in (serving, keys, pulling):
        command.add_argument("--config", type=Path, default=LOCAL_CONFIG)
    given = parser.parse_args(arguments)
    try:
        if given.command == "serve":
            return run(read_config(given.config, given.host, given.port, given.only))
        if given.command == "pull":
            end_at_once()
            return pull(settings_of(read_config(given.config)), accept_licences=given.accept_licences)
        return manage_keys(read_config(given.config), given.action, given.owner)
    except ReelError as error:
        print(error.message, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
