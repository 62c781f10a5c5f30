"""Names that a server answers to, and origins whose pages may use it."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict

MAX_SHOWN = 60
"""Characters of a header that a message repeats."""

MAX_HOST = 300
"""Characters of a host with its port."""

DEFAULT_PORTS = {"http": 80, "https": 443}

LABELS = r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*"

HOST = re.compile(rf"(?:(?P<name>{LABELS})\.?|\[(?P<address>[0-9a-f:.]+)\])(?::(?P<port>[0-9]{{0,5}}))?")

ORIGIN = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>.+)")

PATTERN = re.compile(rf"\*\.{LABELS}")


@dataclass(frozen=True)
class Host:
    """A host's name in lower case, or its IPv6 address without brackets, and its port where it is given."""

    name: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Parse `name`, `name:port`, `[address]` or `[address]:port`; None where it is none of them."""
        match = HOST.fullmatch(text.lower()) if len(text) <= MAX_HOST else None
        if match is None:
            return None
        name = match["name"]
        if name is None:
            try:
                name = str(ipaddress.IPv6Address(match["address"]))
            except ValueError:
                return None
        return cls(name, int(match["port"]) if match["port"] else None)

    @property
    def is_loopback(self) -> bool:
        """Whether the name can only mean the machine that uses it."""
        if self.name in ("localhost", "::1") or self.name.endswith(".localhost"):
            return True
        try:
            return ipaddress.IPv4Address(self.name).is_loopback
        except ValueError:
            return False

    def matches(self, pattern: str) -> bool:
        """Whether a pattern of the settings means this host."""
        return self.name == pattern or (pattern.startswith("*.") and self.name.endswith(pattern[1:]))


@dataclass(frozen=True)
class Origin:
    """Where a page comes from."""

    scheme: str
    host: Host

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Parse `scheme://host` or `scheme://host:port`; None where it is neither, such as `null`."""
        match = ORIGIN.fullmatch(text.lower())
        host = Host.parse(match["host"]) if match else None
        return cls(match["scheme"], host) if match and host else None

    @property
    def port(self) -> int | None:
        return self.host.port or DEFAULT_PORTS.get(self.scheme)

    def __str__(self) -> str:
        name = f"[{self.host.name}]" if ":" in self.host.name else self.host.name
        port = "" if self.port in (None, DEFAULT_PORTS.get(self.scheme)) else f":{self.port}"
        return f"{self.scheme}://{name}{port}"

    def is_same_host(self, host: Host) -> bool:
        """Whether it is the origin of the server that was asked for as `host`.

        The scheme is not compared: behind a proxy that ends TLS the server sees another one than the browser, and no
        two servers have the same host and port.
        """
        web = self.scheme in DEFAULT_PORTS
        return web and self.host.name == host.name and self.port == (host.port or DEFAULT_PORTS[self.scheme])


def _parse_host_pattern(text: str) -> str:
    lower = text.lower()
    if lower == "*" or PATTERN.fullmatch(lower):
        return lower
    bare = f"[{lower}]" if lower.count(":") > 1 and not lower.startswith("[") else lower
    host = Host.parse(bare)
    if host is None or host.port is not None or bare.endswith(":"):
        examples = "as in studio.example.org, or a pattern, as in *.example.org, or *"
        raise ValueError(f"{text[:MAX_SHOWN]!r} must be a name or an address without scheme and port, {examples}")
    return host.name


def _parse_origin(text: str) -> str:
    origin = Origin.parse(text)
    if origin is None:
        raise ValueError(
            f"{text[:MAX_SHOWN]!r} must be an origin, as in https://studio.example.org or http://localhost:5173"
        )
    return str(origin)


class DoorSettings(BaseModel):
    """Which hosts and which pages are let in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    allowed_hosts: tuple[Annotated[str, AfterValidator(_parse_host_pattern)], ...] = ()
    """Names that the server answers to, without ports: `*.example.org` is every name below example.org, and `*` every
    name. Names of the machine itself (localhost, 127.0.0.1, ::1) are always answered. With keys and no names given, all
    are. A proxy must pass on the `Host` that it was asked for, or these names say nothing."""
    allowed_origins: tuple[Annotated[str, AfterValidator(_parse_origin)], ...] = ()
    """Other origins whose pages may use the server, as `https://studio.example.org`; no page of another may. With keys
    and no origins given, all may: they have no key."""
