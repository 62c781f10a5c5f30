"""Rejects requests for other hosts, and requests that pages of other sites make a browser send.

Without API keys anyone who can reach the server may use it, and every page open in a browser on this machine can reach
it. The browser identifies the page in `Origin` and `Sec-Fetch-Site`, and the host name in `Host`. The host name also
reveals DNS rebinding, where a site points its own name at this machine. Programs other than browsers send neither
`Origin` nor `Sec-Fetch-Site`.

Sources: RFC 9110, section 7.2; https://fetch.spec.whatwg.org/#origin-header; https://www.w3.org/TR/fetch-metadata/
"""

from collections.abc import Awaitable, Callable, Collection

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from composition.configuration.origins import MAX_SHOWN, DoorSettings, Host, Origin
from services.errors import Forbidden

POLICY_VIOLATION = 1008
"""Close code of a rejected websocket: RFC 6455, section 7.4.1."""
OWN_SITE = frozenset({"same-origin", "none"})
"""Values of `Sec-Fetch-Site` for requests by the server's own pages, and for addresses opened by the user."""


ErrorHandler = Callable[[Request, Exception], Awaitable[Response]]
"""Builds the response for an error."""


class Door:
    """ASGI middleware that rejects requests by their `Host`, `Origin` and `Sec-Fetch-Site` headers.

    Streamed responses pass through unbuffered.

    Args:
        app: the application to protect.
        settings: allowed hosts and origins.
        handle_error: builds the response of a rejected request.
        has_keys: whether the application requires API keys.
    """

    def __init__(self, app: ASGIApp, settings: DoorSettings, handle_error: ErrorHandler, *, has_keys: bool) -> None:
        self._app = app
        self._handle_error = handle_error
        self._hosts = settings.allowed_hosts
        self._origins = frozenset(settings.allowed_origins)
        self._checks_hosts = "*" not in self._hosts and (bool(self._hosts) or not has_keys)
        self._checks_origins = bool(self._origins) or not has_keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            try:
                self._check_headers(Headers(scope=scope))
            except Forbidden as error:
                await self._reject(error, scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check_headers(self, headers: Headers) -> None:
        """Raise Forbidden if the host or the origin is not allowed."""
        values = headers.getlist("host")
        host = Host.parse(values[0]) if len(values) == 1 else None
        if self._checks_hosts and not (host and self._is_allowed(host)):
            raise Forbidden(
                f"Host: {_quote_values(values)} is not an allowed host; to allow it, add it to allowed_hosts in the "
                "configuration",
                param="Host",
            )
        if self._checks_origins:
            self._check_origin(headers, host)

    def _is_allowed(self, host: Host) -> bool:
        return host.is_loopback or any(host.matches(pattern) for pattern in self._hosts)

    def _check_origin(self, headers: Headers, host: Host | None) -> None:
        """Raise Forbidden if a page of another site caused the request.

        This includes GET requests: a page that cannot read a response can still display it, time it and keep the
        server busy. It includes links from other sites, because a page can follow its own links by script.

        For a host that is neither this machine nor reached by https, browsers omit `Sec-Fetch-Site`; there, a page of
        another site could still display a picture whose id it knows.
        """
        values = headers.getlist("origin")
        origin = Origin.parse(values[0]) if len(values) == 1 else None
        if origin and str(origin) in self._origins:
            return
        if values and not (origin and host and origin.is_same_host(host)):
            raise Forbidden(
                f"Origin: {_quote_values(values)} is not an allowed origin; to allow its pages, add it to "
                "allowed_origins in the configuration",
                param="Origin",
            )
        sites = set(headers.getlist("sec-fetch-site")) - OWN_SITE
        if sites:
            raise Forbidden(
                f"Sec-Fetch-Site: requests and links from pages of another origin ({_quote_values(sites)}) are not "
                "allowed; open the address directly. A page whose origin is in allowed_origins in the configuration "
                "must send its Origin (crossorigin)",
                param="Sec-Fetch-Site",
            )

    async def _reject(self, error: Forbidden, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})
            return
        response = await self._handle_error(Request(scope), error)
        await response(scope, receive, send)


def _quote_values(values: Collection[str]) -> str:
    """Return the values of a header for a message: quoted, and cut to MAX_SHOWN characters."""
    text = ", ".join(values)
    return (
        repr(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…") if values else "a request without this header"
    )
