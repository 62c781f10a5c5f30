"""Run the server on this machine, or on the cluster that `--address` or RAY_ADDRESS names; manage keys; fetch weights.

`python -m composition serve --config FILE`, `python -m composition keys create OWNER --config FILE`,
`python -m composition pull --config FILE`. The command line of a user, `reel`, calls this.
"""

import argparse
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema, ServeStatus

from composition.alarms import MemoryAlarm
from composition.app import SERVICES, AppSettings, deployments_of, needed_by
from composition.console import Console, console
from composition.own_ray import home_of, joined_ray, own_ray, wanted_address
from composition.ports import held_port, url_of
from composition.pull import end_at_once, pull
from composition.serving import deploy, deploy_beside, remove, statuses_of, wait_until_ready
from composition.startup import list_parts, startup
from composition.store import Store
from services.errors import ConfigError, ReelError
from services.loading import list_loading
from services.private import be_private, open_home
from services.weights import from_folder

LOCAL_CONFIG = Path(__file__).resolve().parent.parent / "serve_config.local.yaml"
ALARM_S = 2.0
"""Between two looks at what Ray says of memory."""


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


def run(config: ServeDeploySchema, address: str | None = None) -> int:
    """Serve until SIGINT or SIGTERM. Prints the URL, then `ready` when every application answers.

    Args:
        config: what is served.
        address: the Ray cluster on which; by default the one that RAY_ADDRESS names, else a Ray of our own.

    Raises:
        ConfigError: the address is taken, or what is on the cluster is in the way.
    """
    home = open_home(home_of(config), lambda line: print(line, file=sys.stderr, flush=True))
    cluster = wanted_address(address)
    with console(home) as said:
        said.tell(f"logs: {said.logs}")
        return _serve_alone(config, home, said) if cluster is None else _serve_beside(config, cluster, home, said)


def _serve_alone(config: ServeDeploySchema, home: Path, said: Console) -> int:
    stop = stop_on_signal()
    http = config.http_options
    with held_port(http.host, http.port), own_ray(home, said.logs) as ray:
        stop_on_signal(stop)
        print(f"Ray's address is {ray}", flush=True)  # for the log, where stdout leads
        if stop.is_set():
            return 0
        deploy(config)
        return _serve(config, home, said, stop)


def _serve_beside(config: ServeDeploySchema, cluster: str, home: Path, said: Console) -> int:
    stop = stop_on_signal()
    with joined_ray(cluster) as joined:
        stop_on_signal(stop)
        deploy_beside(config, joined)
        try:
            return _serve(config, home, said, stop)
        finally:
            if left := remove(config):
                said.tell(f"{joined}: {left}")


def _serve(config: ServeDeploySchema, home: Path, said: Console, stop: threading.Event) -> int:
    http = config.http_options
    url = url_of(http.host, http.port, secure=bool(http.ssl_keyfile and http.ssl_certfile))
    said.print_line(url)
    began, alarm = time.time(), MemoryAlarm(said.logs / "ray")
    with startup(said.err) as screen:

        def watch(status: ServeStatus) -> None:
            screen.show(list_parts(statuses_of(config, status), list_loading(home, began)))
            for shortage in alarm.list_new():
                screen.note(str(shortage))

        failure = wait_until_ready(config, url, stop, watch)
    if failure is not None:
        said.tell(failure)
        return 1
    if not stop.is_set():
        said.print_line("ready")
    while not stop.wait(ALARM_S):
        for shortage in alarm.list_new():
            said.tell(str(shortage))
    return 0


def stop_on_signal(stop: threading.Event | None = None) -> threading.Event:
    """Let SIGINT and SIGTERM set an event, also where they were ignored; again after Ray, which sets handlers too."""
    wanted = stop or threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: wanted.set())
    return wanted


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
    serving.add_argument(
        "--address", metavar="HOST:PORT", help="of a Ray cluster to serve on, instead of a Ray of its own"
    )
    serving.add_argument("--only", action="append", default=[], metavar="MODEL")
    keys = commands.add_parser("keys")
    keys.add_argument("action", choices=["create", "list", "revoke"])
    keys.add_argument("owner", nargs="?")
    pulling = commands.add_parser("pull")
    pulling.add_argument("--accept-licences", action="store_true")
    for command in (serving, keys, pulling):
        command.add_argument("--config", type=Path, default=LOCAL_CONFIG)
    given = parser.parse_args(arguments)
    be_private()
    try:
        if given.command == "serve":
            return run(read_config(given.config, given.host, given.port, given.only), given.address)
        if given.command == "pull":
            end_at_once()
            return pull(settings_of(read_config(given.config)), accept_licences=given.accept_licences)
        return manage_keys(read_config(given.config), given.action, given.owner)
    except ReelError as error:
        print(error.message, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
