"""InternVL3.5: descriptions of images, and answers to text."""

from pathlib import Path

from services.checkpoint import load_checkpoints
from services.internvl.cost import estimate_cost, list_jobs
from services.internvl.request import DescribeRequest
from services.internvl.settings import InternVLSettings
from services.model import Costs, Model, Offer
from services.weights.licences import grant_apache

SIZES = ("1B", "2B", "4B", "8B", "14B", "38B")

MODEL = Model(
    kind="internvl",
    settings=InternVLSettings,
    service="services.internvl.service:InternVL",
    offers=(Offer("describe", DescribeRequest),),
    checkpoints=load_checkpoints(Path(__file__).parent / "checkpoints"),
    costs=Costs(estimate_cost, list_jobs),
    licences={name: grant_apache(name) for name in (f"OpenGVLab/InternVL3_5-{size}-HF" for size in SIZES)},
)
