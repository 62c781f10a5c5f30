"""Stable Video Diffusion: image-to-video."""

from services.licences import Licence
from services.model import Model, Offer
from services.svd.request import SvdRequest
from services.svd.service import Svd, SvdSettings

MODEL = Model(
    kind="svd",
    settings=SvdSettings,
    service=Svd,
    offers=(Offer("image-to-video", "animate", SvdRequest),),
    limits=lambda settings: {
        "num_frames": settings.max_frames,
        "max_area": settings.max_area,
        "steps": settings.max_steps,
    },
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
