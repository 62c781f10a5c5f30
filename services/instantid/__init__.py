"""Face detection for identity conditioning: finds a face in a picture and computes its identity embedding."""

from services.instantid.settings import InstantIdSettings
from services.model import Model, Offer
from services.weights.licences import Licence

PACK = Licence(
    "insightface model pack",
    "forbidden",
    "for non-commercial research only",
    "https://github.com/deepinsight/insightface#license",
)

MODEL = Model(
    kind="instantid",
    settings=InstantIdSettings,
    service="services.instantid.service:InstantId",
    offers=(Offer("face"),),
    licences={"antelopev2": PACK, "buffalo_l": PACK},
)
