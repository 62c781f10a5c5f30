"""What is served: the models and graphs of all applications, and which model takes which role in a request.

Each application writes down what it hosts when it is built; Serve says which applications there are and how they stand.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy.exc import SQLAlchemyError

from composition.configuration.settings import GraphEntry, ModelEntry
from composition.graphs.calls import Handle, Models, Transport, ask
from composition.graphs.catalogue import BY_NAME
from composition.graphs.fields import merged_fields
from composition.graphs.graph import Graph, Need, Runnable
from composition.graphs.request import GraphRequest
from composition.graphs.single import NAME as SINGLE
from composition.graphs.single import SINGLES
from composition.records.store import Store
from composition.records.tables import Deployed, Job
from services.catalogue import KINDS
from services.errors import ConfigError, InvalidParameter, ModelFailed, NotFound, ServiceBusy
from services.limits import shown
from services.model import Model, Role
from services.roles import Informative

log = logging.getLogger("ray.serve.reelgraph.served")

GRAPH: Literal["graph"] = "graph"
"""What a row of a graph has for its kind."""
HEALTHY = "HEALTHY"

AskStates = Callable[[], Mapping[str, str]]
"""Asks Serve: application → the state of the deployment that is named as it, in the order of the configuration."""


@dataclass(frozen=True)
class Patience:
    """How long is waited."""

    known_for_s: float = 1.0
    """What was read is not read again for so long."""
    answer_s: float = 10.0
    """In which a model must answer."""


PATIENCE = Patience()


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A model that can be asked for."""

    id: str
    model: Model[Any]
    application: str
    state: str
    """What Serve says of its deployment."""
    limits: Mapping[str, float]
    """Field of its request → the largest value that it takes."""
    defaults: Mapping[str, Any]
    """Values for the fields that a request leaves out."""
    rate: float | None
    """Frames per second of its videos, where the configuration says so."""
    built_at: float = 0.0
    """When its application was built, in Unix seconds."""

    def fits(self, need: Need) -> bool:
        """Whether it can take a role in a graph."""
        return self.model.find_offer(need.role, need.request) is not None


@dataclass(frozen=True, eq=False)
class ServedGraph:
    """A graph that is deployed."""

    graph: Graph
    application: str
    state: str
    entry: GraphEntry


@dataclass(frozen=True, eq=False)
class Assignment:
    """A graph, and the models that take its roles."""

    name: str
    """What it was asked for by: a graph's name or a model's id."""
    graph: Graph
    application: str
    """Of the graph."""
    models: Mapping[Role, ServedModel]
    own_defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Of the graph; they stand before those of the models."""

    @property
    def request(self) -> type[GraphRequest]:
        return self.graph.request

    @property
    def ids(self) -> dict[Role, str]:
        """Role → the id of its model."""
        return {role: served.id for role, served in self.models.items()}

    def complete(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of a request with the defaults in those that are left out.

        The graph's own defaults stand before those of its models. A model's defaults turn no stage on: they hold where
        the request, the graph or the request's class does.
        """
        fields = merged_fields(self._own(), self.request.spelled_out(given))
        for need, served in self._spoken():
            if not need.at:
                known = self.request.model_fields
                behind = {name: value for name, value in served.defaults.items() if name in known}
                fields = merged_fields(behind, fields)
            elif served.defaults and self.request.turns_on(need.at, fields):
                fields = merged_fields({need.at: served.defaults}, fields)
        return fields

    def _own(self) -> dict[str, Any]:
        """The graph's own defaults, but for stages whose model is not served."""
        own = self.request.spelled_out(self.own_defaults)
        without = {need.at for need in self.graph.wants if need.role not in self.models}
        return {name: value for name, value in own.items() if name not in without}

    @property
    def limits(self) -> dict[str, float]:
        """Field, or `field.field` → the largest value that may be asked."""
        return {
            f"{need.at}.{name}" if need.at else name: limit
            for need, served in self._spoken()
            for name, limit in served.limits.items()
        }

    def _spoken(self) -> list[tuple[Need, ServedModel]]:
        """The models of which a request says something."""
        return [
            (need, self.models[need.role])
            for need in self.graph.roles
            if need.at is not None and need.role in self.models
        ]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What is served at one moment."""

    models: Mapping[str, ServedModel]
    """By id, in the order of the configuration."""
    graphs: Mapping[str, ServedGraph]

    def candidates(self, need: Need) -> list[ServedModel]:
        """Return the models that can take a role, the first of which does by default."""
        return [served for served in self.models.values() if served.fits(need)]

    def find_model(self, name: str, preferred: Collection[str] = ()) -> ServedModel | None:
        """Return a model by its id, or one of those that have this name besides; None where there is none.

        Args:
            name: of which model.
            preferred: ids; where several have the name, one of these is taken, else the first.
        """
        if name in self.models:
            return self.models[name]
        named = [served for served in self.models.values() if name in served.model.aliases]
        return next((served for served in named if served.id in preferred), named[0] if named else None)

    def assign(self, name: str, chosen: Mapping[Role, str]) -> Assignment:
        """Return what runs a request for `name`, a graph or a model alone, where `chosen` takes the roles it names.

        Raises InvalidParameter: there is no such graph or model, or a role cannot be taken.
        """
        if name in self.graphs and name != SINGLE:
            served = self.graphs[name]
            models = self._bind(served, chosen)
            return Assignment(name, served.graph, served.application, models, served.entry.defaults)
        alone, host = self.find_model(name, chosen.values()), self.graphs.get(SINGLE)
        graph = SINGLES.get(alone.model.kind) if alone else None
        if alone is None or graph is None or host is None:
            known = ", ".join(self.names()) or "none yet"
            raise InvalidParameter(f"model: there is no {shown(name)}; there are {known}", param="model")
        role = graph.needs[0].role
        for other in set(chosen) - {role}:
            raise InvalidParameter(f"models: a job of {alone.id} alone has no role {other}", param="models")
        if chosen.get(role, alone.id) != alone.id:
            param = f"models.{role}"
            raise InvalidParameter(
                f"{param}: must be {alone.id}, whose job this is, got {shown(chosen[role])}", param=param
            )
        return Assignment(name, graph, host.application, {role: alone})

    def names(self) -> list[str]:
        """Return the names by which a job can be asked for, but for other names that models go by."""
        graphs = [name for name, served in self.graphs.items() if name != SINGLE and self._complete(served)]
        alone = [name for name, served in self.models.items() if served.model.kind in SINGLES and SINGLE in self.graphs]
        return [*graphs, *alone]

    @property
    def aliases(self) -> dict[str, ServedModel]:
        """Name by which jobs of a model alone can be asked for, beside its id → the first model that has it."""
        if SINGLE not in self.graphs:
            return {}
        found: dict[str, ServedModel] = {}
        for served in self.models.values():
            for name in served.model.aliases:
                found.setdefault(name, served)
        return {name: served for name, served in found.items() if name not in self.models}

    def choose(self, need: Need, name: str | None, configured: str | None = None) -> ServedModel:
        """Return the model that takes a role outside of a graph.

        Args:
            need: the role.
            name: id of the model that the request asks for; None is the configured one, or the first.
            configured: id of the model that the configuration names.

        Raises:
            NotFound: no model takes the role, or the configured one is not served.
            InvalidParameter: the one that the request asks for does not take it.
        """
        fitting = {served.id: served for served in self.candidates(need)}
        if not fitting:
            raise NotFound(f"no model for {need.role} is served here", param="model")
        if name is not None and name not in fitting:
            raise InvalidParameter(f"model: must be one of {', '.join(fitting)}, got {shown(name)}", param="model")
        taken = name or configured or next(iter(fitting))
        if taken not in fitting:
            raise NotFound(f"{taken}, which the configuration names for {need.role}, is not served here", param="model")
        return fitting[taken]

    def _bind(self, served: ServedGraph, chosen: Mapping[Role, str]) -> dict[Role, ServedModel]:
        graph = served.graph
        for role in set(chosen) - {need.role for need in graph.roles}:
            raise InvalidParameter(f"models: {graph.name} has no role {role}", param="models")
        for other in graph.parts - self.graphs.keys():
            raise InvalidParameter(
                f"model: {graph.name} makes jobs of {other}, which is not served here", param="model"
            )
        models: dict[Role, ServedModel] = {}
        for need in graph.roles:
            taken = self._take(need, chosen[need.role]) if need.role in chosen else self._default(served, need)
            if taken is not None:
                models[need.role] = taken
            elif need in graph.needs:
                by = served.entry.roles.get(need.role) or f"a model for {need.role}"
                raise InvalidParameter(f"model: {graph.name} needs {by}, which is not served here", param="model")
        return models

    def _take(self, need: Need, wanted: str) -> ServedModel:
        """The model that a request chooses for a role. Raises InvalidParameter."""
        fitting = {candidate.id: candidate for candidate in self.candidates(need)}
        if wanted not in fitting:
            there = ", ".join(fitting) or "none"
            param = f"models.{need.role}"
            raise InvalidParameter(f"{param}: must be one of {there}, got {shown(wanted)}", param=param)
        return fitting[wanted]

    def _default(self, served: ServedGraph, need: Need) -> ServedModel | None:
        """The model that takes a role where a request chooses none; None where it is not served."""
        configured = served.entry.roles.get(need.role)
        fitting = [each for each in self.candidates(need) if configured is None or each.id == configured]
        return fitting[0] if fitting else None

    def _complete(self, served: ServedGraph) -> bool:
        """Whether all is served that a graph needs."""
        there = all(self._default(served, need) is not None for need in served.graph.needs)
        return there and served.graph.parts <= self.graphs.keys()


class Served:
    """Reads what is served, and opens it.

    Args:
        store: where the applications have written down what they host.
        ask_states: see AskStates.
        open_handle: application → the handle of its deployment; blocks, and raises ServiceBusy before that is there.
        transport: the exceptions of the calls.
        patience: see Patience.
    """

    def __init__(
        self,
        store: Store,
        ask_states: AskStates,
        open_handle: Callable[[str], Any],
        transport: Transport,
        patience: Patience = PATIENCE,
    ) -> None:
        self._store = store
        self._ask_states = ask_states
        self._open_handle = open_handle
        self._transport = transport
        self._patience = patience
        self._read_at: float | None = None
        self._snapshot = Snapshot({}, {})
        self._rates: dict[tuple[str, float], float] = {}

    def read(self) -> Snapshot:
        """Return what is served now, or was a second ago. Blocks.

        While the database or Serve's controller is away, what was read last holds. Where nothing was, this raises
        ServiceBusy.
        """
        if self._read_at is not None and time.monotonic() - self._read_at < self._patience.known_for_s:
            return self._snapshot
        try:
            self._snapshot = snapshot_of(self._store.list_deployed(), self._ask_states())
        except (SQLAlchemyError, *self._transport.lost) as error:
            if self._read_at is None:
                raise ServiceBusy("what is served here cannot be read yet; try again later") from error
            log.warning("what is served could not be read anew", exc_info=True)
        self._read_at = time.monotonic()
        return self._snapshot

    def open_model(self, served: ServedModel) -> Handle[Any]:
        """Return the handle of a model. Blocks; raises ServiceBusy."""
        return Handle(self._open_handle(served.application), served.id)

    def open_models(self, assignment: Assignment) -> Models:
        """Return the handles of the models of an assignment, by role. Blocks; raises ServiceBusy."""
        return Models({role: self.open_model(served) for role, served in assignment.models.items()})

    def open_graph(self, assignment: Assignment) -> Handle[Runnable]:
        """Return the handle of the graph of an assignment. Blocks; raises ServiceBusy."""
        return Handle(self._open_handle(assignment.application), assignment.name)

    def find_graph(self, job: Job) -> tuple[Handle[Runnable], type[GraphRequest]]:
        """Return the graph that runs a stored job, and the class of its request. Blocks.

        Raises ModelFailed where the graph, or a model that the job is bound to, is served no longer, and ServiceBusy.
        """
        try:
            assignment = self.read().assign(job.model, job.params.get("models") or {})
        except InvalidParameter as error:
            raise ModelFailed(f"the job can no longer be run here: {error.message}", param=error.param) from error
        return self.open_graph(assignment), assignment.request

    async def rate(self, assignment: Assignment) -> float:
        """Return the frames per second of what an assignment makes, for requests that do not say so themselves.

        Raises ServiceBusy where only the model can tell, and it does not answer.
        """
        for served in assignment.models.values():
            if served.model.rate is not None:
                return served.rate or await self._measured_rate(served)
        return 0.0

    async def _measured_rate(self, served: ServedModel) -> float:
        """The rate of the checkpoint that is loaded. It is asked for once, until the model is deployed anew."""
        known = served.id, served.built_at
        if known not in self._rates or served.state != HEALTHY:
            model = await asyncio.to_thread(self.open_model, served)
            try:
                async with asyncio.timeout(self._patience.answer_s):
                    info = await ask(model, Informative.info)
            except (TimeoutError, *self._transport.lost, *self._transport.busy) as error:
                raise ServiceBusy(
                    f"seconds: {served.id} is {served.state} and has not said its frame rate yet; give num_frames, or "
                    "ask again",
                    param="seconds",
                ) from error
            if info.rate is None:
                raise ServiceBusy(f"seconds: {served.id} does not say its frame rate; give num_frames", param="seconds")
            self._rates[known] = float(info.rate)
        return self._rates[known]


def snapshot_of(rows: list[Deployed], states: Mapping[str, str]) -> Snapshot:
    """Return what the applications that Serve has have written down, in Serve's order. Of one name the first counts."""
    models: dict[str, ServedModel] = {}
    graphs: dict[str, ServedGraph] = {}
    for application, state in states.items():
        for row in rows:
            if row.application != application:
                continue
            if row.kind == GRAPH and (row.name in BY_NAME or row.name == SINGLE):
                entry = GraphEntry.model_validate(row.facts)
                graphs.setdefault(row.name, ServedGraph(_graph_of(row.name, entry), application, state, entry))
            elif row.kind in KINDS:
                about = {"id": row.name, "application": application, "state": state, "built_at": row.built_at}
                served = ServedModel(model=KINDS[row.kind], **about, **row.facts)
                models.setdefault(row.name, served)
    return Snapshot(models, graphs)


def describe_model(application: str, position: int, name: str, entry: ModelEntry) -> Deployed:
    """Return the row of a model."""
    model = KINDS[entry.kind]
    rate = model.rate(entry.settings) if model.rate is not None else None
    facts = {
        "limits": dict(entry.settings.limits),
        "defaults": dict(entry.defaults),
        "rate": None if rate is None else float(rate),
    }
    return Deployed(application=application, name=name, position=position, kind=entry.kind, facts=facts)


def describe_graph(application: str, position: int, name: str, entry: GraphEntry) -> Deployed:
    """Return the row of a graph. Raises ConfigError where there is no such graph."""
    if name not in BY_NAME and name != SINGLE:
        known = ", ".join((*BY_NAME, SINGLE))
        raise ConfigError(f"graphs: there is no {shown(name)}; there are {known}", param="graphs")
    facts = entry.model_dump(mode="json")
    return Deployed(application=application, name=name, position=position, kind=GRAPH, facts=facts)


def _graph_of(name: str, entry: GraphEntry) -> Graph:
    if name == SINGLE:
        return Graph(SINGLE, GraphRequest, "composition.graphs.single.graph:Single")
    graph = BY_NAME[name]
    return graph.alternatives.get(entry.scenes_by, graph)
