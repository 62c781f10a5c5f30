"""Deploying the applications of a configuration, waiting until they are ready, and deleting them.

On our own Ray they are deployed declaratively, like `serve deploy`. On a shared cluster they are deployed one by one,
like `serve.run`, because a declarative configuration removes applications of earlier ones that it does not name, resets
the replicas set by an external scaler, and is applied again when Serve's controller restarts, including applications
deleted since. Also, another user's `serve deploy` would remove our applications.
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
"""Seconds that running applications may take to answer over HTTP."""
_BROKEN = (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY)

_ERROR_LINE = re.compile(r"^(\w+\.)*\w+: ", re.MULTILINE)
"""Start of the last lines of a traceback, e.g. `services.errors.ConfigError: `."""

Watch = Callable[[ServeStatus], None]


def deploy(config: ServeDeploySchema) -> None:
    """Deploy a configuration, and nothing else, on the Ray that this process is connected to. Returns at once.

    Raises ConfigError if Serve's proxy cannot listen on the configured address.
    """
    try:
        _start_serve(config).deploy_apps(config)
    except (RayServeException, RayError, TimeoutError) as error:
        raise ConfigError(f"http_options: Serve could not be started: {error}", param="http_options") from error


def deploy_on_cluster(config: ServeDeploySchema, cluster: str, own: Collection[str] = ()) -> None:
    """Deploy a configuration on a shared cluster without changing other applications. Returns at once.

    Args:
        config: the configuration.
        cluster: address of the cluster, for messages.
        own: names of our applications on the cluster, which may be replaced.

    Raises:
        ConfigError: a name or a route is in use, Serve's proxies listen on another address, or an application cannot
            be built.
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
        delete_applications(config)  # those that were already deployed
        raise ConfigError(f"address: {cluster}: {error}", param="address") from error


def update_on_cluster(new: ServeDeploySchema, old: ServeDeploySchema, cluster: str) -> None:
    """Update the deployed configuration `old` to `new` on a shared cluster: deploy changes, delete what `new` lacks.

    Raises ConfigError like `deploy_on_cluster`.
    """
    before = {application.name: application for application in old.applications}
    changed = [application for application in new.applications if before.get(application.name) != application]
    deploy_on_cluster(new.model_copy(update={"applications": changed}), cluster, own=list(before))
    gone = before.keys() - {application.name for application in new.applications}
    delete_applications(old.model_copy(update={"applications": [before[name] for name in gone]}))


def delete_applications(config: ServeDeploySchema) -> str | None:
    """Delete a configuration's applications and no others. Return the error message if that fails."""
    client = cast("Any", _get_global_client)(raise_if_no_controller_running=False)
    if client is None:
        return None
    try:
        client.delete_apps([application.name for application in config.applications])
    except (RayServeException, RayError, TimeoutError) as error:
        return str(error)
    return None


def check_conflicts(
    config: ServeDeploySchema, details: dict[str, Any], cluster: str, own: Collection[str] = ()
) -> None:
    """Raise ConfigError if a configuration conflicts with the proxies or applications of others on a cluster.

    Args:
        config: the configuration.
        details: details of the running Serve instance, from its controller.
        cluster: address of the cluster, for messages.
        own: names of our applications on the cluster.
    """
    wanted, actual = config.http_options, details["http_options"]
    ours, theirs = f"{wanted.host}:{wanted.port}", f"{actual['host']}:{actual['port']}"
    if ours != theirs:
        raise ConfigError(
            f"http_options: must be {theirs}, where the proxies of Serve on {cluster} listen, got {ours}; give "
            f"--host {actual['host']} --port {actual['port']}, or use a cluster that does not run Serve yet",
            param="http_options",
        )
    taken: dict[str, dict[str, Any]] = {
        name: application for name, application in details["applications"].items() if name not in own
    }
    routes = {route: name for name, application in taken.items() for route in _list_routes(application)}
    for application in config.applications:
        if application.name in taken:
            raise ConfigError(
                f"applications: {application.name!r} is already deployed on {cluster}; rename yours, or delete that "
                f"one first (ray.serve.delete({application.name!r}))",
                param="applications",
            )
        if application.route_prefix in routes:
            raise ConfigError(
                f"applications: the route {application.route_prefix} of {application.name} is already used by the "
                f"application {routes[application.route_prefix]!r} on {cluster}",
                param="applications",
            )


def _list_routes(application: dict[str, Any]) -> Iterable[str]:
    """Return the current route of an application, and its configured one, which applies once it is built."""
    config: dict[str, Any] = application.get("deployed_app_config") or {}
    configured = config.get("route_prefix")
    return [route for route in (application.get("route_prefix"), configured) if route]


def _start_serve(config: ServeDeploySchema) -> Any:
    http = config.http_options.model_dump()
    return cast("Any", private).serve_start(
        http_options=http,
        proxy_location=ProxyLocation(config.proxy_location),
        controller_options=config.controller_options,
    )


def build_application(application: ServeApplicationSchema, logging: LoggingConfig | None = None) -> Any:
    """Build an application for `serve.run`, with the deployment options of the configuration file.

    Args:
        application: the application's block of the file.
        logging: the file's logging configuration for all applications.

    Raises:
        ConfigError: the application cannot be built, the file names a deployment that it does not have, or it has an
            autoscaling policy, which only `serve deploy` supports.
    """
    name, fields = application.name, application.model_dump(exclude_unset=True)
    untyped = cast("Any", application)  # the schema's dictionaries have no types
    if untyped.autoscaling_policy:
        raise ConfigError(f"{name}: autoscaling_policy: not supported on a shared cluster; use `serve deploy`")
    options = {one.pop("name"): one for one in fields.get("deployments", [])}
    try:
        bound = cast("Any", private).call_user_app_builder_with_args_if_necessary(
            import_attr(application.import_path), untyped.args
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
        deployments = [_apply_options(one, untyped.runtime_env, options.get(one.name, {})) for one in built.deployments]
    except (ImportError, AttributeError, TypeError, ValueError, ValidationError, RayServeException) as error:
        raise ConfigError(f"{name}: {error}") from error
    return dataclasses.replace(built, deployments=deployments)


def _apply_options(deployment: Any, environment: dict[str, Any], options: dict[str, Any]) -> Any:
    """Return a deployment with other options, whose runtime environment extends that of the application."""
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
    """Wait until all applications run and answer over HTTP. Return None then, or when `stop` is set; else the failure.

    Args:
        config: the deployed configuration.
        url: the server's URL.
        stop: event that ends the wait.
        watch: receives each status.
        ask: returns the status.
    """
    names = {application.name for application in config.applications}
    left = int(HTTP_TIMEOUT_S / POLL_S)
    while not stop.wait(POLL_S):
        try:
            status = ask()
        except RayError:  # Serve's controller is being restarted
            continue
        watch(status)
        found = [status.applications[name] for name in names if name in status.applications]
        if broken := [one for one in found if one.status in _BROKEN]:
            return "\n".join(describe_failure(one) for one in broken)
        if len(found) < len(names) or any(a.status != ApplicationStatus.RUNNING for a in found):
            continue
        failures = [failure for page in list_health_urls(config, url) if (failure := check_url(page))]
        if not failures:
            return None
        left -= 1
        if left <= 0:
            return f"{url} does not answer: {failures[0]}"
    return None


def list_statuses(config: ServeDeploySchema, status: ServeStatus) -> dict[str, str]:
    """Return the name and Serve's status of each deployment of a configuration."""
    names = [application.name for application in config.applications]
    found = [status.applications[name].deployments for name in names if name in status.applications]
    return {name: overview.status.value for deployments in found for name, overview in deployments.items()}


def describe_failure(application: ApplicationStatusOverview) -> str:
    """Return the messages of Serve on a failed application and its failed deployments."""
    reasons = [deployment.message for deployment in application.deployments.values() if deployment.message]
    return "\n".join(shorten_traceback(message) for message in [application.message, *reasons])


def shorten_traceback(message: str) -> str:
    """Remove the traceback from a message, except for its error line. The logs have all of it."""
    before, traceback, after = message.partition("Traceback (most recent call last):")
    errors = list(_ERROR_LINE.finditer(after))
    return f"{before.strip()}\n{after[errors[-1].start() :].strip()}".strip() if traceback and errors else message


def list_health_urls(config: ServeDeploySchema, url: str) -> Sequence[str]:
    """Return the URL of the health check of each application that is reached over HTTP."""
    listens = config.proxy_location != ProxyLocation.Disabled
    prefixes = [application.route_prefix for application in config.applications if listens]
    return [f"{url}{prefix.rstrip('/')}/healthz" for prefix in prefixes if prefix is not None]
