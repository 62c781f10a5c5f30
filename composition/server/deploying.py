"""Deploying a configuration's applications, waiting for them, and taking them away.

On a Ray of our own they are deployed as `serve deploy` would: declaratively. On a cluster that others use too they are
deployed one by one, as `serve.run` would: a declarative configuration removes whatever an earlier one had deployed and
it does not name, sets back what an outside scaler has set, and is carried out again when Serve's controller restarts,
with applications that were deleted since; and the next `serve deploy` of somebody else would remove ours.
"""

import dataclasses
import re
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, cast

from pydantic import ValidationError
from ray import serve
from ray._common.utils import import_attr
from ray.exceptions import RayError
from ray.serve._private import api as private  # what `serve run` itself uses: Ray has no public equal for a file
from ray.serve._private import build_app as building
from ray.serve._private import utils as merging
from ray.serve.config import ProxyLocation
from ray.serve.context import _get_global_client  # pyright: ignore[reportPrivateUsage]
from ray.serve.exceptions import RayServeException
from ray.serve.schema import (
    ApplicationStatus,
    ApplicationStatusOverview,
    LoggingConfig,
    ServeApplicationSchema,
    ServeDeploySchema,
    ServeStatus,
)

from composition.server.ports import check_url
from services.errors import ConfigError

POLL_S = 0.5
HTTP_TIMEOUT_S = 60.0
"""Once all applications are running, until they are reached over HTTP."""
_BROKEN = (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY)

_ERROR_LINE = re.compile(r"^(\w+\.)*\w+: ", re.MULTILINE)
"""How the last lines of a traceback begin, e.g. `services.errors.ConfigError: `."""

Watch = Callable[[ServeStatus], None]


def deploy(config: ServeDeploySchema) -> None:
    """Begin to serve what a configuration says, and nothing else, on the Ray that this process is connected to.

    Raises ConfigError where Serve's proxy cannot listen as the file says.
    """
    try:
        _start_serve(config).deploy_apps(config)
    except (RayServeException, RayError, TimeoutError) as error:
        raise ConfigError(f"http_options: Serve could not be started: {error}", param="http_options") from error


def deploy_beside(config: ServeDeploySchema, cluster: str, own: Collection[str] = ()) -> None:
    """Begin to serve what a configuration says, and leave what else is served there as it is.

    Args:
        config: what is to be served.
        cluster: its address, for messages.
        own: names of applications there that are ours, and may be replaced.

    Raises:
        ConfigError: a name or a route is taken, or the proxies that run listen elsewhere, or an application cannot be
            built.
    """
    client = cast("Any", _get_global_client)(raise_if_no_controller_running=False)
    if client is not None:
        check_conflicts(config, client.get_serve_details(), cluster, own)
    built = [build_application(application, config.logging_config) for application in config.applications]
    try:
        _start_serve(config).deploy_applications(
            built, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False
        )
    except (RayServeException, RayError, TimeoutError) as error:
        delete_applications(config)  # what of it is there
        raise ConfigError(f"address: {cluster}: {error}", param="address") from error


def change_beside(new: ServeDeploySchema, old: ServeDeploySchema, cluster: str) -> None:
    """Deploy the applications of `new` that differ from those of `old`, which are deployed, and delete those it lacks.

    Raises ConfigError as `deploy_beside` does.
    """
    before = {application.name: application for application in old.applications}
    changed = [application for application in new.applications if before.get(application.name) != application]
    deploy_beside(new.model_copy(update={"applications": changed}), cluster, own=list(before))
    gone = before.keys() - {application.name for application in new.applications}
    delete_applications(old.model_copy(update={"applications": [before[name] for name in gone]}))


def delete_applications(config: ServeDeploySchema) -> str | None:
    """Delete a configuration's applications and no others. Return what did not go, if anything did not."""
    client = cast("Any", _get_global_client)(raise_if_no_controller_running=False)
    if client is None:
        return None
    try:
        client.delete_apps([application.name for application in config.applications])
    except (RayServeException, RayError, TimeoutError) as error:
        return str(error)
    return None


def check_conflicts(config: ServeDeploySchema, there: dict[str, Any], cluster: str, own: Collection[str] = ()) -> None:
    """Raise ConfigError where applications of others, or their proxies, are in the way.

    Args:
        config: what is to be served.
        there: what Serve's controller tells of itself.
        cluster: its address, for messages.
        own: names of applications there that are ours.
    """
    asked, listens = config.http_options, there["http_options"]
    ours, theirs = f"{asked.host}:{asked.port}", f"{listens['host']}:{listens['port']}"
    if ours != theirs:
        raise ConfigError(
            f"http_options: {ours} is asked for, and the proxies of Serve on {cluster} listen on {theirs}; give "
            f"--host {listens['host']} --port {listens['port']}, or use a cluster where Serve does not run yet",
            param="http_options",
        )
    taken: dict[str, dict[str, Any]] = {
        name: application for name, application in there["applications"].items() if name not in own
    }
    routes = {route: name for name, application in taken.items() for route in _list_routes(application)}
    for application in config.applications:
        if application.name in taken:
            raise ConfigError(
                f"applications: somebody serves an application {application.name!r} on {cluster}; rename yours, or "
                f"delete that one first (ray.serve.delete({application.name!r}))",
                param="applications",
            )
        if application.route_prefix in routes:
            raise ConfigError(
                f"applications: {application.name} wants the route {application.route_prefix}, and on {cluster} the "
                f"application {routes[application.route_prefix]!r} has it",
                param="applications",
            )


def _list_routes(application: dict[str, Any]) -> Iterable[str]:
    """The route that an application has, and the one that it will have once it is built."""
    config: dict[str, Any] = application.get("deployed_app_config") or {}
    promised = config.get("route_prefix")
    return [route for route in (application.get("route_prefix"), promised) if route]


def _start_serve(config: ServeDeploySchema) -> Any:
    http = config.http_options.model_dump()
    return cast("Any", private).serve_start(
        http_options=http,
        proxy_location=ProxyLocation(config.proxy_location),
        controller_options=config.controller_options,
    )


def build_application(application: ServeApplicationSchema, logging: LoggingConfig | None = None) -> Any:
    """An application as `serve.run` deploys it, with the options that the file gives its deployments.

    Args:
        application: what the file says.
        logging: what the file says for all of them.

    Raises:
        ConfigError: the file and the application do not fit, or the application asks for what needs the whole of Serve.
    """
    name, given = application.name, application.model_dump(exclude_unset=True)
    told = cast("Any", application)  # its dictionaries have no types
    if told.autoscaling_policy:
        raise ConfigError(f"{name}: autoscaling_policy: on a cluster of others it is had with `serve deploy` only")
    options = {one.pop("name"): one for one in given.get("deployments", [])}
    try:
        bound = cast("Any", private).call_user_app_builder_with_args_if_necessary(
            import_attr(application.import_path), told.args
        )
        built = cast("Any", building).build_app(
            bound,
            name=name,
            route_prefix=application.route_prefix,
            logging_config=application.logging_config or logging,
            external_scaler_enabled=application.external_scaler_enabled,
        )
        if unknown := options.keys() - {deployment.name for deployment in built.deployments}:
            raise ConfigError(f"{name}: deployments: there is no {', '.join(sorted(unknown))}")
        deployments = [_apply_options(one, told.runtime_env, options.get(one.name, {})) for one in built.deployments]
    except (ImportError, AttributeError, TypeError, ValueError, ValidationError, RayServeException) as error:
        raise ConfigError(f"{name}: {error}") from error
    return dataclasses.replace(built, deployments=deployments)


def _apply_options(deployment: Any, environment: dict[str, Any], options: dict[str, Any]) -> Any:
    """A deployment with other options, and with the application's environment below its own."""
    actor: dict[str, Any] = dict(options.get("ray_actor_options") or deployment.ray_actor_options or {})
    if environment or actor.get("runtime_env"):
        own: dict[str, Any] = actor.get("runtime_env") or {}
        actor["runtime_env"] = cast("Any", merging).override_runtime_envs_except_env_vars(environment, own)
    return deployment.options(**{**options, "ray_actor_options": actor})


def wait_until_ready(
    config: ServeDeploySchema,
    url: str,
    stop: threading.Event,
    watch: Watch,
    ask: Callable[[], ServeStatus] = serve.status,
) -> str | None:
    """Return None when all is healthy and answers over HTTP, or a stop was asked for; else what failed.

    Args:
        config: what is served.
        url: where.
        stop: set when nobody waits any more.
        watch: is given each status.
        ask: tells the status.
    """
    names = {application.name for application in config.applications}
    left = int(HTTP_TIMEOUT_S / POLL_S)
    while not stop.wait(POLL_S):
        try:
            status = ask()
        except RayError:  # Serve's controller is being replaced
            continue
        watch(status)
        found = [status.applications[name] for name in names if name in status.applications]
        if broken := [one for one in found if one.status in _BROKEN]:
            return "\n".join(describe_failure(one) for one in broken)
        if len(found) < len(names) or any(a.status != ApplicationStatus.RUNNING for a in found):
            continue
        silent = [answer for page in list_health_urls(config, url) if (answer := check_url(page))]
        if not silent:
            return None
        left -= 1
        if left <= 0:
            return f"{url} does not answer: {silent[0]}"
    return None


def list_statuses(config: ServeDeploySchema, status: ServeStatus) -> dict[str, str]:
    """The status of each deployment of a configuration, in Serve's words."""
    names = [application.name for application in config.applications]
    found = [status.applications[name].deployments for name in names if name in status.applications]
    return {name: overview.status.value for deployments in found for name, overview in deployments.items()}


def describe_failure(application: ApplicationStatusOverview) -> str:
    """What Serve says of an application that is not well, and of each of its deployments that is not."""
    reasons = [deployment.message for deployment in application.deployments.values() if deployment.message]
    return "\n".join(shorten_traceback(message) for message in [application.message, *reasons])


def shorten_traceback(message: str) -> str:
    """Keep of a message with a traceback what stands before it, and the error; the whole is in the logs."""
    before, traceback, after = message.partition("Traceback (most recent call last):")
    errors = list(_ERROR_LINE.finditer(after))
    return f"{before.strip()}\n{after[errors[-1].start() :].strip()}".strip() if traceback and errors else message


def list_health_urls(config: ServeDeploySchema, url: str) -> Sequence[str]:
    """What each application that is reached over HTTP has to answer."""
    listens = config.proxy_location != ProxyLocation.Disabled
    prefixes = [application.route_prefix for application in config.applications if listens]
    return [f"{url}{prefix.rstrip('/')}/healthz" for prefix in prefixes if prefix is not None]
