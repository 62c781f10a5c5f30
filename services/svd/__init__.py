"""Stable Video Diffusion: image-to-video."""

from pathlib import Path

from services.checkpoint import load_checkpoints
from services.model import Costs, Model, Offer
from services.svd.cost import estimate_cost, list_jobs
from services.svd.form import SVD, SVD_XT, recognise_form
from services.svd.request import SvdRequest
from services.svd.settings import SvdSettings
from services.weights.licences import Licence

COMMUNITY = Licence(
    "Stability AI Community",
    "restricted",
    "commercial use is free below a yearly revenue that the terms name, and needs a registration",
    "https://stability.ai/license",
)

MODEL = Model(
    kind="svd",
    settings=SvdSettings,
    service="services.svd.service:Svd",
    offers=(Offer("image-to-video", SvdRequest),),
    recognise=recognise_form,
    checkpoints=load_checkpoints(Path(__file__).parent / "checkpoints"),
    costs=Costs(estimate_cost, list_jobs),
    licences={SVD: COMMUNITY, SVD_XT: COMMUNITY},
    command="animate",
)
