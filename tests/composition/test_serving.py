"""What stands in the way of a configuration on a cluster that others use too, and when a server is ready."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from ray.exceptions import RayError
from ray.serve.schema import (
    ApplicationStatus,
    ApplicationStatusOverview,
    DeploymentStatus,
    DeploymentStatusOverview,
    DeploymentStatusTrigger,
    ServeDeploySchema,
    ServeStatus,
)

from composition.serving import ANSWERS_WITHIN_S, POLL_S, health_pages, need_room, wait_until_ready
from services.errors import ConfigError

CLUSTER = "10.0.0.1:6379"


def config(host: str = "0.0.0.0", port: int = 8000, **routes: str | None) -> ServeDeploySchema:
    applications = [
        {"name": name.replace("_", "-"), "route_prefix": route, "import_path": "a:b"} for name, route in routes.items()
    ]
    return ServeDeploySchema.model_validate(
        {"http_options": {"host": host, "port": port}, "applications": applications}
    )


def there(**applications: dict[str, Any]) -> dict[str, Any]:
    return {"http_options": {"host": "0.0.0.0", "port": 8000}, "applications": applications}


def test_there_is_room_beside_applications_of_others() -> None:
    others = there(theirs={"route_prefix": "/theirs"}, models={"route_prefix": None})
    need_room(config(front="/", wan=None), others, CLUSTER)
    need_room(config(front="/", wan=None), there(), CLUSTER)


@pytest.mark.parametrize(
    ("ours", "words"),
    [
        (
            config(host="127.0.0.1", port=8001, front="/"),
            "http_options: 127.0.0.1:8001 is asked for, and the proxies of Serve on 10.0.0.1:6379 listen on "
            "0.0.0.0:8000; give --host 0.0.0.0 --port 8000, or use a cluster where Serve does not run yet",
        ),
        (
            config(theirs="/"),
            "applications: somebody serves an application 'theirs' on 10.0.0.1:6379; rename yours, or delete that one "
            "first (ray.serve.delete('theirs'))",
        ),
        (
            config(wan=None, front="/theirs"),
            "applications: front wants the route /theirs, and on 10.0.0.1:6379 the application 'theirs' has it",
        ),
        (
            config(wan=None, front="/soon"),
            "applications: front wants the route /soon, and on 10.0.0.1:6379 the application 'building' has it",
        ),
    ],
)
def test_what_is_in_the_way(ours: ServeDeploySchema, words: str) -> None:
    building = {"route_prefix": None, "deployed_app_config": {"route_prefix": "/soon"}}
    with pytest.raises(ConfigError) as caught:
        need_room(ours, there(theirs={"route_prefix": "/theirs"}, building=building), CLUSTER)
    assert caught.value.message == words


def test_the_pages_that_must_answer() -> None:
    pages = health_pages(config(front="/", wan=None, other="/other"), "http://127.0.0.1:8000")
    assert pages == ["http://127.0.0.1:8000/healthz", "http://127.0.0.1:8000/other/healthz"]


class Hurried(threading.Event):
    """A stop for which nobody waits; it is set when `turns` have passed."""

    def __init__(self, turns: int = 10_000) -> None:
        super().__init__()
        self.turns = turns

    def wait(self, timeout: float | None = None) -> bool:
        self.turns -= 1
        return self.turns < 0


def status(**applications: ApplicationStatus) -> ServeStatus:
    """Each application has one deployment, named as it is."""
    broken = (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY)
    told: dict[str, ApplicationStatusOverview] = {}
    for name, state in applications.items():
        message = f"{name} has no weights" if state in broken else ""
        health = DeploymentStatus.HEALTHY if state == ApplicationStatus.RUNNING else DeploymentStatus.UPDATING
        deployment = DeploymentStatusOverview(health, DeploymentStatusTrigger.UNSPECIFIED, {}, message)
        told[name] = ApplicationStatusOverview(state, f"{name} is {state.value}", 0.0, {name: deployment})
    return ServeStatus(applications=told)


RUNNING, DEPLOYING = ApplicationStatus.RUNNING, ApplicationStatus.DEPLOYING


class Pages(BaseHTTPRequestHandler):
    """Answers 503, and 200 from the third request on."""

    def do_GET(self) -> None:
        asked.append(self.path)
        self.send_response(503 if len(asked) < 3 else 200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        pass


asked: list[str] = []


@pytest.fixture
def url() -> Iterator[str]:
    asked.clear()
    with ExitStack() as stack:
        server = stack.enter_context(HTTPServer(("127.0.0.1", 0), Pages))
        thread = threading.Thread(target=lambda: server.serve_forever(0.01))
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.shutdown)
        yield f"http://127.0.0.1:{server.server_port}"


def wait(
    statuses: Sequence[ServeStatus | RayError], url: str, stop: threading.Event | None = None
) -> tuple[str | None, int]:
    """Wait for a front and a model; return what failed and how many statuses were shown. The last one stays."""
    shown: list[ServeStatus] = []
    left = list(statuses)

    def ask() -> ServeStatus:
        told = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(told, RayError):
            raise told
        return told

    failure = wait_until_ready(config(front="/", wan=None), url, stop or Hurried(), shown.append, ask)
    return failure, len(shown)


def test_a_server_is_ready_when_all_is_healthy_and_it_has_answered(url: str) -> None:
    begun = [status(), RayError("the controller is being replaced"), status(front=RUNNING)]
    loading = [status(front=RUNNING, wan=DEPLOYING), status(front=RUNNING, wan=RUNNING, theirs=DEPLOYING)]
    assert wait([*begun, *loading], url) == (None, 6)
    assert asked == ["/healthz"] * 3


def test_a_model_that_cannot_be_loaded(url: str) -> None:
    failed = status(front=DEPLOYING, wan=ApplicationStatus.DEPLOY_FAILED)
    assert wait([status(), failed], url) == ("wan is DEPLOY_FAILED\nwan has no weights", 2)
    assert asked == []


def test_others_may_fail(url: str) -> None:
    theirs = status(front=RUNNING, wan=RUNNING, theirs=ApplicationStatus.UNHEALTHY)
    assert wait([theirs], url)[0] is None


def test_nobody_waits_any_more(url: str) -> None:
    assert wait([status()], url, Hurried(turns=4)) == (None, 4)


def test_a_server_that_never_answers() -> None:
    with HTTPServer(("127.0.0.1", 0), Pages) as closed:
        url = f"http://127.0.0.1:{closed.server_port}"
    failure, shown = wait([status(front=RUNNING, wan=RUNNING)], url)
    assert failure == f"{url} does not answer: [Errno 111] Connection refused"
    assert shown == ANSWERS_WITHIN_S / POLL_S
