"""Names of the layouts of LoRA files, for records and messages."""

import re
from collections.abc import Sequence

from services.weights.loras.adaptation import Target
from services.weights.loras.changes import Change

OWN_NAMES = re.compile(
    r"(?:double_blocks|single_blocks|img_in|txt_in|time_in|vector_in|guidance_in|final_layer)\b"
    r"|blocks\.\d+\.(?:self_attn|cross_attn|ffn\.\d|norm3|modulation)|head\.|(?:time|text)_embedding|time_projection|img_emb"
)
"""Names of layers in the model's own code, where they differ from diffusers'."""

FLAT = {"lora_transformer_": "OneTrainer", "lora_dit_": "musubi-tuner", "lycoris_": "LyCORIS"}
SHOWN = {"XLabs": re.compile(r"\.processor\."), "OMI": re.compile(r"\.(?:qkv|linear1)\.\d$")}
"""Layout → names of layers that only it has."""
NAMED = {"transformer.": "diffusers"}
"""Prefix → layout."""


def name_layout(changes: Sequence[Change], target: Target) -> str:
    """Return the name of a file's layout, e.g. `sd-scripts`, from the names of its layers and tensors."""
    change = changes[0]
    prefix = change.stem.removesuffix(change.name)
    kinds = {kind for each in changes for kind in each.keys}
    endings = {key.ending for each in changes for key in each.keys.values()}
    own = target.architecture != "qwen-image" and any(OWN_NAMES.match(each.name) for each in changes)
    for layout, pattern in SHOWN.items():
        if any(pattern.search(each.name) for each in changes):
            return layout
    if prefix in FLAT:
        return FLAT[prefix]
    if prefix == "lora_unet_":
        return "sd-scripts" if target.architecture == "flux" else "musubi-tuner"
    if prefix.endswith("diffusion_model."):
        differences = kinds & {"weight_difference", "bias_difference"}
        return "lightx2v" if differences and target.architecture == "wan" else "ComfyUI"
    if own:
        return "fal" if prefix else "DiffSynth"
    named = any(re.fullmatch(r"\.lora_[AB]\.[^.]+\.weight", ending) for ending in endings)
    return "PEFT with an adapter's name" if named else NAMED.get(prefix, "PEFT")
