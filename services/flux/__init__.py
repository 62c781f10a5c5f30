"""FLUX.1: text to image, with LoRAs and the identity of a face."""

from pathlib import Path

from services.checkpoint import load_checkpoints
from services.flux.form import recognise_form
from services.flux.request import FluxRequest
from services.flux.settings import FluxSettings
from services.model import Model, Offer
from services.weights.licences import Licence, deny_commerce, grant_apache

SCHNELL, IDENTITY = "black-forest-labs/FLUX.1-schnell", "ByteDance/InfiniteYou"


def place_loras(settings: FluxSettings, home: Path) -> FluxSettings:
    """Return the settings with `lora_dir`; if it is not set, create `home/loras` and use it."""
    if settings.lora_dir is not None:
        return settings
    folder = home / "loras"
    folder.mkdir(mode=0o700, exist_ok=True)
    return settings.model_copy(update={"lora_dir": folder})


MODEL = Model(
    kind="flux",
    settings=FluxSettings,
    service="services.flux.service:Flux",
    offers=(Offer("text-to-image", FluxRequest),),
    recognise=recognise_form,
    checkpoints=load_checkpoints(Path(__file__).parent / "checkpoints"),
    prepare=place_loras,
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
