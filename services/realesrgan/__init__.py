"""Real-ESRGAN: pictures and frames, two to four times as large."""

from services.licences import Licence
from services.model import Model, Offer
from services.realesrgan.request import UpscaleRequest
from services.realesrgan.service import RealEsrgan, RealEsrganSettings

MODEL = Model(
    kind="realesrgan",
    settings=RealEsrganSettings,
    service=RealEsrgan,
    offers=(Offer("upscale", "upscale", UpscaleRequest),),
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
