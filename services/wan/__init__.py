"""Wan2.2: image-to-video and text-to-video."""

from pathlib import Path

from services.checkpoint import load_checkpoints
from services.model import Costs, Model, Offer
from services.wan.cost import estimate_cost, list_jobs
from services.wan.form import recognise_form
from services.wan.request import WanRequest, WanTextRequest
from services.wan.settings import WanSettings
from services.weights.licences import grant_apache
from services.weights.loras.settings import place_loras

REPOSITORIES = (
    "Wan-AI/Wan2.2-I2V-A14B-Diffusers",
    "Wan-AI/Wan2.2-T2V-A14B-Diffusers",
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
)

MODEL = Model(
    kind="wan",
    settings=WanSettings,
    service="services.wan.service:Wan",
    offers=(
        Offer("image-to-video", WanRequest, pictures={"last_image": "The last frame."}),
        Offer("text-to-video", WanTextRequest),
    ),
    recognise=recognise_form,
    checkpoints=load_checkpoints(Path(__file__).parent / "checkpoints"),
    paired={"guidance_scale_2": "guidance_scale"},
    rate=lambda settings: settings.rate,
    prepare=place_loras,
    costs=Costs(estimate_cost, list_jobs),
    licences={name: grant_apache(name) for name in REPOSITORIES},
    aliases={"wan-i2v": "image-to-video", "wan-t2v": "text-to-video"},
    command="i2v",
    role_commands={"t2v": "text-to-video"},
)
