"""The applications that `serve_config*.yaml` names: of models, of graphs, of the job runners, and the front door."""

from collections.abc import Mapping
from typing import Any, cast

from ray import serve
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, WorkerCrashedError
from ray.serve import Application
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview

from composition.configuration.served import Served, describe_graph, describe_model
from composition.configuration.settings import (
    MOVED,
    FrontSettings,
    GraphsSettings,
    JobsSettings,
    ModelsSettings,
    StateSettings,
)
from composition.graph_host import GraphHost
from composition.graphs.calls import Transport
from composition.graphs.catalogue import GRAPHS
from composition.http.ingress import Ingress, IngressSettings
from composition.jobs.runner import JobRunner, RunnerSettings
from composition.records.store import Store
from composition.records.tables import Deployed
from services.errors import ConfigError, ServiceBusy
from services.host import Host, Hosted
from services.settings import take_offline

BEGINNING = (ApplicationStatus.NOT_STARTED, ApplicationStatus.DEPLOYING)
"""The states of an application that may not have its deployments yet."""

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
    """Host models. Raises ConfigError."""
    hosted = {
        name: Hosted(entry.kind, take_offline(entry.settings) if args.offline else entry.settings)
        for name, entry in args.models.items()
    }
    rows = [describe_model(args.name, index, name, entry) for index, (name, entry) in enumerate(args.models.items())]
    _write_down(args, args.name, rows)
    return _deployment(Host, args.name).bind(hosted, args.state)


def graphs(args: GraphsSettings) -> Application:
    """Host graphs. Raises ConfigError."""
    rows = [describe_graph(args.name, index, name, entry) for index, (name, entry) in enumerate(args.graphs.items())]
    _write_down(args, args.name, rows)
    return _deployment(Graphs, args.name).bind(args)


def jobs(args: JobsSettings) -> Application:
    """Run jobs."""
    return _deployment(Jobs, "jobs").bind(args)


def front(args: FrontSettings) -> Application:
    """Open the front door. Raises ConfigError: `auth` is `keys` and there is no key, so nobody could get in."""
    _need_keys(args)
    opened = cast("Any", serve.ingress)()(Front)  # pyright: ignore[reportUnknownMemberType]
    return _deployment(opened, "front").bind(args)


def build(args: dict[str, Any]) -> Application:
    """Refuse a configuration of an older form, which names this function. Raises ConfigError."""
    del args
    raise ConfigError(MOVED)


class Graphs(GraphHost):
    """The host of graphs as Serve starts it."""

    def __init__(self, args: GraphsSettings) -> None:
        super().__init__(args, read_served(Store(args.database_url)), TRANSPORT)


class Jobs(JobRunner):
    """The job runner as Serve starts and ends it."""

    def __init__(self, args: JobsSettings) -> None:
        settings = RunnerSettings(
            database=args.database_url,
            artifacts=args.artifact_store,
            media=args.media,
            concurrency=args.concurrency,
            lease_s=args.lease_s,
            max_attempts=args.max_attempts,
        )
        served = read_served(Store(args.database_url))
        waiting = [graph.name for graph in GRAPHS if graph.request.WAITS]
        super().__init__(served.find_graph, waiting, settings, TRANSPORT)

    async def __del__(self) -> None:
        await self.close()


class Front(Ingress):
    """The front door as Serve opens it."""

    def __init__(self, args: FrontSettings) -> None:
        settings = IngressSettings(
            database=args.database_url,
            artifacts=args.artifact_store,
            auth=args.auth,
            media=args.media,
            max_body_bytes=args.max_body_bytes,
            max_json_bytes=args.max_json_bytes,
            max_queued_jobs=args.max_queued_jobs,
            roles=args.roles,
            allowed_hosts=args.allowed_hosts,
            allowed_origins=args.allowed_origins,
        )
        super().__init__(settings, read_served(Store(args.database_url)), TRANSPORT)


def read_served(store: Store) -> Served:
    """Return what reads what this Ray cluster serves."""
    return Served(store, ask_states, open_handle, TRANSPORT)


def ask_states() -> Mapping[str, str]:
    """Return how the applications stand: name → the state of the deployment that is named as it."""
    return read_states(serve.status().applications)


def read_states(applications: Mapping[str, ApplicationStatusOverview]) -> dict[str, str]:
    """Read it from what Serve says of its applications.

    One that is still being built has no deployments. It counts nonetheless, with what it hosted before: jobs that were
    waiting when everything was started again must not fail because their model is not there yet.
    """
    states: dict[str, str] = {}
    for name, application in applications.items():
        if name in application.deployments:
            states[name] = str(application.deployments[name].status.value)
        elif application.status in BEGINNING:
            states[name] = str(application.status.value)
    return states


def open_handle(application: str) -> Any:
    """Return the handle of the deployment that is named as its application. Blocks where it is asked for anew.

    Raises ServiceBusy while the application is still being built.
    """
    try:
        return cast("Any", serve).get_deployment_handle(application, app_name=application)
    except KeyError as error:
        raise ServiceBusy(f"{application} is being started; try again later") from error


def _deployment(cls: type, name: str) -> Any:
    return cast("Any", serve.deployment)(cls, name=name)  # pyright: ignore[reportUnknownMemberType]


def _write_down(state: StateSettings, application: str, rows: list[Deployed]) -> None:
    """Tell the other applications what this one hosts."""
    store = Store(state.database_url)
    try:
        store.replace_deployed(application, rows)
    finally:
        store.close()


def _need_keys(args: FrontSettings) -> None:
    if args.auth == "none":
        return
    store = Store(args.database_url)
    try:
        if not store.api_keys():
            raise ConfigError(
                "auth: there is no API key yet, so nobody could get in. Make one with "
                "`reel keys create OWNER --config FILE`, or write `auth: none` to let everybody in.",
                param="auth",
            )
    finally:
        store.close()
