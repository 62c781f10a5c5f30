"""Request of the graph `there-and-back`."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from composition.graphs.request import GraphRequest
from services.limits import parse_json_object
from services.toy.request import ToyRequest


class ThereAndBackRequest(GraphRequest):
    """An image to a video that is played forwards, then backwards."""

    MEDIA = {"image": "image"}  # noqa: RUF012
    REFERENCE = "image"

    image: str
    """The first and the last frame."""
    turns: Annotated[int, Field(ge=1, le=10)] = 1
    """How many times it is played forwards and backwards."""
    animate: Annotated[ToyRequest, BeforeValidator(parse_json_object)] = ToyRequest()
    """How the image is animated. In a form it is JSON."""
