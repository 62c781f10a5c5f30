"""FLUX.1: text to image, with LoRAs and the identity of a face."""

from pathlib import Path

from services.checkpoint import load_checkpoints
from services.flux.cost import estimate_cost, list_jobs
from services.flux.form import recognise_form
from services.flux.request import FluxRequest
from services.flux.settings import FluxSettings
from services.model import Costs, Model, Offer
from services.weights.licences import Licence, deny_commerce, grant_apache
from services.weights.loras.settings import place_loras

SCHNELL, IDENTITY = "black-forest-labs/FLUX.1-schnell", "ByteDance/InfiniteYou"


MODEL = Model(
    kind="flux",
    settings=FluxSettings,
    service="services.flux.service:Flux",
    offers=(Offer("text-to-image", FluxRequest),),
    recognise=recognise_form,
    checkpoints=load_checkpoints(Path(__file__).parent / "checkpoints"),
    prepare=place_loras,
    costs=Costs(estimate_cost, list_jobs),
    licences={
        SCHNELL: grant_apache(SCHNELL),
        IDENTITY: deny_commerce(IDENTITY),
        "black-forest-labs/FLUX.1-dev": Licence(
            "FLUX.1 [dev] Non-Commercial",
            "forbidden",
            "commercial use requires a licence from Black Forest Labs",
            "https://huggingface.co/black-forest-labs/FLUX.1-dev/blob/main/LICENSE.md",
        ),
    },
)
