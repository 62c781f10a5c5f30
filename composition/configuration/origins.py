"""Host names that a server answers to, and origins whose pages may use it."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict

MAX_SHOWN = 60
"""Number of characters of a header that a message shows."""

MAX_HOST = 300
"""Maximum length of a host with its port, in characters."""

DEFAULT_PORTS = {"http": 80, "https": 443}

LABELS = r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*"

HOST = re.compile(rf"(?:(?P<name>{LABELS})\.?|\[(?P<address>[0-9a-f:.]+)\])(?::(?P<port>[0-9]{{0,5}}))?")

ORIGIN = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>.+)")

PATTERN = re.compile(rf"\*\.{LABELS}")


@dataclass(frozen=True)
class Host:
    """A host: its name in lower case or IPv6 address without brackets, and its port if given."""

    name: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Parse `name`, `name:port`, `[address]` or `[address]:port`. Return None if the text is invalid."""
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
        """Whether the name always refers to the local machine."""
        if self.name in ("localhost", "::1") or self.name.endswith(".localhost"):
            return True
        try:
            return ipaddress.IPv4Address(self.name).is_loopback
        except ValueError:
            return False

    def matches(self, pattern: str) -> bool:
        """Whether the host matches a name or a pattern such as `*.example.org`."""
        return self.name == pattern or (pattern.startswith("*.") and self.name.endswith(pattern[1:]))


@dataclass(frozen=True)
class Origin:
    """The origin of a web page: its scheme, host and port."""

    scheme: str
    host: Host

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Parse `scheme://host` or `scheme://host:port`. Return None if the text is invalid, such as `null`."""
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
        """Whether this is the server's own origin if `host` is the Host header of the request.

        Schemes are not compared: behind a proxy that terminates TLS, the server's scheme differs from the browser's.
        Two servers cannot have the same host and port.
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
        examples = "e.g. studio.example.org, or a pattern, e.g. *.example.org or *"
        raise ValueError(
            f"must be a host name or address without scheme and port, {examples}, got {text[:MAX_SHOWN]!r}"
        )
    return host.name


def _parse_origin(text: str) -> str:
    origin = Origin.parse(text)
    if origin is None:
        raise ValueError(
            f"must be an origin, e.g. https://studio.example.org or http://localhost:5173, got {text[:MAX_SHOWN]!r}"
        )
    return str(origin)


class DoorSettings(BaseModel):
    """The host names that are answered, and the origins whose pages may use the server."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    allowed_hosts: tuple[Annotated[str, AfterValidator(_parse_host_pattern)], ...] = ()
    """Host names that the server answers to, without ports: `*.example.org` matches every name below example.org, `*`
    every name. Names of the local machine (localhost, 127.0.0.1, ::1) are always allowed. By default, all names are
    allowed if `auth` is `keys`. A proxy must forward the `Host` header of the request."""
    allowed_origins: tuple[Annotated[str, AfterValidator(_parse_origin)], ...] = ()
    """Origins other than the server's own whose pages may use it, e.g. `https://studio.example.org`. By default, all
    origins are allowed if `auth` is `keys`, because a page needs a key."""
