"""Deployed models and graphs, and the assignment of models to the roles of a request."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from composition.configuration.settings import GraphEntry
from composition.graphs.fields import drop_refinements, merge_fields
from composition.graphs.graph import Graph, Need
from composition.graphs.request import GraphRequest
from services.model import Model, Role

HEALTHY = "HEALTHY"
"""Serve's state of a deployment whose replicas all run."""


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A deployed model."""

    id: str
    model: Model[Any]
    application: str
    state: str
    """Serve's state of the deployment."""
    limits: Mapping[str, float]
    """Request field → maximum value."""
    defaults: Mapping[str, Any]
    """Default values of request fields."""
    rate: float | None
    """Frame rate of its videos in frames per second; None if only the loaded model knows it."""
    built_at: float = 0.0
    """Time when the application was built, in Unix seconds."""
    source: str = ""
    """Source of the weights: a repository, or `path:FOLDER`."""
    revision: str = ""
    """Revision of the weights."""
    unmeasured: Mapping[str, str] = field(default_factory=dict[str, str])
    """Score that it does not measure → the setting that it lacks."""
    roles: tuple[Role, ...] = ()
    """Roles that its checkpoint can take; empty for all that its kind offers."""

    def can_take(self, need: Need) -> bool:
        """Whether the model can take a role."""
        return need.role in self.offered and need.find_offer(self.model) is not None

    @property
    def offered(self) -> tuple[Role, ...]:
        """Roles that the model can take."""
        return self.roles or tuple(dict.fromkeys(offer.role for offer in self.model.offers))

    @property
    def aliases(self) -> list[str]:
        """The other names that requests may use for it."""
        return [name for name, role in self.model.aliases.items() if role in self.offered]


@dataclass(frozen=True, eq=False)
class ServedGraph:
    """A deployed graph."""

    graph: Graph
    application: str
    state: str
    entry: GraphEntry


@dataclass(frozen=True, eq=False)
class Assignment:
    """A graph with the models that take its roles in a request."""

    name: str
    """Name in the request: a graph's name or a model's id or alias."""
    graph: Graph
    application: str
    """Application that hosts the graph."""
    models: Mapping[Role, ServedModel]
    own_defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Defaults of the graph, which take precedence over those of the models."""

    @property
    def request(self) -> type[GraphRequest]:
        return self.graph.request

    @property
    def ids(self) -> dict[Role, str]:
        """Role → id of its model."""
        return {role: served.id for role, served in self.models.items()}

    def add_defaults(self, defaults: Mapping[str, Any]) -> "Assignment":
        """Return a copy with further defaults, which the graph's own and those of a request complete."""
        return replace(self, own_defaults=merge_fields(defaults, self.own_defaults))

    def complete_fields(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Merge the defaults into the fields of a request.

        The graph's defaults take precedence over those of its models. The defaults of a model do not enable its stage:
        they apply only if the request, the graph's defaults or the request class enable it.
        """
        fields = merge_fields(self._list_own_defaults(), self.request.expand_shorthands(given))
        for need, served in self._list_request_models():
            if not need.at:
                defaults = drop_refinements(served.defaults, fields, served.model.paired)
                known = self.request.model_fields
                fields = merge_fields({name: value for name, value in defaults.items() if name in known}, fields)
            elif served.defaults and self.request.is_stage_on(need.at, fields):
                defaults = drop_refinements(served.defaults, fields.get(need.at), served.model.paired)
                known = need.request.model_fields if need.request is not None else defaults
                selected = {name: value for name, value in defaults.items() if name in known}
                fields = merge_fields({need.at: selected}, fields)
        return fields

    def _list_own_defaults(self) -> dict[str, Any]:
        """Return the graph's defaults, without those of stages that have no model."""
        defaults = self.request.expand_shorthands(self.own_defaults)
        missing = {need.at for need in self.graph.wants if need.role not in self.models}
        return {name: value for name, value in defaults.items() if name not in missing}

    @property
    def limits(self) -> dict[str, float]:
        """Request field, or `field.field` → maximum value."""
        return {
            f"{need.at}.{name}" if need.at else name: limit
            for need, served in self._list_request_models()
            for name, limit in served.limits.items()
        }

    @property
    def unmeasured(self) -> dict[str, str]:
        """Score that the models do not measure → the setting that is missing."""
        return {
            score: setting for _, served in self._list_request_models() for score, setting in served.unmeasured.items()
        }

    def _list_request_models(self) -> list[tuple[Need, ServedModel]]:
        """Return the roles, and their models, for which a request has fields."""
        return [
            (need, self.models[need.role])
            for need in self.graph.roles
            if need.at is not None and need.role in self.models
        ]
