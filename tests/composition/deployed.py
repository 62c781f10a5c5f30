"""A cluster without Ray: rows in a real database, the states of applications, and their handles."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from composition.configuration.registry import Registry, Timeouts
from composition.configuration.served import HEALTHY, ServedModel
from composition.configuration.settings import GraphEntry, StateSettings
from composition.configuration.snapshot import GRAPH
from composition.graph_host import GraphHost
from composition.graphs.calls import Transport
from composition.records.artifacts import ArtifactSettings
from composition.records.store import Store
from composition.records.tables import Deployed
from services.catalogue import KINDS
from services.errors import ServiceBusy
from services.model import Role
from tests.composition.rolling import Full, Gone
from tests.composition.serving import Handle, HostHandle

TRANSPORT = Transport((Gone,), (Full,))
IMPATIENT = Timeouts(cache_s=0)
"""No caching of snapshots."""
MODELS, GRAPHS = "models", "graphs"
"""Names of the applications."""


@dataclass(frozen=True)
class Hosted:
    """A model that an application hosts."""

    kind: str
    service: object = None
    """The service in this process, or its handle; None if it is never called."""
    limits: Mapping[str, float] = field(default_factory=dict[str, float])
    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])
    rate: float | None = None
    unmeasured: Mapping[str, str] = field(default_factory=dict[str, str])
    roles: Sequence[Role] = ()
    """Roles of its checkpoint; empty for all of its kind."""

    @property
    def facts(self) -> dict[str, Any]:
        facts = {"limits": self.limits, "defaults": self.defaults, "unmeasured": self.unmeasured}
        return {**{name: dict(values) for name, values in facts.items()}, "rate": self.rate, "roles": list(self.roles)}


def served_model(hosted: Hosted, name: str | None = None, state: str = HEALTHY) -> ServedModel:
    """Return the model for requests without a job. By default, its id is its kind."""
    return ServedModel(
        name or hosted.kind, KINDS[hosted.kind], MODELS, state, hosted.limits, hosted.defaults, hosted.rate
    )


class Cluster:
    """A cluster on which tests deploy models and graphs. All its state is in `folder`."""

    def __init__(self, folder: Path, timeouts: Timeouts = IMPATIENT) -> None:
        self.url = f"sqlite:///{folder / 'store.db'}"
        self.where = ArtifactSettings(url=str(folder / "artifacts"))
        self.store = Store(self.url)
        self.states: dict[str, str] = {}
        """Application → its state in Serve."""
        self.handles: dict[str, Any] = {}
        """Application → handle of its deployment; an application that is still being built has none."""
        self.refused = threading.Event()
        """Set when a missing handle was requested."""
        self.built = 0
        """Number of built applications, which replaces the time."""
        self.away = False
        """Whether Serve's controller does not answer."""
        self.asked = 0
        """Number of requests to Serve's controller."""
        self.served = Registry(self.store, self._fetch_states, self.open_handle, TRANSPORT, timeouts)
        state = StateSettings(home=folder, database=self.url, artifacts=self.where)
        self.graphs = GraphHost(state, self.served, TRANSPORT)

    def _fetch_states(self) -> Mapping[str, str]:
        self.asked += 1
        if self.away:
            raise Gone
        return self.states

    def open_handle(self, application: str) -> Any:
        if application not in self.handles:
            self.refused.set()
            raise ServiceBusy(f"{application} is being started")
        return self.handles[application]

    def host_models(self, models: Mapping[str, Hosted], application: str = MODELS) -> "Cluster":
        """Deploy an application of models, replacing its previous models."""
        rows = [(name, hosted.kind, hosted.facts) for name, hosted in models.items()]
        self.deploy(application, rows, HostHandle({name: hosted.service for name, hosted in models.items()}))
        return self

    def host_graphs(self, *names: str, application: str = GRAPHS, **entries: Mapping[str, Any]) -> "Cluster":
        """Deploy an application of graphs with the real host, replacing its previous graphs.

        Args:
            names: names of graphs without settings.
            application: name of the application.
            entries: name of a graph, with `_` for `-` → its settings.
        """
        graphs = {name: GraphEntry() for name in names}
        graphs |= {name.replace("_", "-"): GraphEntry.model_validate(entry) for name, entry in entries.items()}
        rows = [(name, GRAPH, entry.model_dump(mode="json")) for name, entry in graphs.items()]
        self.deploy(application, rows, Handle(self.graphs))
        return self

    def deploy(self, application: str, rows: list[tuple[str, str, dict[str, Any]]], handle: Any) -> None:
        """Deploy an application that registers the rows (name, kind, facts)."""
        self.built += 1
        stored = [
            Deployed(
                application=application,
                position=position,
                name=name,
                kind=kind,
                facts=facts,
                built_at=float(self.built),
            )
            for position, (name, kind, facts) in enumerate(rows)
        ]
        self.store.replace_deployed(application, stored)
        self.states[application] = HEALTHY
        self.handles[application] = handle

    def close(self) -> None:
        self.store.close()
