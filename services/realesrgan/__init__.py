"""Real-ESRGAN: upscaling of images and frames by a factor of 2 to 4."""

from services.model import Costs, Model, Offer
from services.realesrgan.cost import INCLUDED, estimate_cost, list_jobs
from services.realesrgan.request import UpscaleRequest
from services.realesrgan.settings import RealEsrganSettings
from services.weights.licences import Licence, grant_bsd

RELEASES = "https://github.com/xinntao/Real-ESRGAN/releases/download"

MODEL = Model(
    kind="realesrgan",
    settings=RealEsrganSettings,
    service="services.realesrgan.service:RealEsrgan",
    offers=(Offer("upscale", UpscaleRequest),),
    costs=Costs(estimate_cost, list_jobs, INCLUDED),
    licences={
        "realesr-animevideov3": Licence(
            "BSD-3-Clause",
            "free",
            "comes with the project",
            "https://github.com/xinntao/Real-ESRGAN/blob/master/LICENSE",
        ),
        **{
            f"{RELEASES}/{file}": grant_bsd("https://github.com/xinntao/Real-ESRGAN/blob/master/LICENSE")
            for file in ("v0.1.0/RealESRGAN_x4plus.pth", "v0.2.5.0/realesr-general-x4v3.pth")
        },
    },
    command="upscale",
)
