"""The form of a Wan checkpoint, from its configuration files."""

from pathlib import Path

from services.json_files import read_json_object
from services.model import Form

I2V_A14B = "Wan-AI/Wan2.2-I2V-A14B-Diffusers"
T2V_A14B = "Wan-AI/Wan2.2-T2V-A14B-Diffusers"
TI2V_5B = "Wan-AI/Wan2.2-TI2V-5B-Diffusers"


def recognise_form(folder: Path) -> Form:
    """Return the form of the checkpoint in `folder`.

    TI2V-5B has time steps for each token, A14B two experts. The image-to-video form has more input channels than
    output channels: the condition is beside the latents.
    """
    index = read_json_object(folder / "model_index.json")
    if not index:
        return Form()
    if index.get("expand_timesteps"):
        return Form(TI2V_5B)
    network = read_json_object(folder / "transformer" / "config.json")
    takes_picture = network.get("in_channels") != network.get("out_channels")
    if index.get("boundary_ratio") is None:  # Wan2.1
        return Form(roles=("image-to-video",) if takes_picture else ("text-to-video",))
    return Form(I2V_A14B if takes_picture else T2V_A14B)
