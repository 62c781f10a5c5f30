"""Builders of the applications that `serve_config*.yaml` names: models, graphs, job runners and the front door."""

from collections.abc import Mapping
from typing import Any, cast

from ray import serve
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, WorkerCrashedError
from ray.serve import Application
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview

from composition.configuration.registry import Registry
from composition.configuration.settings import (
    LEGACY_MESSAGE,
    FrontSettings,
    GraphsSettings,
    JobsSettings,
    ModelsSettings,
    StateSettings,
)
from composition.configuration.snapshot import describe_graph, describe_model
from composition.graph_host import GraphHost
from composition.graphs.calls import Transport
from composition.graphs.catalogue import GRAPHS
from composition.http.ingress import Ingress, IngressSettings
from composition.jobs.runner import JobRunner, RunnerSettings
from composition.media.confinement.status import report_confinement
from composition.media.marks.trial import check_marks
from composition.records.store import Store
from composition.records.tables import Deployed
from services.errors import ConfigError, ServiceBusy
from services.host import Host, Hosted
from services.settings import take_offline

STARTING = (ApplicationStatus.NOT_STARTED, ApplicationStatus.DEPLOYING)
"""States of an application that may not have its deployments yet."""

TRANSPORT = Transport(
    lost=(
        RayActorError,
        WorkerCrashedError,
        NodeDiedError,
        OutOfMemoryError,
        ObjectLostError,
        DeploymentUnavailableError,
    ),
    busy=(BackPressureError,),
)


def models(args: ModelsSettings) -> Application:
    """Build an application that hosts models. Raises ConfigError."""
    hosted = {
        name: Hosted(entry.kind, take_offline(entry.settings) if args.offline else entry.settings)
        for name, entry in args.models.items()
    }
    home = args.state
    rows = [
        describe_model(args.name, index, name, entry, home) for index, (name, entry) in enumerate(args.models.items())
    ]
    _register(args, args.name, rows)
    return _define_deployment(Host, args.name).bind(hosted, home)


def graphs(args: GraphsSettings) -> Application:
    """Build an application that hosts graphs. Raises ConfigError."""
    rows = [describe_graph(args.name, index, name, entry) for index, (name, entry) in enumerate(args.graphs.items())]
    _register(args, args.name, rows)
    return _define_deployment(Graphs, args.name).bind(args)


def jobs(args: JobsSettings) -> Application:
    """Build the application of the job runners. Raises ConfigError if files cannot be marked as `marks` says."""
    check_marks(args.marks, args.state)
    return _define_deployment(Jobs, "jobs").bind(args)


def front(args: FrontSettings) -> Application:
    """Build the application of the front door.

    Raises ConfigError if `auth` is `keys` and there is no key, or files cannot be marked as `marks` says.
    """
    _require_keys(args)
    check_marks(args.marks, args.state)
    ingress = cast("Any", serve.ingress)()(Front)  # pyright: ignore[reportUnknownMemberType]
    return _define_deployment(ingress, "front").bind(args)


def build(args: dict[str, Any]) -> Application:
    """Reject a configuration in the format before 0.2, which names this function. Raises ConfigError."""
    del args
    raise ConfigError(LEGACY_MESSAGE)


class Graphs(GraphHost):
    """The host of graphs, as started by Serve."""

    def __init__(self, args: GraphsSettings) -> None:
        report_confinement(args.media.confinement)
        super().__init__(args, open_registry(Store(args.database_url)), TRANSPORT)


class Jobs(JobRunner):
    """The job runner, as started and stopped by Serve."""

    def __init__(self, args: JobsSettings) -> None:
        report_confinement(args.media.confinement)
        settings = RunnerSettings(
            database=args.database_url,
            artifacts=args.artifact_store,
            media=args.media,
            concurrency=args.concurrency,
            lease_s=args.lease_s,
            max_attempts=args.max_attempts,
            hardware=args.hardware,
            marks=args.marks,
            state=args.state,
        )
        served = open_registry(Store(args.database_url))
        waiting = [graph.name for graph in GRAPHS if graph.waits]
        super().__init__(served.find_graph, waiting, settings, TRANSPORT)

    async def __del__(self) -> None:
        await self.close()


class Front(Ingress):
    """The front door, as started by Serve."""

    def __init__(self, args: FrontSettings) -> None:
        report_confinement(args.media.confinement)
        settings = IngressSettings(
            database=args.database_url,
            artifacts=args.artifact_store,
            auth=args.auth,
            media=args.media,
            max_body_bytes=args.max_body_bytes,
            max_json_bytes=args.max_json_bytes,
            max_queued_jobs=args.max_queued_jobs,
            encoding=args.encoding,
            max_conversion_pixels=args.max_conversion_pixels,
            roles=args.roles,
            allowed_hosts=args.allowed_hosts,
            allowed_origins=args.allowed_origins,
            marks=args.marks,
            state=args.state,
        )
        super().__init__(settings, open_registry(Store(args.database_url)), TRANSPORT)


def open_registry(store: Store) -> Registry:
    """Return the registry of the models and graphs that are deployed on this Ray cluster."""
    return Registry(store, fetch_states, open_handle, TRANSPORT)


def fetch_states() -> Mapping[str, str]:
    """Request the states of the applications from Serve: name → state of the deployment of the same name."""
    return read_states(serve.status().applications)


def read_states(applications: Mapping[str, ApplicationStatusOverview]) -> dict[str, str]:
    """Return the state of each application from Serve's overview.

    An application that is being built has no deployments yet. It is included, so that jobs that are queued while the
    server restarts do not fail because their model is still missing.
    """
    states: dict[str, str] = {}
    for name, application in applications.items():
        if name in application.deployments:
            states[name] = str(application.deployments[name].status.value)
        elif application.status in STARTING:
            states[name] = str(application.status.value)
    return states


def open_handle(application: str) -> Any:
    """Return the handle of an application's deployment, which has the same name. Blocks on the first call.

    Raises ServiceBusy while the application is being built.
    """
    try:
        return cast("Any", serve).get_deployment_handle(application, app_name=application)
    except KeyError as error:
        raise ServiceBusy(f"{application} is being started; try again later") from error


def _define_deployment(cls: type, name: str) -> Any:
    return cast("Any", serve.deployment)(cls, name=name)  # pyright: ignore[reportUnknownMemberType]


def _register(state: StateSettings, application: str, rows: list[Deployed]) -> None:
    """Store what an application hosts, so that other applications find it."""
    store = Store(state.database_url)
    try:
        store.replace_deployed(application, rows)
    finally:
        store.close()


def _require_keys(args: FrontSettings) -> None:
    if args.auth == "none":
        return
    store = Store(args.database_url)
    try:
        if not store.list_keys():
            raise ConfigError(
                "auth: there is no API key yet, so no request would be accepted. Create one with "
                "`reel keys create OWNER --config FILE`, or set `auth: none` to accept all requests.",
                param="auth",
            )
    finally:
        store.close()
