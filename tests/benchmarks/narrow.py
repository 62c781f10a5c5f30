"""The models of the GPU benchmark with narrow networks and small pictures, so that it can be rehearsed on a CPU."""

import dataclasses
from collections.abc import Mapping

from pydantic import JsonValue

from benchmarks.gpu_cases import SUBJECTS, Subject
from benchmarks.gpu_passes import Canvas
from services.checkpoint import Component

WIDTH = 32
"""Channels of texts, and of most networks."""
SIDE = 64
Config = dict[str, JsonValue]

_DIFFUSION: Config = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 1}
_FLUX: Config = {
    **_DIFFUSION,
    "num_single_layers": 1,
    "joint_attention_dim": WIDTH,
    "pooled_projection_dim": WIDTH,
    "axes_dims_rope": [4, 6, 6],
}
_T5: Config = {"vocab_size": 64, "d_model": WIDTH, "d_kv": 16, "d_ff": 48, "num_layers": 1, "num_heads": 2}
_LAYERS: Config = {"hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
_CLIP: Config = {**_LAYERS, "projection_dim": WIDTH}
_QWEN: Config = {**_LAYERS, "vocab_size": 64, "num_key_value_heads": 1, "layer_types": ["full_attention"]}
_CAUSAL_VAE: Config = {"base_dim": 8, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}
_VAE: Config = {"block_out_channels": [32, 32, 32, 32], "layers_per_block": 1}
_UNET: Config = {**_VAE, "cross_attention_dim": WIDTH}

NARROW: Mapping[str, Config] = {
    "WanTransformer3DModel": {**_DIFFUSION, "text_dim": WIDTH, "freq_dim": 32, "ffn_dim": 48},
    "AutoencoderKLWan": {**_CAUSAL_VAE, "decoder_base_dim": 8},
    "UMT5EncoderModel": _T5,
    "T5EncoderModel": _T5,
    "FluxTransformer2DModel": _FLUX,
    "services.flux.identity:IdentityControlNet": _FLUX,
    "CLIPTextModel": {**_CLIP, "vocab_size": 64},
    "CLIPVisionModelWithProjection": {**_CLIP, "image_size": 28},
    "AutoencoderKL": _VAE,
    "AutoencoderKLTemporalDecoder": _VAE,
    "AutoencoderKLQwenImage": _CAUSAL_VAE,
    "QwenImageTransformer2DModel": {**_DIFFUSION, "joint_attention_dim": WIDTH, "axes_dims_rope": [4, 6, 6]},
    "Qwen2_5_VLForConditionalGeneration": {
        "text_config": {
            **_QWEN,
            "max_window_layers": 1,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6},
        },
        "vision_config": {
            "depth": 1,
            "hidden_size": 32,
            "num_heads": 2,
            "intermediate_size": 48,
            "out_hidden_size": 32,
        },
    },
    "HunyuanDiT2DModel": {
        **_DIFFUSION,
        "num_layers": 2,
        "hidden_size": WIDTH,
        "cross_attention_dim": WIDTH,
        "cross_attention_dim_t5": WIDTH,
        "pooled_projection_dim": WIDTH,
    },
    "BertModel": {**_LAYERS, "vocab_size": 64},
    "UNetSpatioTemporalConditionModel": {
        **_UNET,
        "num_attention_heads": [2, 2, 2, 2],
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 24,
    },
    "UNet3DConditionModel": {**_UNET, "attention_head_dim": 16},
    "InternVLForConditionalGeneration": {
        "text_config": {**_QWEN, "head_dim": 16, "max_window_layers": 1},
        "vision_config": {**_LAYERS, "image_size": [28, 28]},
        "image_token_id": 63,
        "image_seq_length": 1,
    },
    "spandrel.architectures.ESRGAN:ESRGAN": {"num_filters": 8, "num_blocks": 1},
    "services.instantid.arcface:ArcFace": {"width": 8, "reduction": 4},
}
"""Class → the values of its configuration that make it narrow. All others are those of the checkpoint."""


def list_narrow() -> list[Subject]:
    """Return the models of the benchmark with narrow networks, in their own data types, and small pictures."""
    return [narrow(subject) for subject in SUBJECTS]


def narrow(subject: Subject) -> Subject:
    return dataclasses.replace(
        subject,
        components=[narrow_component(component) for component in subject.components],
        works=[dataclasses.replace(work, canvas=shrink(work.canvas)) for work in subject.works],
    )


def narrow_component(component: Component) -> Component:
    return component.model_copy(update={"config": _merge(component.config, NARROW[component.class_name])})


def shrink(canvas: Canvas) -> Canvas:
    if canvas == Canvas(112, 112):  # ArcFace takes no other size
        return canvas
    frames = 5 if canvas.frames % 4 == 1 and canvas.frames > 25 else min(canvas.frames, 2)  # Wan: 4n + 1
    return dataclasses.replace(canvas, width=SIDE, height=SIDE, frames=frames)


def _merge(config: Config, changes: Config) -> Config:
    merged = dict(config)
    for name, value in changes.items():
        old = merged.get(name)
        merged[name] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
