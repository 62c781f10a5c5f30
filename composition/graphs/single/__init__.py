"""Jobs of a single model: one graph per kind of model that produces frames or pictures."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from pydantic import BaseModel, Field, create_model

from composition.graphs.graph import Graph, Need
from composition.graphs.single.request import (
    IMAGE_TO_VIDEO,
    TEXT_TO_VIDEO,
    AnimationJob,
    ClipJob,
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
"""The name under which the graphs of single models are deployed."""


@dataclass(frozen=True)
class JobType:
    """Properties of the jobs of all models of a role."""

    request: type[SingleRequest]
    """Base class with the fields that the role adds to the model's own request."""
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
CLIPS: frozenset[Role] = frozenset({IMAGE_TO_VIDEO, TEXT_TO_VIDEO})
"""The roles that one kind of model may take together: whether a request has a picture decides which."""


def _make_graph(model: Model[Any]) -> Graph | None:
    """Make the graph of a kind: of both roles in CLIPS, else of its first offer that makes frames or pictures."""
    offers = [offer for offer in model.offers if offer.role in JOB_TYPES and offer.request is not None]
    if not offers:
        return None
    job_type = JOB_TYPES[offers[0].role]
    if {offer.role for offer in offers} >= CLIPS:
        job_type = replace(job_type, request=ClipJob)
        offers = sorted((offer for offer in offers if offer.role in CLIPS), key=lambda offer: offer.role)
    else:
        offers = offers[:1]
    return Graph(
        model.kind,
        _make_request(model, offers, job_type.request),
        "composition.graphs.single.graph:Single",
        needs=tuple(Need(offer.role, offer.request, at="") for offer in offers),
        stages=job_type.stages,
        outputs=job_type.outputs,
    )


def _make_request(model: Model[Any], offers: Sequence[Offer], shape: type[SingleRequest]) -> type[SingleRequest]:
    """Create the request class, as an attribute of this module so that other processes can unpickle it.

    It has the fields of the first offer, which are all that the model has.
    """
    offer = offers[0]
    own = cast("type[BaseModel]", offer.request)
    more: dict[str, Any] = {
        field: (str | None, Field(default=None, description=text)) for field, text in offer.pictures.items()
    }
    name = f"{''.join(part.title() for part in model.kind.split('-'))}Job"
    created = create_model(name, __base__=(shape, own), __module__=__name__, __doc__=shape.__doc__, **more)
    request = cast("type[SingleRequest]", created)
    request.OFFERS = tuple(offers)
    request.MEDIA = {**shape.MEDIA, **dict.fromkeys(offer.pictures, "image")}
    setattr(sys.modules[__name__], name, request)
    return request


SINGLES: Mapping[str, Graph] = {model.kind: graph for model in MODELS if (graph := _make_graph(model)) is not None}
"""Kind of model → the graph of its jobs."""
