"""The form of a Flux checkpoint, from its configuration files."""

from pathlib import Path

from services.json_files import read_json_object
from services.model import Form

DEV, SCHNELL = "black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.1-schnell"


def recognise_form(folder: Path) -> Form:
    """Return the form of the checkpoint in `folder`: only the network of FLUX.1-dev has an input for the guidance."""
    network = read_json_object(folder / "transformer" / "config.json")
    if not network:
        return Form()
    return Form(DEV if network.get("guidance_embeds") else SCHNELL)
