"""The Ray that a server runs on: one of its own, which nobody else sees, or a cluster's that it is told to join.

Ray's own defaults would join whatever Ray runs on this machine, listen on all interfaces, and keep sessions and sockets
where every user can write.
"""

import fcntl
import functools
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, chdir, contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import ray
from ray import serve
from ray._private import parameter, ray_constants
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray.exceptions import AuthenticationError
from ray.serve.schema import ServeDeploySchema

from composition.configuration.file import LOCAL_CONFIG
from composition.server.console import is_held
from services.errors import ConfigError
from services.private import tighten, write_private

SOCKET_BYTES = 107
"""The most that the path of a Unix socket may have (`sun_path`, without its zero)."""
_SOCKET = "/session_2025-11-30_10-46-00_123456_4194304/sockets/plasma_store"
"""The longest that Ray puts below its folder."""
_RANDOM = "/abcd1234"
_CHECKOUT = LOCAL_CONFIG.parent
"""The working folder in which Ray is joined. All workers search that one first for modules: in a user's own, a package
`services` would be taken for ours."""
_TEMP = "t"
"""Ray opens its folder to everybody (mode 0777), so that it must lie in one that is closed."""
_LOCK = "lock"
_LOOPBACK = "127.0.0.1"
_ANSWERS_WITHIN_S = 10.0
_HOOK = "composition.server.loopback.bind_to_loopback"

_NO_METRICS = {"AUTOSCALER_METRIC_PORT": "-1", "DASHBOARD_METRIC_PORT": "-1"}
"""Ports that two processes would open to every user, without a token. As none is -1, they log that, and open none."""

_SETTINGS: dict[str, Any] = {
    "namespace": "serve",
    "log_to_driver": False,
    "configure_logging": False,
}


def wanted_address(option: str | None) -> str | None:
    """The cluster that is to be joined: what `--address` says, else RAY_ADDRESS; None for a Ray of our own."""
    address = option if option is not None else os.environ.get("RAY_ADDRESS", "")
    return None if address in ("", "local") else address


def home_of(config: ServeDeploySchema) -> Path:
    """The folder of all state: what an application's `args` say, else REELGRAPH_HOME, else `~/.reelgraph`."""
    for application in config.applications:
        if home := cast("Any", application).args.get("home"):
            return Path(home)
    return Path(os.environ.get("REELGRAPH_HOME", "~/.reelgraph"))


def need_tokens() -> None:
    """Raise ConfigError where Ray's own ports would be open to everybody who can reach them."""
    mode = os.environ.get("RAY_AUTH_MODE")
    if mode is not None and mode.lower() != "token":
        raise ConfigError(
            f"RAY_AUTH_MODE={mode}: without a token, whoever reaches a port of Ray can run programs as you. "
            "Unset RAY_AUTH_MODE, or set it to token"
        )


@contextmanager
def own_ray(home: Path, logs: Path) -> Generator[str]:
    """Run a Ray that belongs to this process, and yield its address.

    It listens on the loopback interface only, takes no call without a token that only this user can read, and leaves
    nothing behind but its logs. It writes no `ray_current_cluster` where others would look, and reads none.

    Args:
        home: REELGRAPH_HOME.
        logs: a folder; `logs/ray` becomes the logs of all processes of Ray.
    """
    keep_logs_of_killed(home)
    with private_folder(home) as folder, ExitStack() as stack:
        token = folder / "token"
        write_private(token, secrets.token_hex(32))
        os.environ.pop("RAY_AUTH_TOKEN", None)  # it would come before the file
        os.environ.pop("RAY_ADDRESS", None)
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
        temp = folder / _TEMP
        (logs / "ray").symlink_to(temp / ray_constants.SESSION_LATEST / "logs")
        stack.callback(_keep_logs, logs / "ray")
        own = cast("Any", ray)
        stack.callback(own.shutdown, wait_for_processes=True)
        with _as_a_guest(), chdir(_CHECKOUT):
            context = own.init(
                address="local",
                include_dashboard=False,
                runtime_env={"worker_process_setup_hook": _HOOK},
                _temp_dir=str(temp),
                _node_ip_address=_LOOPBACK,
                _system_config={"enable_metrics_collection": False, "num_workers_soft_limit": 0},
                **_SETTINGS,
            )
        stack.callback(cast("Any", serve).shutdown)
        yield str(context.address_info["gcs_address"])


@contextmanager
def _as_a_guest() -> Generator[None]:
    """Let Ray, as long as the block lasts, start so that no other Ray of this machine notices.

    It takes 127.0.0.1 for the address of this machine; it has no other setting for that, and replaces
    `_node_ip_address="127.0.0.1"` alone by the address of an interface. The variable is named for the systems where Ray
    does this by itself; Ray has read it when it was imported. And its agent takes any port, where it would take a fixed
    one and leave another Ray's agent without. Two processes of 50 MB with nothing to do here are not started:
    no log goes to a driver, and no node comes or goes. Idle workers end by themselves (`num_workers_soft_limit`).
    """
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ |= _NO_METRICS
    private = cast("Any", parameter)
    params = private.RayParams
    private.RayParams = functools.partial(
        params, dashboard_agent_listen_port=0, include_log_monitor=False, no_monitor=True
    )
    try:
        yield
    finally:
        private.RayParams = params


@contextmanager
def joined_ray(address: str) -> Generator[str]:
    """Join a cluster that others started, and yield its address. Raises ConfigError."""
    joined = cast("Any", ray)
    try:
        _need_answer(address)
        if not maybe_enable_token_auth_if_token_available(warn_if_disabled=False):
            raise ConnectionError(
                "there is no token for that cluster. Start it with RAY_AUTH_MODE=token, and name the file of its token "
                "in RAY_AUTH_TOKEN_PATH"
            )
        if token := os.environ.get("RAY_AUTH_TOKEN_PATH"):
            os.environ["RAY_AUTH_TOKEN_PATH"] = str(Path(token).absolute())
        with chdir(_CHECKOUT):
            context = joined.init(address=address, **_SETTINGS)
    except (OSError, RuntimeError, ValueError, AuthenticationError) as error:
        raise ConfigError(f"address: {address}: {str(error).strip()}", param="address") from error
    try:
        yield str(context.address_info["gcs_address"])
    finally:
        joined.shutdown()


def _need_answer(address: str) -> None:
    """Raise an OSError, or ValueError, where nobody listens: Ray itself would wait for minutes."""
    if "://" in address:
        raise ValueError("Ray Client cannot serve; name HOST:PORT of the cluster's head")
    host, _, port = address.rpartition(":")
    if address != "auto":
        if not host or not port.isdecimal():
            raise ValueError("that is no HOST:PORT")
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWERS_WITHIN_S).close()


@contextmanager
def private_folder(home: Path) -> Generator[Path]:
    """Make a folder that only this user can enter, locked while it is used, and remove it in the end.

    Removes those too that a server left which was killed.
    """
    parent = _parent_of(home)
    for left in _left_behind(parent):
        shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_prefix_in(parent), dir=parent))
    with ExitStack() as stack:
        stack.callback(_remove, folder)
        lock = stack.enter_context((folder / "new").open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        Path(lock.name).rename(folder / _LOCK)
        yield folder


def _parent_of(home: Path) -> Path:
    """Where the folder lies: in the home, unless the paths of Ray's sockets would be too long there."""
    if has_room(home / "ray"):
        (home / "ray").mkdir(mode=0o700, exist_ok=True)
        return home / "ray"
    return Path("/tmp")  # noqa: S108 - a folder of random name that is closed to others


def has_room(parent: Path) -> bool:
    """Whether Ray's sockets may lie in a folder of a folder."""
    return len(os.fsencode(f"{parent}{_RANDOM}/{_TEMP}{_SOCKET}")) <= SOCKET_BYTES


def _prefix_in(parent: Path) -> str:
    return "" if parent.name == "ray" else "reel-"


def _left_behind(parent: Path) -> Iterator[Path]:
    """Folders of this user whose server lives no more."""
    for folder in parent.glob(f"{_prefix_in(parent)}*"):
        with suppress(OSError):
            if folder.lstat().st_uid == os.geteuid() and (folder / _LOCK).exists() and not is_held(folder / _LOCK):
                yield folder


def keep_logs_of_killed(home: Path) -> None:
    """Keep the logs of Ray's that lie in folders which are going to be removed."""
    for link in (home / "logs").glob("*/ray"):
        if link.is_symlink() and not is_held(link.parent / "server.log"):
            _keep_logs(link)


def _keep_logs(link: Path) -> None:
    """Put Ray's logs where the link to them was."""
    with suppress(OSError):
        folder = link.resolve(strict=True)
        link.unlink()
        shutil.move(folder, link)
        tighten(link)
        for path in link.rglob("*"):
            if path.is_file() and path.stat().st_size == 0:
                path.unlink()
    if link.is_symlink():
        link.unlink()


def _remove(folder: Path) -> None:
    """Remove a folder in which the last worker may still write a word."""
    for _ in range(30):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)
