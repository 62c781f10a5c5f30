"""Wan2.2 image-to-video."""

from services.licences import grant_apache
from services.model import Model, Offer
from services.wan.request import WanRequest
from services.wan.service import Wan, WanSettings

REPOSITORIES = (
    "Wan-AI/Wan2.2-I2V-A14B-Diffusers",
    "Wan-AI/Wan2.2-T2V-A14B-Diffusers",
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
)

MODEL = Model(
    kind="wan",
    settings=WanSettings,
    service=Wan,
    offers=(Offer("image-to-video", "generate", WanRequest, pictures={"last_image": "The frame to end with."}),),
    limits=lambda settings: {
        "num_frames": settings.max_frames,
        "max_area": settings.max_area,
        "steps": settings.max_steps,
    },
    rate=lambda settings: settings.rate,
    licences={name: grant_apache(name) for name in REPOSITORIES},
    aliases=("wan-i2v",),
    command="i2v",
)
