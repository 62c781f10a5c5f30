"""The servers that a browser visits, each in a thread: the front door without Ray, and an attacker's pages."""

import html
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from composition.http.ingress import Ingress, IngressSettings
from composition.media.encode import encode_png
from composition.records.artifacts import Artifacts, ArtifactSettings
from composition.records.store import EventDraft, Lease, Page, Store, make_id
from composition.records.tables import Job
from tests.composition.deployed import TRANSPORT, Cluster, Hosted
from tests.composition.serving import noise

CLIP = Path(__file__).parents[2] / "clients" / "media" / "bouncing-triangle.mp4"
WAIT_S = 30.0


@dataclass(frozen=True)
class Seen:
    """A received request and the status of its response."""

    method: str
    path: str
    host: str
    status: int


class Watched:
    """An ASGI application that records its requests."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._changed = threading.Condition()
        self._seen: list[Seen] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        async def noting(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.accept", "websocket.close"):
                self._note(scope, message)
            await send(message)

        await self._app(scope, receive, noting)

    def _note(self, scope: Scope, message: Message) -> None:
        host = dict(scope["headers"]).get(b"host", b"").decode()
        query = f"?{scope['query_string'].decode()}" if scope["query_string"] else ""
        status = message.get("status", 403 if message["type"] == "websocket.close" else 101)
        with self._changed:
            self._seen.append(Seen(scope.get("method", "WEBSOCKET"), scope["path"] + query, host, status))
            self._changed.notify_all()

    def seen(self, until: Callable[[list[Seen]], bool] = lambda seen: True) -> list[Seen]:
        """Return the recorded requests as soon as `until` accepts them."""
        with self._changed:
            assert self._changed.wait_for(lambda: until(self._seen), WAIT_S), self._seen
            return list(self._seen)


class Running:
    """A server on its own port inside the `with` block."""

    def __init__(self, app: ASGIApp) -> None:
        self.watched = Watched(app)
        self._server = uvicorn.Server(uvicorn.Config(self.watched, log_level="critical", timeout_graceful_shutdown=1))
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]})

    def __enter__(self) -> Self:
        self._thread.start()  # requests wait at the socket until it is ready
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    def url(self, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}"


class Target(Running):
    """The front door with `auth: none`, as on a laptop, with a completed job and a queued one."""

    def __init__(self, folder: Path) -> None:
        database, artifacts = f"sqlite:///{folder / 'store.db'}", ArtifactSettings(url=str(folder / "artifacts"))
        settings = IngressSettings(database=database, artifacts=artifacts, auth="none")
        cluster = Cluster(folder).host_models({"text-to-video": Hosted("text-to-video")}).host_graphs("single")
        super().__init__(Ingress(settings, cluster.served, TRANSPORT).api())
        self.store = Store(database)
        kept = Artifacts(artifacts)
        kept.put("clip.mp4", CLIP.read_bytes())
        kept.put("picture.png", encode_png(noise(0)))
        self.video = self._job(created_at=1.0)
        held = self.store.claim_job(60.0)
        assert held
        lease = Lease(held.id, held.fence)
        results = {"video": "clip.mp4", "thumbnail": "picture.png"}
        self.store.update_job(lease, {"results": results}, [EventDraft("fact", {"name": "seed", "value": 7})])
        self.store.end_job(lease, "completed")
        self.waiting = self._job(created_at=2.0)

    def _job(self, created_at: float) -> str:
        params = {"prompt": "secret", "seed": 7}
        job = Job(id=make_id("video"), owner="", model="text-to-video", params=params, media={}, created_at=created_at)
        return self.store.create_job(job, 99).id

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self.store.close()

    def state(self) -> Mapping[str, object]:
        """Return everything that a request could change."""
        jobs, _ = self.store.list_jobs("", Page(100))
        files, _ = self.store.list_files("", Page(100))
        return {
            "jobs": [(job.id, job.status, job.cancel_requested, job.deleted, job.last_event) for job in jobs],
            "files": [file.id for file in files],
        }


class Attacker(Running):
    """An attacker's site: an empty page for scripts, and pages that submit a form or follow a link automatically."""

    def __init__(self) -> None:
        routes = [Route("/", _empty), Route("/form", _form), Route("/link", _link)]
        super().__init__(Starlette(routes=routes))


async def _empty(_: Request) -> HTMLResponse:
    return HTMLResponse("<!doctype html><title>a stranger's page</title><body></body>")


async def _form(request: Request) -> HTMLResponse:
    """Return a form that submits itself to `to`, encoded as `enctype`."""
    to, enctype = (html.escape(request.query_params[name]) for name in ("to", "enctype"))
    fields = "".join(
        f'<input name="{name}" value="{value}">' for name, value in (("model", "text-to-video"), ("prompt", "ordered"))
    )
    form = f'<form method="post" action="{to}" enctype="{enctype}">{fields}</form>'
    return HTMLResponse(f"<!doctype html><body>{form}<script>document.forms[0].submit()</script></body>")


async def _link(request: Request) -> HTMLResponse:
    """Return a page that follows a link to `to` immediately."""
    to = html.escape(request.query_params["to"])
    return HTMLResponse(f'<!doctype html><body><a href="{to}">x</a><script>document.links[0].click()</script></body>')
