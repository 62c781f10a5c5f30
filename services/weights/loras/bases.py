"""The base model of a LoRA file, by the names and sizes of its layers, for the message that refuses it."""

import re
from collections.abc import Iterable, Mapping

from services.weights.loras.adaptation import Architecture, Target
from services.weights.loras.names import FLAT_PREFIXES, WRAPPERS

FAMILIES: Mapping[Architecture, str] = {"flux": "FLUX.1", "wan": "Wan", "qwen-image": "Qwen-Image"}

UNET = r"(?:down_blocks|up_blocks|mid_block|input_blocks|middle_block|output_blocks)_"
BASES = (
    ("AnimateDiff", r"motion_modules_"),
    ("Stable Video Diffusion", r"temporal_transformer_blocks|time_stack"),
    ("HunyuanVideo", r"token_refiner|_(?:img|txt)_mlp_fc\d|modulation_linear|_mod_linear"),
    ("FLUX.2", r"double_stream_modulation|single_stream_modulation|to_qkv_mlp_proj"),
    ("Chroma", r"distilled_guidance_layer"),
    ("HiDream", r"(?:double|single)_stream_blocks_"),
    ("Wan VACE", r"vace_blocks_"),
    ("Stable Diffusion 3", r"^joint_blocks_"),
    ("AuraFlow", r"joint_transformer_blocks_"),
    ("Kandinsky 5", r"(?:visual|text)_transformer_blocks_"),
    ("Mochi", r"attn_qkv_[xy]"),
    ("Cosmos", r"^blocks_\d+_(?:(?:self|cross)_attn_(?:[qkv]_proj|output_proj)|adaln_modulation)"),
    ("HunyuanDiT", r"^blocks_\d+_(?:attn[12]_(?:Wqkv|q_proj|kv_proj|out_proj)|skip_linear)|^pooler_"),
    ("Qwen-Image", r"^transformer_blocks_\d+_(?:img|txt)_(?:mlp|mod)_"),
    ("Qwen-Image", r"^transformer_blocks_(?:2[4-9]|[3-5]\d)_attn_(?:to|add)_"),
    ("HunyuanVideo", r"^single_(?:transformer_)?blocks_(?:3[89])_|^(?:double|transformer)_blocks_19_"),
    ("FLUX.1 Canny or Depth", r"_norm_(?:query|key)_norm_scale$"),
    ("FLUX.1", r"^single_transformer_blocks_|_ff_context_|^(?:double|single)_blocks_\d+_"),
    ("Wan", r"^blocks_\d+_(?:(?:self|cross)_attn_[qkvo]|attn[12]_to_|ffn_)"),
    ("LTX-Video", r"transformer_blocks_\d+_attn2_to_|patchify_proj"),
    ("CogVideoX", r"transformer_blocks_\d+_attn1_to_"),
    ("Lumina or Z-Image", r"noise_refiner|context_refiner|^layers_\d+_(?:attention|feed_forward|adaLN)"),
    ("a language model", r"^layers_\d+_(?:self_attn|mlp)_"),
)
"""Name of a base model → pattern of its layers, without the prefix of the file and with underscores for dots."""
UNETS = {768: "Stable Diffusion 1.5", 1024: "Stable Diffusion 2", 2048: "SDXL"}
"""Width of the text embeddings → base model."""
JOINT = re.compile(r"^transformer_blocks_\d+_attn_(?:to_[qkv]|add_[qkv]_proj)_(?:lora_down|lora_A)")
JOINT_WIDTHS = {1536: "Stable Diffusion 3", 2432: "Stable Diffusion 3.5 Large"}
"""Width of the states, where the layers have the names of FLUX.1's → base model."""
WIDTHS: Mapping[Architecture, Mapping[int, str]] = {
    "flux": {3072: "FLUX.1", 6144: "FLUX.2", **JOINT_WIDTHS},
    "wan": {1536: "Wan2.1 1.3B", 3072: "Wan2.2 5B", 5120: "Wan 14B", 1408: "HunyuanDiT", 2048: "CogVideoX"},
    "qwen-image": {3072: "Qwen-Image", **JOINT_WIDTHS},
}
"""Width of the transformer's states → base model."""
STATES: Mapping[Architecture, str] = {
    "flux": "transformer_blocks.0.attn.to_q",
    "wan": "blocks.0.attn1.to_q",
    "qwen-image": "transformer_blocks.0.attn.to_q",
}


def name_base(keys: Iterable[str], shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Return the name of the base model that has layers of these names; None if they are unknown.

    Args:
        keys: keys of a LoRA file.
        shapes: shapes of all tensors of the file, by key.
    """
    for key in keys:
        shape = shapes[key]
        if JOINT.search(_flatten(key)) and len(shape) == 2 and shape[1] in JOINT_WIDTHS:
            return JOINT_WIDTHS[shape[1]]
    for name, pattern in ((None, UNET), *BASES):
        found = re.compile(pattern)
        for key in keys:
            if found.search(_flatten(key)):
                return name or _name_unet(shapes)
    return None


def name_width(architecture: Architecture, width: int) -> str | None:
    """Return the name of the model of this architecture's layer names that has this width, if it is known."""
    return WIDTHS[architecture].get(width)


def name_target(target: Target) -> str:
    """Return the name of the transformer that a LoRA is read for, with its size if it is known."""
    width = target.layers.get(STATES[target.architecture], (0, 0))[0]
    return name_width(target.architecture, width) or FAMILIES[target.architecture]


def name_stated(metadata: Mapping[str, str]) -> str | None:
    """Return the base model that the metadata states, of those whose layers may have the same names and sizes."""
    stated = f"{metadata.get('modelspec.architecture', '')} {metadata.get('ss_base_model_version', '')}".lower()
    if re.search(r"qwen[-_]?image", stated):
        return "Qwen-Image"
    return "FLUX.1" if re.search(r"flux[-_.]?1", stated) else None


def _flatten(key: str) -> str:
    """Return the name of a key's layer, with underscores for dots."""
    prefix = next((prefix for prefix in FLAT_PREFIXES if key.startswith(prefix)), "")
    return WRAPPERS.sub("", key.removeprefix(prefix)).replace(".", "_")


def _name_unet(shapes: Mapping[str, tuple[int, ...]]) -> str:
    for key, shape in shapes.items():
        if re.search(r"attn2[._]to_k\.(?:lora_down|lora_A|lora\.down|down)", key) and len(shape) > 1:
            return UNETS.get(shape[1], "Stable Diffusion")
    return "SDXL" if any(key.startswith(("lora_te2_", "text_encoder_2.")) for key in shapes) else "Stable Diffusion"
