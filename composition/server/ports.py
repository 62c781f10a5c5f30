"""The address that a server listens on: whether it can be had, keeping it, and asking it."""

import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress

import httpx

from services.errors import ConfigError

_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
_TIMEOUT_S = 10.0


def format_url(host: str, port: int, *, secure: bool = False) -> str:
    """The URL by which a client on this machine reaches what listens there."""
    near = _ANYWHERE.get(host, host)
    return f"{'https' if secure else 'http'}://{f'[{near}]' if ':' in near else near}:{port}"


@contextmanager
def reserve_port(host: str, port: int) -> Generator[None]:
    """Keep a port for the proxies that this server starts. Raises ConfigError where anybody has it already.

    Proxies of Serve share their ports with each other (SO_REUSEPORT), and those of two servers would too, each taking
    some of the other's requests. So it is asked without that option whether the port is free, and then kept by a socket
    with the option, which listens to nobody: it lets the proxies in, and makes the next one who asks fail.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET  # as Serve decides
        place = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)[0][4]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"port: {host}:{port} cannot be had ({reason}); name another with --port") from error
    with socket.socket(family) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with suppress(OSError):  # connections that closed a moment ago; they go by themselves
            holder.bind(place)
        yield


def check_url(url: str) -> str | None:
    """Ask for a page over HTTP as a client would. Return None where the answer is 200, else what it was."""
    try:
        # The certificate names the server as others see it, and is theirs to check.
        answer = httpx.get(url, timeout=_TIMEOUT_S, trust_env=False, verify=False)  # noqa: S501
    except httpx.HTTPError as error:
        return str(error) or type(error).__name__
    return None if answer.is_success else f"status {answer.status_code}: {answer.text[:200]}"
