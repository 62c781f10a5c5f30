"""Real-ESRGAN: upscaling of images and frames by a factor of 2 to 4."""

from services.model import Costs, Model, Offer
from services.realesrgan.cost import INCLUDED, estimate_cost, list_jobs
from services.realesrgan.request import UpscaleRequest
from services.realesrgan.settings import RealEsrganSettings
from services.weights.licences import Licence

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
        )
    },
    command="upscale",
)
