"""What is served, without Ray: rows in a real database, the states of applications, and their handles."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from composition.configuration.registry import Registry, Timeouts
from composition.configuration.served import HEALTHY, ServedModel
from composition.configuration.settings import GraphEntry, StateSettings
from composition.configuration.snapshot import GRAPH
from composition.graph_host import GraphHost
from composition.graphs.calls import Handle as AnyHandle
from composition.graphs.calls import Transport
from composition.records.artifacts import ArtifactSettings
from composition.records.store import Store
from composition.records.tables import Deployed
from services.catalogue import KINDS
from services.errors import ServiceBusy
from tests.composition.rolling import Full, Gone
from tests.composition.serving import Handle, HostHandle

TRANSPORT = Transport((Gone,), (Full,))
IMPATIENT = Timeouts(cache_s=0)
"""What is served is read anew each time."""
MODELS, GRAPHS = "models", "graphs"
"""The applications."""


@dataclass(frozen=True)
class Hosted:
    """A model that an application hosts."""

    kind: str
    service: object = None
    """Of this process, or its handle; None where it is never asked."""
    limits: Mapping[str, float] = field(default_factory=dict[str, float])
    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])
    rate: float | None = None

    @property
    def facts(self) -> dict[str, Any]:
        return {"limits": dict(self.limits), "defaults": dict(self.defaults), "rate": self.rate}


def served_model(hosted: Hosted, name: str | None = None, state: str = HEALTHY) -> ServedModel:
    """The model as requests that are answered at once see it. Its id is its kind where no other is given."""
    facts = {"limits": hosted.limits, "defaults": hosted.defaults, "rate": hosted.rate}
    return ServedModel(name or hosted.kind, KINDS[hosted.kind], MODELS, state, built_at=0.0, **facts)


class Cluster:
    """A cluster that serves what is put on it; its database, and all other state, is in `folder`."""

    def __init__(self, folder: Path, patience: Timeouts = IMPATIENT) -> None:
        self.url = f"sqlite:///{folder / 'store.db'}"
        self.where = ArtifactSettings(url=str(folder / "artifacts"))
        self.store = Store(self.url)
        self.states: dict[str, str] = {}
        """Application → what Serve says of it."""
        self.handles: dict[str, AnyHandle] = {}
        """Application → the handle of its deployment, which one that is still being built has not."""
        self.refused = threading.Event()
        """A handle was asked for that was not there."""
        self.built = 0
        """How often an application was built, which is the clock here."""
        self.away = False
        """Serve's controller does not answer."""
        self.asked = 0
        """How often Serve was asked."""
        self.served = Registry(self.store, self._ask_states, self.open_handle, TRANSPORT, patience)
        state = StateSettings(home=folder, database=self.url, artifacts=self.where)
        self.graphs = GraphHost(state, self.served, TRANSPORT)

    def _ask_states(self) -> Mapping[str, str]:
        self.asked += 1
        if self.away:
            raise Gone
        return self.states

    def open_handle(self, application: str) -> AnyHandle:
        if application not in self.handles:
            self.refused.set()
            raise ServiceBusy(f"{application} is being started")
        return self.handles[application]

    def host_models(self, models: Mapping[str, Hosted], application: str = MODELS) -> "Cluster":
        """Serve an application of models, in place of what it had."""
        rows = [(name, hosted.kind, hosted.facts) for name, hosted in models.items()]
        self.deploy(application, rows, HostHandle({name: hosted.service for name, hosted in models.items()}))
        return self

    def host_graphs(self, *names: str, application: str = GRAPHS, **entries: Mapping[str, Any]) -> "Cluster":
        """Serve an application of graphs, in place of what it had. What runs them is the real host.

        Args:
            names: of graphs that have no settings.
            application: its name.
            entries: name, with `_` for `-`, → the settings of a graph.
        """
        graphs = {name: GraphEntry() for name in names}
        graphs |= {name.replace("_", "-"): GraphEntry.model_validate(entry) for name, entry in entries.items()}
        rows = [(name, GRAPH, entry.model_dump(mode="json")) for name, entry in graphs.items()]
        self.deploy(application, rows, Handle(self.graphs))
        return self

    def deploy(self, application: str, rows: list[tuple[str, str, dict[str, Any]]], handle: AnyHandle) -> None:
        """Serve an application that has written down (name, kind, facts)."""
        self.built += 1
        said = {"application": application, "built_at": float(self.built)}
        stored = [
            Deployed(position=position, name=name, kind=kind, facts=facts, **said)
            for position, (name, kind, facts) in enumerate(rows)
        ]
        self.store.replace_deployed(application, stored)
        self.states[application] = HEALTHY
        self.handles[application] = handle

    def close(self) -> None:
        self.store.close()
