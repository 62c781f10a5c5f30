"""Names and shapes of the tensors in the published files of the known checkpoints.

`tensors/NAME.txt` has a line for each pattern of names, followed by the shape: `blocks.{0-39}.norm2.weight 5120` stands
for 40 tensors. The names are those in the files, which for transformers' networks are often older than the class's.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from services.catalogue import MODELS
from services.checkpoint import Checkpoint, Component

FOLDER = Path(__file__).parent / "tensors"
_RANGE = re.compile(r"\{(\d+)-(\d+)\}")

TENSORS = {
    ("OpenGVLab/InternVL3_5-8B-HF", ""): "internvl",
    ("Wan-AI/Wan2.2-I2V-A14B-Diffusers", "transformer"): "wan_i2v_expert",
    ("Wan-AI/Wan2.2-I2V-A14B-Diffusers", "transformer_2"): "wan_i2v_expert",
    ("Wan-AI/Wan2.2-I2V-A14B-Diffusers", "text_encoder"): "umt5_xxl",
    ("Wan-AI/Wan2.2-T2V-A14B-Diffusers", "text_encoder"): "umt5_xxl",
    ("Wan-AI/Wan2.2-TI2V-5B-Diffusers", "text_encoder"): "umt5_xxl",
    ("Wan-AI/Wan2.2-I2V-A14B-Diffusers", "vae"): "wan_vae",
    ("Wan-AI/Wan2.2-T2V-A14B-Diffusers", "vae"): "wan_vae",
    ("Qwen/Qwen-Image-Edit-2509", "vae"): "wan_vae",
    ("Qwen/Qwen-Image-Edit-2511", "vae"): "wan_vae",
    ("Wan-AI/Wan2.2-T2V-A14B-Diffusers", "transformer"): "wan_t2v_expert",
    ("Wan-AI/Wan2.2-T2V-A14B-Diffusers", "transformer_2"): "wan_t2v_expert",
    ("Wan-AI/Wan2.2-TI2V-5B-Diffusers", "transformer"): "wan_ti2v",
    ("Wan-AI/Wan2.2-TI2V-5B-Diffusers", "vae"): "wan_vae_2_2",
    ("Qwen/Qwen-Image-Edit-2509", "transformer"): "qwen_transformer",
    ("Qwen/Qwen-Image-Edit-2511", "transformer"): "qwen_transformer",
    ("Qwen/Qwen-Image-Edit-2509", "text_encoder"): "qwen2_5_vl",
    ("Qwen/Qwen-Image-Edit-2511", "text_encoder"): "qwen2_5_vl",
    ("black-forest-labs/FLUX.1-dev", "transformer"): "flux_dev",
    ("black-forest-labs/FLUX.1-dev", "text_encoder"): "clip_l",
    ("black-forest-labs/FLUX.1-schnell", "text_encoder"): "clip_l",
    ("black-forest-labs/FLUX.1-dev", "text_encoder_2"): "t5_xxl",
    ("black-forest-labs/FLUX.1-schnell", "text_encoder_2"): "t5_xxl",
    ("black-forest-labs/FLUX.1-dev", "vae"): "flux_vae",
    ("black-forest-labs/FLUX.1-schnell", "vae"): "flux_vae",
    ("ByteDance/InfiniteYou", "infu_flux_v1.0/aes_stage2/InfuseNetModel"): "infusenet",
    ("ByteDance/InfiniteYou", "infu_flux_v1.0/sim_stage1/InfuseNetModel"): "infusenet",
    ("ByteDance/InfiniteYou", "infu_flux_v1.0/aes_stage2"): "resampler",
    ("ByteDance/InfiniteYou", "infu_flux_v1.0/sim_stage1"): "resampler",
    ("black-forest-labs/FLUX.1-schnell", "transformer"): "flux_schnell",
    ("Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers-Distilled", "transformer"): "hunyuan_dit",
    ("Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers-Distilled", "text_encoder"): "bert",
    ("Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers-Distilled", "text_encoder_2"): "mt5_xl",
    ("Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers-Distilled", "vae"): "image_vae",
    ("ali-vilab/text-to-video-ms-1.7b", "vae"): "image_vae",
    ("stabilityai/stable-video-diffusion-img2vid", "unet"): "svd_unet",
    ("stabilityai/stable-video-diffusion-img2vid-xt", "unet"): "svd_unet",
    ("stabilityai/stable-video-diffusion-img2vid", "image_encoder"): "vit_h",
    ("stabilityai/stable-video-diffusion-img2vid-xt", "image_encoder"): "vit_h",
    ("stabilityai/stable-video-diffusion-img2vid", "vae"): "svd_vae",
    ("stabilityai/stable-video-diffusion-img2vid-xt", "vae"): "svd_vae",
    ("ali-vilab/text-to-video-ms-1.7b", "unet"): "ms_unet",
    ("ali-vilab/text-to-video-ms-1.7b", "text_encoder"): "clip_h",
}
"""Repository, component → name of its file in `tensors/`."""

Shapes = dict[str, tuple[int, ...]]


def list_components() -> list[tuple[Checkpoint, Component]]:
    """Return the components of all known checkpoints."""
    checkpoints = (checkpoint for model in MODELS for checkpoint in model.checkpoints)
    return [(checkpoint, component) for checkpoint in checkpoints for component in checkpoint.components]


def list_networks() -> dict[str, Component]:
    """Return the name of each file in `tensors/` → the first component with these tensors."""
    found: dict[str, Component] = {}
    for checkpoint, component in list_components():
        found.setdefault(TENSORS[checkpoint.repository, component.name], component)
    return found


def parse_tensors(text: str) -> Shapes:
    """Return the name of each tensor of a list → its shape."""
    found: Shapes = {}
    for line in text.splitlines():
        pattern, *shape = line.split()
        for name in expand_ranges(pattern):
            assert name not in found, f"{name} is listed twice"
            found[name] = tuple(map(int, shape))
    return found


def expand_ranges(pattern: str) -> Iterator[str]:
    """Yield the names that a pattern stands for."""
    match = _RANGE.search(pattern)
    if match is None:
        yield pattern
        return
    for number in range(int(match[1]), int(match[2]) + 1):
        yield from expand_ranges(f"{pattern[: match.start()]}{number}{pattern[match.end() :]}")


@cache
def read_tensors(name: str) -> Shapes:
    """Return the name of each tensor of `tensors/NAME.txt` → its shape."""
    return parse_tensors((FOLDER / f"{name}.txt").read_text())


def find_component(repository: str, name: str) -> Component:
    """Return a component of a known checkpoint."""
    (found,) = (
        part for checkpoint, part in list_components() if (checkpoint.repository, part.name) == (repository, name)
    )
    return found
