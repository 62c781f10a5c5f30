"""InstantID's eyes: finds a face in a picture, and says whose it is."""

from services.instantid.service import InstantId, InstantIdSettings
from services.licences import Licence
from services.model import Model, Offer

PACK = Licence(
    "insightface model pack",
    "forbidden",
    "for non-commercial research only",
    "https://github.com/deepinsight/insightface#license",
)

MODEL = Model(
    kind="instantid",
    settings=InstantIdSettings,
    service=InstantId,
    offers=(Offer("face", "face"),),
    licences={"antelopev2": PACK, "buffalo_l": PACK},
)
