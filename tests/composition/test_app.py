"""Building the applications, and reading the states of others from Serve."""

from pathlib import Path

from ray.serve.schema import (
    ApplicationStatus,
    ApplicationStatusOverview,
    DeploymentStatus,
    DeploymentStatusOverview,
    DeploymentStatusTrigger,
)

from composition import app
from composition.configuration.settings import GraphsSettings, ModelsSettings
from composition.configuration.snapshot import build_snapshot
from composition.records.store import Store


def application(
    status: ApplicationStatus, deployment: DeploymentStatus | None = None, name: str = "wan"
) -> ApplicationStatusOverview:
    trigger = DeploymentStatusTrigger.UNSPECIFIED
    deployments = {name: DeploymentStatusOverview(deployment, trigger, {}, "")} if deployment else {}
    return ApplicationStatusOverview(status, "", 0.0, deployments)


def test_the_state_of_an_application_is_that_of_the_deployment_of_its_name() -> None:
    running, updating = ApplicationStatus.RUNNING, ApplicationStatus.DEPLOYING
    assert app.read_states(
        {
            "svd": application(running, DeploymentStatus.HEALTHY, "svd"),
            "wan": application(updating, DeploymentStatus.UPDATING),
            "other": application(running, DeploymentStatus.HEALTHY, "something"),
        }
    ) == {"svd": "HEALTHY", "wan": "UPDATING"}


def test_what_is_still_being_built_counts_and_what_cannot_be_does_not() -> None:
    states = {status.value: application(status) for status in ApplicationStatus}
    assert app.read_states(states) == {"NOT_STARTED": "NOT_STARTED", "DEPLOYING": "DEPLOYING"}
    assert list(app.read_states(dict(reversed(states.items())))) == ["DEPLOYING", "NOT_STARTED"], "in Serve's order"


def test_applications_write_down_what_they_host(tmp_path: Path) -> None:
    state = {"home": tmp_path}
    small = {"kind": "realesrgan", "defaults": {"scale": 2}}
    models = {"application": "enlargers", "models": {"small": small, "large": {"kind": "realesrgan"}}}
    app.models(ModelsSettings.model_validate({**state, **models}))
    app.graphs(GraphsSettings.model_validate({**state, "graphs": {"single": {}}}))
    store = Store(f"sqlite:///{tmp_path / 'reelgraph.db'}")
    found = build_snapshot(store.list_deployed(), {"enlargers": "HEALTHY", "single": "HEALTHY"})
    assert [(each.id, each.application, dict(each.defaults)) for each in found.models.values()] == [
        ("small", "enlargers", {"scale": 2}),
        ("large", "enlargers", {}),
    ]
    assert found.list_names() == ["small", "large"]
    app.models(ModelsSettings.model_validate({**state, "application": "enlargers", "models": {"large": small}}))
    found = build_snapshot(store.list_deployed(), {"enlargers": "HEALTHY", "single": "HEALTHY"})
    assert [(each.id, dict(each.defaults)) for each in found.models.values()] == [("large", {"scale": 2})]
    store.close()
