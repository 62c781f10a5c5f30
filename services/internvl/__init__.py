"""InternVL3.5: describes pictures and answers text."""

from services.internvl.request import DescribeRequest
from services.internvl.service import InternVL, InternVLSettings
from services.licences import grant_apache
from services.model import Model, Offer

SIZES = ("1B", "2B", "4B", "8B", "14B", "38B")

MODEL = Model(
    kind="internvl",
    settings=InternVLSettings,
    service=InternVL,
    offers=(Offer("describe", "describe", DescribeRequest),),
    limits=lambda settings: {"max_new_tokens": settings.max_new_tokens},
    licences={name: grant_apache(name) for name in (f"OpenGVLab/InternVL3_5-{size}-HF" for size in SIZES)},
)
