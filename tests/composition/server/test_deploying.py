"""Conflicts on a shared cluster, and waiting until a server is ready."""

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
    LoggingConfig,
    ServeApplicationSchema,
    ServeDeploySchema,
    ServeStatus,
)

from composition.server.deploying import (
    HTTP_TIMEOUT_S,
    POLL_S,
    build_application,
    check_conflicts,
    list_health_urls,
    shorten_traceback,
    wait_until_ready,
)
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
    check_conflicts(config(front="/", wan=None), others, CLUSTER)
    check_conflicts(config(front="/", wan=None), there(), CLUSTER)


@pytest.mark.parametrize(
    ("ours", "words"),
    [
        (
            config(host="127.0.0.1", port=8001, front="/"),
            "http_options: must be 0.0.0.0:8000, where the proxies of Serve on 10.0.0.1:6379 listen, got "
            "127.0.0.1:8001; give --host 0.0.0.0 --port 8000, or use a cluster that does not run Serve yet",
        ),
        (
            config(theirs="/"),
            "applications: 'theirs' is already deployed on 10.0.0.1:6379; rename yours, or delete that one "
            "first (ray.serve.delete('theirs'))",
        ),
        (
            config(wan=None, front="/theirs"),
            "applications: the route /theirs of front is already used by the application 'theirs' on 10.0.0.1:6379",
        ),
        (
            config(wan=None, front="/soon"),
            "applications: the route /soon of front is already used by the application 'building' on 10.0.0.1:6379",
        ),
    ],
)
def test_what_is_in_the_way(ours: ServeDeploySchema, words: str) -> None:
    building = {"route_prefix": None, "deployed_app_config": {"route_prefix": "/soon"}}
    with pytest.raises(ConfigError) as caught:
        check_conflicts(ours, there(theirs={"route_prefix": "/theirs"}, building=building), CLUSTER)
    assert caught.value.message == words


def application(**fields: Any) -> ServeApplicationSchema:
    told = {"name": "tiny", "route_prefix": "/tiny", "import_path": "tests.cluster.tiny:front", **fields}
    return ServeApplicationSchema.model_validate(told)


def test_an_application_is_built_as_the_file_says() -> None:
    options = {
        "name": "front",
        "num_replicas": 2,
        "max_ongoing_requests": 7,
        "backpressure_config": {"status_code": 429, "retry_after_s": 5},
        "ray_actor_options": {"num_cpus": 0.5, "runtime_env": {"env_vars": {"A": "1", "B": "1"}}},
    }
    environment = {"env_vars": {"B": "2", "C": "2"}}
    built = build_application(
        application(deployments=[options], runtime_env=environment), LoggingConfig(log_level="WARNING")
    )
    assert (built.name, built.route_prefix, built.ingress_deployment_name) == ("tiny", "/tiny", "front")
    assert built.logging_config.log_level == "WARNING"
    (front,) = built.deployments
    assert (front.num_replicas, front.max_ongoing_requests) == (2, 7)
    assert front.ray_actor_options == {
        "num_cpus": 0.5,
        "runtime_env": {"env_vars": {"A": "1", "B": "1", "C": "2"}},
    }


def test_what_the_file_does_not_say_stays_as_the_application_has_it() -> None:
    built = build_application(application(import_path="tests.cluster.tiny:back", route_prefix=None))
    assert built.route_prefix is None
    assert built.deployments[0].ray_actor_options == {"num_cpus": 0.01}


def test_an_application_scales_its_deployments() -> None:
    scaling = {"min_replicas": 1, "max_replicas": 4}
    built = build_application(application(deployments=[{"name": "front", "autoscaling_config": scaling}]))
    assert built.deployments[0]._deployment_config.autoscaling_config.max_replicas == 4


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"deployments": [{"name": "wan"}]}, "tiny: deployments: there is no wan"),
        ({"import_path": "tests.cluster.tiny:film"}, "tiny: module 'tests.cluster.tiny' has no attribute 'film'"),
        ({"import_path": "nowhere.at.all:film"}, "tiny: No module named 'nowhere'"),
        (
            {"autoscaling_policy": {"policy_function": "a:b"}},
            "tiny: autoscaling_policy: not supported on a shared cluster",
        ),
    ],
)
def test_an_application_that_cannot_be_built(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_application(application(**fields))
    assert caught.value.message.startswith(words)


def test_the_pages_that_must_answer() -> None:
    pages = list_health_urls(config(front="/", wan=None, other="/other"), "http://127.0.0.1:8000")
    assert pages == ["http://127.0.0.1:8000/healthz", "http://127.0.0.1:8000/other/healthz"]


class Hurried(threading.Event):
    """A stop event that does not block, and is set after `turns` waits."""

    def __init__(self, turns: int = 10_000) -> None:
        super().__init__()
        self.turns = turns

    def wait(self, timeout: float | None = None) -> bool:
        self.turns -= 1
        return self.turns < 0


def status(**applications: ApplicationStatus) -> ServeStatus:
    """A status in which each application has one deployment of the same name."""
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
    """A server that answers 503 twice, then 200."""

    def do_GET(self) -> None:
        asked.append(self.path)
        self.send_response(503 if len(asked) < 3 else 200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
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
    """Wait for a front door and a model, and return the failure and the number of statuses. The last status repeats."""
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


SAID = """\
The deployment failed to start 3 times in a row. See controller logs for details. Error:
Traceback (most recent call last):
  File "controller.py", line 1, in get
ray.exceptions.RayTaskError(ConfigError): \x1b[36mray::build_serve_application()\x1b[39m (pid=14195, ip=127.0.0.1)
  File "application_state.py", line 1843, in build_serve_application
    raise RuntimeError(err_str) from None
RuntimeError: Traceback (most recent call last):
  File "weights.py", line 93, in load
services.errors.ConfigError: weights: there is no /models/wan
name another folder
"""


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            SAID,
            "The deployment failed to start 3 times in a row. See controller logs for details. Error:\n"
            "services.errors.ConfigError: weights: there is no /models/wan\nname another folder",
        ),
        ("Traceback (most recent call last):\nValueError: no", "ValueError: no"),
        ("Traceback (most recent call last):\n  cut off", "Traceback (most recent call last):\n  cut off"),
        ("A replica's health check failed: wait", "A replica's health check failed: wait"),
    ],
)
def test_of_a_traceback_the_error_is_told(message: str, told: str) -> None:
    assert shorten_traceback(message) == told


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
    assert shown == HTTP_TIMEOUT_S / POLL_S
