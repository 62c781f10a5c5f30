"""Toy: image-to-video that repeats its input."""

from services.model import Model, Offer
from services.toy.request import ToyRequest
from services.toy.settings import ToySettings

MODEL = Model(
    kind="toy",
    settings=ToySettings,
    service="services.toy.service:Toy",
    offers=(Offer("image-to-video", ToyRequest),),
)
