"""The Ray of a server: its own private instance, or a cluster that it joins.

By default, Ray would join any instance on this machine, listen on all interfaces, and keep sessions and sockets in a
folder that every user can write to.
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
from composition.server.console import is_locked
from services.errors import ConfigError
from services.private import tighten, write_private

MAX_SOCKET_PATH = 107
"""Maximum length of the path of a Unix socket, in bytes (`sun_path` without its final zero)."""
_LONGEST_SOCKET = "/session_2025-11-30_10-46-00_123456_4194304/sockets/plasma_store"
"""The longest path of a socket in Ray's folder."""
_RANDOM = "/abcd1234"
_CHECKOUT = LOCAL_CONFIG.parent
"""The working folder while Ray is started or joined. Workers search it first for modules: in another folder, a user's
package `services` would be imported instead of ours."""
_TEMP = "t"
"""Name of Ray's folder. Ray gives it mode 0777, so it is kept in a private folder."""
_LOCK = "lock"
_LOOPBACK = "127.0.0.1"
_CONNECT_TIMEOUT_S = 10.0
_HOOK = "composition.server.loopback.bind_to_loopback"

_NO_METRICS = {"AUTOSCALER_METRIC_PORT": "-1", "DASHBOARD_METRIC_PORT": "-1"}
"""Disable two ports that would be open to all users of the machine without a token. -1 is logged as invalid."""

_SETTINGS: dict[str, Any] = {
    "namespace": "serve",
    "log_to_driver": False,
    "configure_logging": False,
}


def choose_cluster(option: str | None) -> str | None:
    """Return the address of the cluster to join, from `--address` or RAY_ADDRESS; None for our own Ray."""
    address = option if option is not None else os.environ.get("RAY_ADDRESS", "")
    return None if address in ("", "local") else address


def find_home(config: ServeDeploySchema) -> Path:
    """Return the folder of all state: `home` of an application's `args`, else REELGRAPH_HOME, else `~/.reelgraph`."""
    for application in config.applications:
        if home := cast("Any", application).args.get("home"):
            return Path(home)
    return Path(os.environ.get("REELGRAPH_HOME", "~/.reelgraph"))


def require_token_auth() -> None:
    """Raise ConfigError if token authentication of Ray's ports is switched off."""
    mode = os.environ.get("RAY_AUTH_MODE")
    if mode is not None and mode.lower() != "token":
        raise ConfigError(
            f"RAY_AUTH_MODE: must be token or unset, got {mode}; without a token, anyone who can reach a port of Ray "
            "can run programs as you"
        )


@contextmanager
def start_ray(home: Path, logs: Path) -> Generator[str]:
    """Run a Ray instance for this process inside the `with` block, and yield its address.

    It listens on the loopback interface only, requires a token that only this user can read, and leaves nothing behind
    except its logs. It neither writes nor reads the `ray_current_cluster` file that other programs use.

    Args:
        home: REELGRAPH_HOME.
        logs: folder of the server's logs; `logs/ray` becomes the folder of Ray's logs.
    """
    rescue_logs(home)
    with create_private_folder(home) as folder, ExitStack() as stack:
        token = folder / "token"
        write_private(token, secrets.token_hex(32))
        os.environ.pop("RAY_AUTH_TOKEN", None)  # it has precedence over the file
        os.environ.pop("RAY_ADDRESS", None)
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
        temp = folder / _TEMP
        (logs / "ray").symlink_to(temp / ray_constants.SESSION_LATEST / "logs")
        stack.callback(_keep_logs, logs / "ray")
        own = cast("Any", ray)
        stack.callback(own.shutdown, wait_for_processes=True)
        with _isolate_ray(), chdir(_CHECKOUT):
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
def _isolate_ray() -> Generator[None]:
    """Change Ray's start-up inside the `with` block so that it does not affect other Ray instances on this machine.

    - Ray uses 127.0.0.1 as the address of this node. `_node_ip_address="127.0.0.1"` alone does not suffice: Ray would
      replace it by the address of an interface. The variable's name refers to systems where this is Ray's default; Ray
      has already read it on import, so its constant is set too.
    - Ray's agent takes a free port, not a fixed one, which another instance may need.
    - The log monitor and the autoscaler monitor (50 MB each) are not started: no logs go to a driver, and there is only
      one node. Idle workers end by themselves (`num_workers_soft_limit`).
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
def join_ray(address: str) -> Generator[str]:
    """Join a running cluster inside the `with` block, and yield its address. Raises ConfigError."""
    joined = cast("Any", ray)
    try:
        _check_reachable(address)
        if not maybe_enable_token_auth_if_token_available(warn_if_disabled=False):
            raise ConnectionError(
                "there is no token for this cluster; start it with RAY_AUTH_MODE=token, and set RAY_AUTH_TOKEN_PATH to "
                "the file of its token"
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


def _check_reachable(address: str) -> None:
    """Raise OSError or ValueError if the address does not accept connections; Ray itself would wait for minutes."""
    if "://" in address:
        raise ValueError("must be HOST:PORT of the cluster's head; Ray Client addresses (ray://) are not supported")
    host, _, port = address.rpartition(":")
    if address != "auto":
        if not host or not port.isdecimal():
            raise ValueError("must be HOST:PORT")
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT_S).close()


@contextmanager
def create_private_folder(home: Path) -> Generator[Path]:
    """Create a folder that only this user can enter, lock it while it is in use, and remove it at the end.

    Also removes the folders of servers that were killed.
    """
    parent = _choose_parent(home)
    for abandoned in _list_abandoned(parent):
        shutil.rmtree(abandoned, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_choose_prefix(parent), dir=parent))
    with ExitStack() as stack:
        stack.callback(_remove_folder, folder)
        lock = stack.enter_context((folder / "new").open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        Path(lock.name).rename(folder / _LOCK)
        yield folder


def _choose_parent(home: Path) -> Path:
    """Return the parent of the private folder: `HOME/ray`, or `/tmp` if the socket paths would be too long."""
    if has_socket_room(home / "ray"):
        (home / "ray").mkdir(mode=0o700, exist_ok=True)
        return home / "ray"
    return Path("/tmp")  # noqa: S108 - the folder has a random name and is private


def has_socket_room(parent: Path) -> bool:
    """Whether the paths of Ray's sockets in a private folder of `parent` are short enough."""
    return len(os.fsencode(f"{parent}{_RANDOM}/{_TEMP}{_LONGEST_SOCKET}")) <= MAX_SOCKET_PATH


def _choose_prefix(parent: Path) -> str:
    return "" if parent.name == "ray" else "reel-"


def _list_abandoned(parent: Path) -> Iterator[Path]:
    """Yield the private folders of this user whose server no longer runs."""
    for folder in parent.glob(f"{_choose_prefix(parent)}*"):
        with suppress(OSError):
            if folder.lstat().st_uid == os.geteuid() and (folder / _LOCK).exists() and not is_locked(folder / _LOCK):
                yield folder


def rescue_logs(home: Path) -> None:
    """Keep Ray's logs of servers that were killed, before their private folders are removed."""
    for link in (home / "logs").glob("*/ray"):
        if link.is_symlink() and not is_locked(link.parent / "server.log"):
            _keep_logs(link)


def _keep_logs(link: Path) -> None:
    """Replace a link to Ray's logs by the logs."""
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


def _remove_folder(folder: Path) -> None:
    """Remove a folder, and retry while the last workers may still write to it."""
    for _ in range(30):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)
