"""Which names the server answers to, and which web pages may make a browser send it something.

Without keys, whoever reaches the server may do everything, and every page that a browser on this machine shows can
reach it. The browser tells: `Origin` and `Sec-Fetch-Site` name the page, and `Host` the name that was looked up, which
is the page's own where that name was pointed at this machine afterwards (DNS rebinding). Programs send neither of the
first two.

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
"""Why a websocket is closed: RFC 6455, section 7.4.1."""
INSIDE = frozenset({"same-origin", "none"})
"""`Sec-Fetch-Site` of the server's own pages, and of an address that a person has opened."""


Answer = Callable[[Request, Exception], Awaitable[Response]]
"""Makes the response of an error."""


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
        if given and not (origin and host and origin.is_same_host(host)):
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
    return repr(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…") if values else "a request without one"
