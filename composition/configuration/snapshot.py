"""The models and graphs that are deployed at one moment, and choosing models for the roles of a request.

Each application registers what it hosts in the database when it is built; Serve reports which applications run.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from composition.configuration.served import Assignment, ServedGraph, ServedModel
from composition.configuration.settings import GraphEntry, ModelEntry
from composition.graphs.catalogue import BY_NAME
from composition.graphs.fields import drop_refinements, merge_fields
from composition.graphs.graph import Graph, Need
from composition.graphs.request import GraphRequest
from composition.graphs.single import NAME as SINGLE
from composition.graphs.single import SINGLES
from composition.records.tables import Deployed
from services.catalogue import KINDS
from services.errors import ConfigError, InvalidParameter, NotFound
from services.limits import shorten
from services.model import Role
from services.traits import find_traits

GRAPH: Literal["graph"] = "graph"
"""`Deployed.kind` of a graph."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The models and graphs that are deployed at one moment."""

    models: Mapping[str, ServedModel]
    """Id → model, in configuration order."""
    graphs: Mapping[str, ServedGraph]
    """Name → graph, in configuration order."""

    def list_candidates(self, need: Need) -> list[ServedModel]:
        """Return the models that can take a role; the first one is the default."""
        return [served for served in self.models.values() if served.can_take(need)]

    def find_model(self, name: str, preferred: Collection[str] = ()) -> ServedModel | None:
        """Find a model by its id or an alias. Return None if there is no match.

        Args:
            name: the id or alias.
            preferred: ids that are preferred if several models have this alias; else the first one is returned.
        """
        if name in self.models:
            return self.models[name]
        named = [served for served in self.models.values() if name in served.aliases]
        return next((served for served in named if served.id in preferred), named[0] if named else None)

    def assign_models(self, name: str, chosen: Mapping[Role, str]) -> Assignment:
        """Assign models to the roles of the graph that runs a request.

        Args:
            name: a graph's name, or a model's id or alias for a single-model job.
            chosen: role → id of the model that the request chooses.

        Raises:
            InvalidParameter: there is no such graph or model, or a role has no suitable model.
        """
        if name in self.graphs and name != SINGLE:
            served = self.graphs[name]
            models = self._bind_roles(served, chosen)
            return Assignment(name, served.graph, served.application, models, served.entry.defaults)
        alone, host = self.find_model(name, chosen.values()), self.graphs.get(SINGLE)
        graph = SINGLES.get(alone.model.kind) if alone else None
        if alone is None or graph is None or host is None:
            names = self.list_names()
            known = f"one of {', '.join(names)}" if names else "a deployed graph or model (there are none yet)"
            raise InvalidParameter(f"model: must be {known}, got {shorten(name)}", param="model")
        models: dict[Role, ServedModel] = {need.role: alone for need in graph.needs if alone.can_take(need)}
        for role, wanted in chosen.items():
            if role not in models:
                raise InvalidParameter(f"models: a job of model {alone.id} has no role {role}", param="models")
            if wanted != alone.id:
                param = f"models.{role}"
                raise InvalidParameter(
                    f"{param}: must be {alone.id}, the model of the job, got {shorten(wanted)}", param=param
                )
        return Assignment(name, graph, host.application, models)

    def list_names(self) -> list[str]:
        """Return the graphs and models that jobs can name, without the aliases of models."""
        graphs = [name for name, served in self.graphs.items() if name != SINGLE and self._is_complete(served)]
        alone = [name for name, served in self.models.items() if served.model.kind in SINGLES and SINGLE in self.graphs]
        return [*graphs, *alone]

    @property
    def aliases(self) -> dict[str, ServedModel]:
        """Alias that a single-model job can name → the first model with this alias."""
        if SINGLE not in self.graphs:
            return {}
        found: dict[str, ServedModel] = {}
        for served in self.models.values():
            for name in served.aliases:
                found.setdefault(name, served)
        return {name: served for name, served in found.items() if name not in self.models}

    def choose_model(self, need: Need, name: str | None, configured: str | None = None) -> ServedModel:
        """Choose the model for a request without a job.

        Args:
            need: the role.
            name: id of the model in the request; None for the configured or the first one.
            configured: id of the model in the configuration.

        Raises:
            NotFound: no model can take the role, or the configured one is not deployed.
            InvalidParameter: the model in the request cannot take the role.
        """
        fitting = {served.id: served for served in self.list_candidates(need)}
        if not fitting:
            raise NotFound(f"no model for {need.role} is served here", param="model")
        if name is not None and name not in fitting:
            raise InvalidParameter(f"model: must be one of {', '.join(fitting)}, got {shorten(name)}", param="model")
        choice = name or configured or next(iter(fitting))
        if choice not in fitting:
            raise NotFound(f"model: {choice}, configured for {need.role}, is not served here", param="model")
        return fitting[choice]

    def _bind_roles(self, served: ServedGraph, chosen: Mapping[Role, str]) -> dict[Role, ServedModel]:
        graph = served.graph
        for role in set(chosen) - {need.role for need in graph.roles}:
            raise InvalidParameter(f"models: {graph.name} has no role {role}", param="models")
        for other in graph.parts - self.graphs.keys():
            raise InvalidParameter(
                f"model: {graph.name} needs the graph {other}, which is not served here", param="model"
            )
        models: dict[Role, ServedModel] = {}
        for need in graph.roles:
            wanted = chosen.get(need.role)
            model = self._find_default(served, need) if wanted is None else self._find_chosen(need, wanted)
            if model is not None:
                models[need.role] = model
            elif need in graph.needs:
                missing = served.entry.roles.get(need.role) or f"a model for {need.role}"
                raise InvalidParameter(f"model: {graph.name} needs {missing}, which is not served here", param="model")
        return models

    def _find_chosen(self, need: Need, wanted: str) -> ServedModel:
        """Return the model that a request chooses for a role. Raises InvalidParameter."""
        fitting = {candidate.id: candidate for candidate in self.list_candidates(need)}
        if wanted not in fitting:
            none = f"omitted, because no model for {need.role} is served here"
            known = f"one of {', '.join(fitting)}" if fitting else none
            param = f"models.{need.role}"
            raise InvalidParameter(f"{param}: must be {known}, got {shorten(wanted)}", param=param)
        return fitting[wanted]

    def _find_default(self, served: ServedGraph, need: Need) -> ServedModel | None:
        """Return the default model for a role; None if it is not deployed."""
        configured = served.entry.roles.get(need.role)
        fitting = [each for each in self.list_candidates(need) if configured is None or each.id == configured]
        return fitting[0] if fitting else None

    def _is_complete(self, served: ServedGraph) -> bool:
        """Whether all models and graphs that a graph needs are deployed."""
        has_models = all(self._find_default(served, need) is not None for need in served.graph.needs)
        return has_models and served.graph.parts <= self.graphs.keys()


def build_snapshot(rows: list[Deployed], states: Mapping[str, str]) -> Snapshot:
    """Build a snapshot of the applications that Serve runs, in Serve's order. The first of several equal names is used.

    Args:
        rows: what all applications have registered.
        states: name of each running application → its state.
    """
    models: dict[str, ServedModel] = {}
    graphs: dict[str, ServedGraph] = {}
    for application, state in states.items():
        for row in rows:
            if row.application != application:
                continue
            if row.kind == GRAPH and (row.name in BY_NAME or row.name == SINGLE):
                entry = GraphEntry.model_validate(row.facts)
                graphs.setdefault(row.name, ServedGraph(_find_graph(row.name, entry), application, state, entry))
            elif row.kind in KINDS:
                models.setdefault(row.name, _read_model(row, state))
    return Snapshot(models, graphs)


def describe_model(application: str, position: int, name: str, entry: ModelEntry, home: Path | None = None) -> Deployed:
    """Return the row that registers a model.

    Args:
        application: name of the application that hosts it.
        position: its position in the application.
        name: its id.
        entry: its configuration.
        home: REELGRAPH_HOME, where a repository that is not known may be downloaded; None to leave it out.
    """
    model = KINDS[entry.kind]
    traits = find_traits(model, entry.settings, home)
    rate = (model.rate(entry.settings) if model.rate is not None else None) or traits.rate
    facts = {
        "roles": list(traits.roles),
        "limits": dict(entry.settings.limits),
        "defaults": merge_fields(drop_refinements(traits.defaults, entry.defaults, model.paired), entry.defaults),
        "rate": None if rate is None else float(rate),
        "source": entry.settings.source,
        "revision": entry.settings.revision,
        "unmeasured": dict(entry.settings.unmeasured),
    }
    return Deployed(application=application, name=name, position=position, kind=entry.kind, facts=facts)


def describe_graph(application: str, position: int, name: str, entry: GraphEntry) -> Deployed:
    """Return the row that registers a graph. Raises ConfigError if there is no such graph."""
    if name not in BY_NAME and name != SINGLE:
        known = ", ".join((*BY_NAME, SINGLE))
        raise ConfigError(f"graphs: must be one of {known}, got {shorten(name)}", param="graphs")
    facts = entry.model_dump(mode="json")
    return Deployed(application=application, name=name, position=position, kind=GRAPH, facts=facts)


def _read_model(row: Deployed, state: str) -> ServedModel:
    return ServedModel(
        id=row.name,
        model=KINDS[row.kind],
        application=row.application,
        state=state,
        roles=tuple(row.facts.get("roles", ())),
        limits=row.facts["limits"],
        defaults=row.facts["defaults"],
        rate=row.facts["rate"],
        built_at=row.built_at,
        source=row.facts.get("source", ""),
        revision=row.facts.get("revision", ""),
        unmeasured=row.facts.get("unmeasured", {}),  # rows of older versions lack it
    )


def _find_graph(name: str, entry: GraphEntry) -> Graph:
    if name == SINGLE:
        return Graph(SINGLE, GraphRequest, "composition.graphs.single.graph:Single")
    graph = BY_NAME[name]
    return graph.alternatives.get(entry.scenes_by, graph)
