"""Toy: image-to-video that repeats its input."""

from services.toy.request import ToyRequest
from services.toy.settings import ToySettings

from services.model import Model, Offer

MODEL = Model(
    kind="toy",
    settings=ToySettings,
    service="services.toy.service:Toy",
    offers=(Offer("image-to-video", ToyRequest),),
)
