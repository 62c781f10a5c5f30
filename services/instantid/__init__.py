"""InstantID's face analysis: detects a face in an image and computes its identity embedding."""

from services.instantid.settings import InstantIdSettings
from services.model import Model, Offer
from services.weights.licences import Licence

PACK = Licence(
    "insightface model pack",
    "forbidden",
    "for non-commercial research only",
    "https://github.com/deepinsight/insightface#license",
)

RECOGNISER = Licence(
    "facexlib's IR-SE50",
    "unknown",
    "facexlib is MIT-licensed and states no terms for the weights, nor for the photos that they were trained on",
    "https://github.com/xinntao/facexlib",
)

MODEL = Model(
    kind="instantid",
    settings=InstantIdSettings,
    service="services.instantid.service:InstantId",
    offers=(Offer("face"),),
    licences={
        "antelopev2": PACK,
        "buffalo_l": PACK,
        "https://github.com/xinntao/facexlib/releases/download/v0.1.0/recognition_arcface_ir_se50.pth": RECOGNISER,
    },
)
