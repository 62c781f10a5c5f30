"""Stable Video Diffusion: image-to-video."""

from pathlib import Path

from services.checkpoint import load_checkpoints
from services.model import Model, Offer
from services.svd.request import SvdRequest
from services.svd.settings import SvdSettings
from services.weights.licences import Licence

MODEL = Model(
    kind="svd",
    settings=SvdSettings,
    service="services.svd.service:Svd",
    offers=(Offer("image-to-video", SvdRequest),),
    checkpoints=load_checkpoints(Path(__file__).parent / "checkpoints"),
    licences={
        "stabilityai/stable-video-diffusion-img2vid-xt": Licence(
            "Stability AI Community",
            "restricted",
            "commercial use is free below a yearly revenue that the terms name, and needs a registration",
            "https://stability.ai/license",
        )
    },
    command="animate",
)
