"""Which names the server answers to, and which web pages may make a browser send it something.

Without keys, whoever reaches the server may do everything, and every page that a browser on this machine shows can
reach it. The browser tells: `Origin` and `Sec-Fetch-Site` name the page, and `Host` the name that was looked up, which
is the page's own where that name was pointed at this machine afterwards (DNS rebinding). Programs send neither of the
first two.

Sources: RFC 9110, section 7.2; https://fetch.spec.whatwg.org/#origin-header; https://www.w3.org/TR/fetch-metadata/
"""

import ipaddress
import re
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from services.errors import Forbidden

SHOWN = 60
"""Characters of a header that a message repeats."""
MAX_HOST = 300
"""Characters of a host with its port."""
POLICY_VIOLATION = 1008
"""Why a websocket is closed: RFC 6455, section 7.4.1."""
INSIDE = frozenset({"same-origin", "none"})
"""`Sec-Fetch-Site` of the server's own pages, and of an address that a person has opened."""
DEFAULT_PORTS = {"http": 80, "https": 443}

LABELS = r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*"
HOST = re.compile(rf"(?:(?P<name>{LABELS})\.?|\[(?P<address>[0-9a-f:.]+)\])(?::(?P<port>[0-9]{{0,5}}))?")
ORIGIN = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>.+)")
PATTERN = re.compile(rf"\*\.{LABELS}")

Answer = Callable[[Request, Exception], Awaitable[Response]]
"""Makes the response of an error."""


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

    def is_of(self, host: Host) -> bool:
        """Whether it is the origin of the server that was asked for as `host`.

        The scheme is not compared: behind a proxy that ends TLS the server sees another one than the browser, and no
        two servers have the same host and port.
        """
        web = self.scheme in DEFAULT_PORTS
        return web and self.host.name == host.name and self.port == (host.port or DEFAULT_PORTS[self.scheme])


def _host_pattern(text: str) -> str:
    lower = text.lower()
    if lower == "*" or PATTERN.fullmatch(lower):
        return lower
    bare = f"[{lower}]" if lower.count(":") > 1 and not lower.startswith("[") else lower
    host = Host.parse(bare)
    if host is None or host.port is not None or bare.endswith(":"):
        examples = "as in studio.example.org, or a pattern, as in *.example.org, or *"
        raise ValueError(f"{text[:SHOWN]!r} must be a name or an address without scheme and port, {examples}")
    return host.name


def _origin(text: str) -> str:
    origin = Origin.parse(text)
    if origin is None:
        raise ValueError(
            f"{text[:SHOWN]!r} must be an origin, as in https://studio.example.org or http://localhost:5173"
        )
    return str(origin)


class DoorSettings(BaseModel):
    """Which hosts and which pages are let in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    allowed_hosts: tuple[Annotated[str, AfterValidator(_host_pattern)], ...] = ()
    """Names that the server answers to, without ports: `*.example.org` is every name below example.org, and `*` every
    name. Names of the machine itself (localhost, 127.0.0.1, ::1) are always answered. With keys and no names given, all
    are. A proxy must pass on the `Host` that it was asked for, or these names say nothing."""
    allowed_origins: tuple[Annotated[str, AfterValidator(_origin)], ...] = ()
    """Other origins whose pages may use the server, as `https://studio.example.org`; no page of another may. With keys
    and no origins given, all may: they have no key."""


class Door:
    """Refuses requests to other hosts and requests from pages of other sites, before anything else sees them.

    It is plain ASGI: what streams through it is not held back.

    Args:
        app: what is behind it.
        settings: see DoorSettings.
        has_keys: whether whoever is let in needs a key.
        answer: makes the response of a refusal.
    """

    def __init__(self, app: ASGIApp, settings: DoorSettings, answer: Answer, *, has_keys: bool) -> None:
        self._app = app
        self._answer = answer
        self._hosts = settings.allowed_hosts
        self._origins = frozenset(settings.allowed_origins)
        self._checks_hosts = "*" not in self._hosts and (bool(self._hosts) or not has_keys)
        self._checks_pages = bool(self._origins) or not has_keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            try:
                self._check(Headers(scope=scope))
            except Forbidden as error:
                await self._refuse(error, scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, headers: Headers) -> None:
        """Raises Forbidden."""
        given = headers.getlist("host")
        host = Host.parse(given[0]) if len(given) == 1 else None
        if self._checks_hosts and not (host and self._answers_to(host)):
            raise Forbidden(
                f"Host: this server does not answer to {_shown(given)}; if it should, name it in allowed_hosts in the "
                "configuration",
                param="Host",
            )
        if self._checks_pages:
            self._check_page(headers, host)

    def _answers_to(self, host: Host) -> bool:
        return host.is_loopback or any(host.matches(pattern) for pattern in self._hosts)

    def _check_page(self, headers: Headers, host: Host | None) -> None:
        """Raise Forbidden for what a page of another site has sent, or made the browser fetch.

        Reads too: what a page cannot read it can still show, measure and keep the server busy with. Links on other
        sites too: a page can follow its own without a person. In a name that is neither of this machine nor asked for
        by https browsers do not say `Sec-Fetch-Site`, and a page could show a picture whose id it knew.
        """
        given = headers.getlist("origin")
        origin = Origin.parse(given[0]) if len(given) == 1 else None
        if origin and str(origin) in self._origins:
            return
        if given and not (origin and host and origin.is_of(host)):
            raise Forbidden(
                f"Origin: a page of {_shown(given)} may not use this server; if it should, name it in allowed_origins "
                "in the configuration",
                param="Origin",
            )
        sites = set(headers.getlist("sec-fetch-site")) - INSIDE
        if sites:
            raise Forbidden(
                f"Sec-Fetch-Site: a page of another origin ({_shown(sites)}) may not use this server, nor link to it; "
                "open the address by itself. A page whose origin is in allowed_origins in the configuration must send "
                "it (crossorigin)",
                param="Sec-Fetch-Site",
            )

    async def _refuse(self, error: Forbidden, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})
            return
        response = await self._answer(Request(scope), error)
        await response(scope, receive, send)


def _shown(values: Collection[str]) -> str:
    """What a header says, shortened."""
    text = ", ".join(values)
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}…") if values else "a request without one"
