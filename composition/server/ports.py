"""The address that a server listens on: reserving the port, formatting the URL, and checking that it answers."""

import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress

import httpx

from services.errors import ConfigError

_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
_TIMEOUT_S = 10.0


def format_url(host: str, port: int, *, secure: bool = False) -> str:
    """Return the URL under which a client on this machine reaches a listening address."""
    name = _ANYWHERE.get(host, host)
    return f"{'https' if secure else 'http'}://{f'[{name}]' if ':' in name else name}:{port}"


@contextmanager
def reserve_port(host: str, port: int) -> Generator[None]:
    """Reserve a port for the proxies of this server inside the `with` block. Raises ConfigError if it is in use.

    Serve's proxies share a port (SO_REUSEPORT), so two servers could share one by mistake and receive each other's
    requests. A bind without this option checks that the port is free. Then a socket with the option, which does not
    listen, holds the port: Serve's proxies can bind to it, and the check of another server fails.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET  # as Serve decides
        address = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)[0][4]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"port: {host}:{port} is not available ({reason}); choose another with --port") from error
    with socket.socket(family) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with suppress(OSError):  # connections in TIME_WAIT, which expire
            holder.bind(address)
        yield


def check_url(url: str) -> str | None:
    """Request a URL. Return None if the response has a 2xx status, else the failure."""
    try:
        # The certificate is for the public name of the server, not for this address.
        response = httpx.get(url, timeout=_TIMEOUT_S, trust_env=False, verify=False)  # noqa: S501
    except httpx.HTTPError as error:
        return str(error) or type(error).__name__
    return None if response.is_success else f"status {response.status_code}: {response.text[:200]}"
