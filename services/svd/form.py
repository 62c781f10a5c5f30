"""The form of a checkpoint of Stable Video Diffusion, from its configuration files."""

from pathlib import Path

from services.json_files import read_json_object
from services.model import Form

SVD = "stabilityai/stable-video-diffusion-img2vid"
SVD_XT = "stabilityai/stable-video-diffusion-img2vid-xt"


def recognise_form(folder: Path) -> Form:
    """Return the form of the checkpoint in `folder`, which differ in the number of frames that they were trained on."""
    network = read_json_object(folder / "unet" / "config.json")
    return Form({14: SVD, 25: SVD_XT}.get(network.get("num_frames", 0), ""))
