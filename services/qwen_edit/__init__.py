"""Qwen-Image-Edit: a picture redrawn by a prompt and other pictures, guided by losses while it is sampled."""

from services.licences import grant_apache
from services.model import Model, Offer
from services.qwen_edit.request import EditRequest
from services.qwen_edit.service import QwenEdit, QwenEditSettings

REPOSITORY = "Qwen/Qwen-Image-Edit-2509"

MODEL = Model(
    kind="qwen-edit",
    settings=QwenEditSettings,
    service=QwenEdit,
    offers=(Offer("guided-edit", "edit", EditRequest),),
    limits=lambda settings: {"max_area": settings.max_area, "steps": settings.max_steps},
    licences={REPOSITORY: grant_apache(REPOSITORY)},
)
