"""Jobs of one model alone: a graph for each kind of model that gives frames or pictures."""

import sys
from collections.abc import Mapping
from typing import Any, cast

from pydantic import BaseModel, Field, create_model

from composition.graphs.graph import Graph, Need
from composition.graphs.single.request import JOBS, SingleRequest
from services.catalogue import MODELS
from services.model import Model, Offer

NAME = "single"
"""The graph that runs jobs of every model alone."""


def _make_graph(model: Model[Any]) -> Graph | None:
    """Make the graph of a kind, by the first of its offers that gives frames or pictures."""
    for offer in model.offers:
        if offer.role in JOBS and offer.request is not None:
            need = Need(offer.role, offer.request, at="")
            request = _make_request(model, offer)
            return Graph(model.kind, request, "composition.graphs.single.graph:Single", needs=(need,))
    return None


def _make_request(model: Model[Any], offer: Offer) -> type[SingleRequest]:
    """Make the class of the requests. It is kept in this module, where Ray finds it in another process."""
    shape = JOBS[offer.role]
    asked = cast("type[BaseModel]", offer.request)
    more: dict[str, Any] = {
        field: (str | None, Field(default=None, description=text)) for field, text in offer.pictures.items()
    }
    name = f"{''.join(part.title() for part in model.kind.split('-'))}Job"
    created = create_model(name, __base__=(shape, asked), __module__=__name__, __doc__=shape.__doc__, **more)
    made = cast("type[SingleRequest]", created)
    made.OFFER = offer
    made.MEDIA = {**shape.MEDIA, **dict.fromkeys(offer.pictures, "image")}
    setattr(sys.modules[__name__], name, made)
    return made


SINGLES: Mapping[str, Graph] = {model.kind: graph for model in MODELS if (graph := _make_graph(model)) is not None}
"""Kind of model → the graph of its jobs."""
