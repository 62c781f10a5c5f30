"""The layers of the transformers as their own code names them, with few inputs and two blocks.

What a layer becomes in diffusers is taken from diffusers' conversion of whole checkpoints, which needs Flux's true
numbers of outputs.
"""

from collections.abc import Mapping
from functools import cache

import torch
from diffusers.loaders.single_file_utils import (
    convert_flux_transformer_checkpoint_to_diffusers,
    convert_wan_transformer_to_diffusers,
)
from torch import Tensor

from services.weights.loras.adaptation import Architecture, Target

BLOCKS = 2
STATES = 3072
"""Width of Flux's states."""
INPUTS = 8

FLUX_DOUBLE = {
    f"{stream}_{layer}": outputs
    for stream in ("img", "txt")
    for layer, outputs in (
        ("attn.qkv", 3 * STATES),
        ("attn.proj", STATES),
        ("mlp.0", 4 * STATES),
        ("mlp.2", STATES),
        ("mod.lin", 6 * STATES),
    )
}
FLUX_SINGLE = {"linear1": 7 * STATES, "linear2": STATES, "modulation.lin": 3 * STATES}
FLUX_BLOCKS = {
    **{f"double_blocks.{block}.{name}": outputs for block in range(BLOCKS) for name, outputs in FLUX_DOUBLE.items()},
    **{f"single_blocks.{block}.{name}": outputs for block in range(BLOCKS) for name, outputs in FLUX_SINGLE.items()},
}
FLUX_EMBEDDERS = {
    "img_in": STATES,
    "txt_in": STATES,
    **{f"{name}.{side}_layer": STATES for name in ("time_in", "vector_in", "guidance_in") for side in ("in", "out")},
}
FLUX_FINAL = {"final_layer.linear": 64, "final_layer.adaLN_modulation.1": 2 * STATES}
FLUX_NORMS = {
    **{
        f"double_blocks.{block}.{stream}_attn.norm.{norm}_norm": 128
        for block in range(BLOCKS)
        for stream in ("img", "txt")
        for norm in ("query", "key")
    },
    **{f"single_blocks.{block}.norm.{norm}_norm": 128 for block in range(BLOCKS) for norm in ("query", "key")},
}

WIDTH, FEED, CHANNELS = 8, 24, 6
"""Of the Wan and Qwen-Image transformers here: of the states, of the layers between them, and of the latents."""
WAN_BLOCKS: dict[str, tuple[int, int]] = {
    f"blocks.{block}.{name}": sizes
    for block in range(BLOCKS)
    for name, sizes in (
        *((f"{attention}_attn.{letter}", (WIDTH, WIDTH)) for attention in ("self", "cross") for letter in "qkvo"),
        ("ffn.0", (WIDTH, FEED)),
        ("ffn.2", (FEED, WIDTH)),
    )
}
WAN_REST = {
    "head.head": (WIDTH, 4 * CHANNELS),
    "time_embedding.0": (4, WIDTH),
    "time_embedding.2": (WIDTH, WIDTH),
    "text_embedding.0": (10, WIDTH),
    "text_embedding.2": (WIDTH, WIDTH),
    "time_projection.1": (WIDTH, 6 * WIDTH),
}
WAN_NORMS = tuple(
    f"blocks.{block}.{attention}_attn.norm_{letter}"
    for block in range(BLOCKS)
    for attention in ("self", "cross")
    for letter in "qk"
)
WAN_IMAGE = {f"blocks.{block}.cross_attn.{letter}_img": (WIDTH, WIDTH) for block in range(BLOCKS) for letter in "kv"}
"""Layers that only the image-to-video form of Wan 2.1 has."""

QWEN_BLOCKS: dict[str, tuple[int, int]] = {
    f"transformer_blocks.{block}.{name}": sizes
    for block in range(BLOCKS)
    for name, sizes in (
        *((f"attn.{name}", (WIDTH, WIDTH)) for name in ("to_q", "to_k", "to_v", "to_out.0", "to_add_out")),
        *((f"attn.add_{letter}_proj", (WIDTH, WIDTH)) for letter in "qkv"),
        *((f"{stream}_mlp.net.0.proj", (WIDTH, FEED)) for stream in ("img", "txt")),
        *((f"{stream}_mlp.net.2", (FEED, WIDTH)) for stream in ("img", "txt")),
        *((f"{stream}_mod.1", (WIDTH, 6 * WIDTH)) for stream in ("img", "txt")),
    )
}
QWEN_REST = {
    "img_in": (4, WIDTH),
    "txt_in": (10, WIDTH),
    "norm_out.linear": (WIDTH, 2 * WIDTH),
    "proj_out": (WIDTH, 4),
    "time_text_embed.timestep_embedder.linear_1": (4, WIDTH),
    "time_text_embed.timestep_embedder.linear_2": (WIDTH, WIDTH),
}


@cache
def list_own_shapes(architecture: Architecture) -> Mapping[str, tuple[int, ...]]:
    """Return the shapes of all parameters by the names of the model's own code."""
    if architecture == "flux":
        linears = {name: (INPUTS, outputs) for name, outputs in (FLUX_BLOCKS | FLUX_EMBEDDERS | FLUX_FINAL).items()}
        others: dict[str, tuple[int, ...]] = {f"{name}.scale": (size,) for name, size in FLUX_NORMS.items()}
    elif architecture == "wan":
        linears = WAN_BLOCKS | WAN_REST
        others = {
            **{f"{name}.weight": (WIDTH,) for name in WAN_NORMS},
            **{f"blocks.{block}.norm3.{end}": (WIDTH,) for block in range(BLOCKS) for end in ("weight", "bias")},
            **{f"blocks.{block}.modulation": (1, 6, WIDTH) for block in range(BLOCKS)},
            "head.modulation": (1, 2, WIDTH),
            "patch_embedding.weight": (WIDTH, CHANNELS, 1, 2, 2),
            "patch_embedding.bias": (WIDTH,),
        }
    else:
        linears = QWEN_BLOCKS | QWEN_REST
        others = {f"transformer_blocks.{block}.attn.norm_q.weight": (4,) for block in range(BLOCKS)}
    weights = {f"{name}.weight": (outputs, inputs) for name, (inputs, outputs) in linears.items()}
    biases = {f"{name}.bias": (outputs,) for name, (_, outputs) in linears.items()}
    return {**weights, **biases, **others}


def convert(architecture: Architecture, changes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the changes of all parameters by diffusers' names, from those of some by the names of the own code."""
    shapes = list_own_shapes(architecture)
    assert changes.keys() <= shapes.keys(), sorted(changes.keys() - shapes.keys())
    checkpoint = {name: changes.get(name, torch.zeros(shape)) for name, shape in shapes.items()}
    if architecture == "flux":
        return convert_flux_transformer_checkpoint_to_diffusers(checkpoint)
    return convert_wan_transformer_to_diffusers(checkpoint) if architecture == "wan" else checkpoint


@cache
def find_target(architecture: Architecture) -> Target:
    """Return the transformer by diffusers' names."""
    shapes = {name: tuple(tensor.shape) for name, tensor in convert(architecture, {}).items()}
    linears = {name.removesuffix(".weight"): shape for name, shape in shapes.items() if len(shape) == 2}
    return Target(architecture, {name: (shape[1], shape[0]) for name, shape in linears.items()}, shapes)
