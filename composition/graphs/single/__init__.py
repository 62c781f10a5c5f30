"""Jobs of one model alone: a graph for each kind of model that gives frames or pictures."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from pydantic import BaseModel, Field, create_model

from composition.graphs.graph import Graph, Need
from composition.graphs.single.request import (
    AnimationJob,
    EditJob,
    FilmJob,
    PictureJob,
    RepaintJob,
    SingleRequest,
    UpscaleJob,
)
from composition.variants import VIDEO
from services.catalogue import MODELS
from services.model import Model, Offer, Role

NAME = "single"
"""The graph that runs jobs of every model alone."""


@dataclass(frozen=True)
class JobType:
    """What the jobs of all models of a role share."""

    request: type[SingleRequest]
    """The fields besides those of the model's own request."""
    stages: Mapping[str, float]
    outputs: tuple[str, ...] = ()


JOB_TYPES: Mapping[Role, JobType] = {
    "guided-edit": JobType(EditJob, {"denoise": 1.0}),
    "image-to-video": JobType(AnimationJob, {"denoise": 0.85, "decode": 0.15}, (VIDEO,)),
    "restyle": JobType(RepaintJob, {"denoise": 1.0}),
    "text-to-image": JobType(PictureJob, {"paint": 1.0}),
    "text-to-video": JobType(FilmJob, {"denoise": 0.85, "decode": 0.15}, (VIDEO,)),
    "upscale": JobType(UpscaleJob, {"upscale": 1.0}, (VIDEO,)),
}
"""The roles whose models can run a job alone; the other roles produce no frames or pictures."""


def _make_graph(model: Model[Any]) -> Graph | None:
    """Make the graph of a kind from the first of its offers that produces frames or pictures."""
    for offer in model.offers:
        job_type = JOB_TYPES.get(offer.role)
        if job_type is not None and offer.request is not None:
            return Graph(
                model.kind,
                _make_request(model, offer, job_type.request),
                "composition.graphs.single.graph:Single",
                needs=(Need(offer.role, offer.request, at=""),),
                stages=job_type.stages,
                outputs=job_type.outputs,
            )
    return None


def _make_request(model: Model[Any], offer: Offer, shape: type[SingleRequest]) -> type[SingleRequest]:
    """Make the class of the requests. It becomes an attribute of this module, where other processes can unpickle it."""
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
