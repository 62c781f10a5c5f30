"""The table of layouts that are accepted, for each transformer."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Unpack

import torch
from torch import Tensor

from services.weights.loras.adaptation import Architecture
from tests.real.loras.files import RANK, How, Trainer, begin, clip_l, flatten, t5, train
from tests.real.loras.transformers import (
    BLOCKS,
    FLUX_BLOCKS,
    FLUX_EMBEDDERS,
    FLUX_FINAL,
    FLUX_NORMS,
    QWEN_BLOCKS,
    QWEN_REST,
    WAN_BLOCKS,
    WAN_IMAGE,
    WAN_NORMS,
    WAN_REST,
    WIDTH,
    find_target,
)

AB: How = {"down": ".lora_A.weight", "up": ".lora_B.weight"}
NAMED_AB: How = {"down": ".lora_A.default.weight", "up": ".lora_B.default.weight"}
FP8 = torch.float8_e4m3fn


@dataclass(frozen=True)
class Layout:
    """A layout: what writes its file, and what the reader says of it."""

    write: Callable[[], Trainer]
    name: str
    """Name of the layout that is reported."""
    also: dict[str, Tensor] = field(default_factory=dict)
    """Tensors that are not applied."""
    omitted: tuple[str, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    config: dict[str, object] | None = None
    """The configuration of peft beside the file."""


def list_layers(architecture: Architecture, part: str = "blocks") -> list[str]:
    """Return the layers by diffusers' names: those of `attn`, those of all `blocks`, or all."""
    layers = find_target(architecture).layers
    if part == "all":
        return list(layers)
    return [name for name in layers if "blocks." in name and (part == "blocks" or ".attn" in name)]


def own(
    architecture: Architecture, layers: dict[str, tuple[int, int]] | dict[str, int], *hows: How, **how: Unpack[How]
) -> Callable[[], Trainer]:
    return lambda: train(architecture, *hows, **how).add(layers)


def named(architecture: Architecture, part: str = "blocks", *hows: How, **how: Unpack[How]) -> Callable[[], Trainer]:
    return lambda: train(architecture, AB, *hows, own=False, **how).add(list_layers(architecture, part))


def write_xlabs(name: str) -> str:
    block, stream, layer = name.removeprefix("double_blocks.").replace("_attn", "").split(".")
    return f"double_blocks.{block}.processor.{layer}_lora{1 if stream == 'img' else 2}"


def write_fused_as_three() -> Trainer:
    """A fused layer that was trained as three: rank 12, and each of them uses four of the ranks."""
    trainer = Trainer("flux", write=flatten("lora_unet_"))
    name = "double_blocks.0.img_attn.qkv"
    downs, ups = trainer.draw(3, RANK, 8), trainer.draw(3, 3072, RANK)
    trainer.tensors = {
        f"{trainer.write(name)}.lora_down.weight": downs.flatten(0, 1),
        f"{trainer.write(name)}.lora_up.weight": torch.block_diag(*ups),
    }
    trainer.changes = {f"{name}.weight": (ups @ downs).flatten(0, 1)}
    return trainer


def write_one_trainer_parts() -> Trainer:
    """OneTrainer's and OMI's names: numbered parts of the fused layers."""
    trainer = Trainer("flux", own=False, write=begin("transformer."), alpha=1.0)
    parts = {
        f"double_blocks.{block}.{stream}_attn.qkv.{number}": f"transformer_blocks.{block}.attn.{layer}"
        for block in range(BLOCKS)
        for stream, layers in (("img", ("to_q", "to_k", "to_v")), ("txt", ("add_q_proj", "add_k_proj", "add_v_proj")))
        for number, layer in enumerate(layers)
    }
    for block in range(BLOCKS):
        for number, layer in enumerate(("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")):
            parts[f"single_blocks.{block}.linear1.{number}"] = f"single_transformer_blocks.{block}.{layer}"
    parts["img_in.proj"] = "x_embedder"
    names = {layer: name for name, layer in parts.items()}
    trainer.write = lambda layer: f"transformer.{names[layer]}"
    return trainer.add(names)


def write_lightx2v() -> Trainer:
    """Low-rank changes with differences of biases, norms, modulations and the patch embedding."""
    trainer = Trainer("wan", write=begin("diffusion_model."), alpha=2.0).add(WAN_BLOCKS | WAN_REST)
    trainer.add_differences({f"{name}.diff_b": f"{name}.bias" for name in (*WAN_BLOCKS, *WAN_REST, "patch_embedding")})
    trainer.add_differences({f"{name}.diff": f"{name}.weight" for name in (*WAN_NORMS, "patch_embedding")})
    for block in range(BLOCKS):
        name = f"blocks.{block}"
        norm = {f"{name}.norm3.diff": f"{name}.norm3.weight", f"{name}.norm3.diff_b": f"{name}.norm3.bias"}
        trainer.add_differences(norm | {f"{name}.modulation.diff": f"{name}.modulation"})
    return trainer.add_differences({"head.modulation.diff": "head.modulation"})


def write_lightx2v_22() -> Trainer:
    """The whole head as a difference, and modulations as `diff_m`."""
    trainer = Trainer("wan", write=begin("diffusion_model.")).add(WAN_BLOCKS)
    trainer.add_differences({"head.head.diff": "head.head.weight", "head.head.diff_b": "head.head.bias"})
    return trainer.add_differences({f"blocks.{block}.diff_m": f"blocks.{block}.modulation" for block in range(BLOCKS)})


def write_biases() -> Trainer:
    """peft with lora_bias: a bias of the second matrix, scaled like the product."""
    trainer = train("flux", AB, own=False, write=begin("transformer."), alpha=2.0)
    layers = list_layers("flux", "attn")
    trainer.add(layers)
    for layer in layers:
        bias = trainer.draw(*trainer.find_shape(f"{layer}.bias"))
        trainer.tensors[f"transformer.{layer}.lora_B.bias"] = bias
        trainer.changes[f"{layer}.bias"] = bias * 2.0 / RANK
    return trainer


def write_norms() -> Trainer:
    """LyCORIS' training of norms, beside LoRA."""
    trainer = Trainer("flux", write=begin("diffusion_model.")).add(FLUX_BLOCKS)
    return trainer.add_differences({f"{name}.w_norm": f"{name}.scale" for name in FLUX_NORMS})


def write_patterns() -> Trainer:
    """Alphas by pattern: 2 for the queries, 8 for the rest."""
    trainer = train("qwen-image", AB, own=False, write=begin("transformer."))
    queries = [layer for layer in list_layers("qwen-image", "attn") if layer.endswith("to_q")]
    trainer.scale = 2 / RANK
    trainer.add(queries)
    trainer.scale = 8 / RANK
    return trainer.add(layer for layer in list_layers("qwen-image", "attn") if layer not in queries)


def state(**config: object) -> dict[str, str]:
    """Return the metadata of diffusers that states a configuration of peft."""
    return {"lora_adapter_metadata": json.dumps({f"transformer.{name}": value for name, value in config.items()})}


def image_parts() -> dict[str, Tensor]:
    tensors = Trainer("wan", write=begin("diffusion_model."))
    for name in WAN_IMAGE:
        stem = tensors.write(name)
        tensors.tensors |= {f"{stem}.lora_down.weight": torch.ones(RANK, WIDTH), f"{stem}.alpha": torch.tensor(2.0)}
        tensors.tensors[f"{stem}.lora_up.weight"] = torch.ones(WIDTH, RANK)
    return tensors.tensors


KOHYA: How = {"write": flatten("lora_unet_"), "alpha": 2.0}
COMFY: How = {"write": begin("diffusion_model.")}
PATCHES = {"diffusion_model.patch_embedding.diff": torch.ones(WIDTH, 3, 1, 2, 2)}
CLIP_L, T5 = "CLIP-L (72 layers)", "T5 (24 layers)"
TEXT_ENCODER = {
    f"text_encoder.text_model.encoder.layers.{layer}.self_attn.{name}_proj.lora_{side}.weight": torch.ones(1, 1)
    for layer in range(12)
    for name in "qv"
    for side in "AB"
}

FLUX: dict[str, Layout] = {
    "sd-scripts": Layout(own("flux", FLUX_BLOCKS, KOHYA), "sd-scripts"),
    "sd-scripts without alpha": Layout(own("flux", FLUX_BLOCKS, write=flatten("lora_unet_")), "sd-scripts"),
    "sd-scripts, half dotted": Layout(own("flux", FLUX_BLOCKS, write=begin("lora_unet_")), "sd-scripts"),
    "sd-scripts with CLIP-L": Layout(own("flux", FLUX_BLOCKS, KOHYA), "sd-scripts", clip_l(), (CLIP_L,)),
    "sd-scripts with CLIP-L, T5": Layout(
        own("flux", FLUX_BLOCKS, KOHYA), "sd-scripts", {**clip_l(), **t5()}, (CLIP_L, T5)
    ),
    "sd-scripts with embedders": Layout(own("flux", FLUX_BLOCKS | FLUX_EMBEDDERS, KOHYA), "sd-scripts"),
    "sd-scripts with the final layer": Layout(own("flux", FLUX_BLOCKS | FLUX_FINAL, KOHYA), "sd-scripts"),
    "sd-scripts in fp8": Layout(own("flux", FLUX_BLOCKS, KOHYA, dtype=FP8), "sd-scripts"),
    "sd-scripts in fp16": Layout(own("flux", FLUX_BLOCKS, KOHYA, dtype=torch.float16), "sd-scripts"),
    "sd-scripts in bf16": Layout(own("flux", FLUX_BLOCKS, KOHYA, dtype=torch.bfloat16), "sd-scripts"),
    "sd-scripts with split_qkv": Layout(write_fused_as_three, "sd-scripts"),
    "ComfyUI": Layout(own("flux", FLUX_BLOCKS, COMFY), "ComfyUI"),
    "ComfyUI, lora_A and lora_B": Layout(own("flux", FLUX_BLOCKS, COMFY, AB), "ComfyUI"),
    "ComfyUI with text encoders": Layout(
        own("flux", FLUX_BLOCKS, COMFY),
        "ComfyUI",
        {
            **clip_l("text_encoders.clip_l.transformer.text_model.encoder.layers.{}.{}"),
            **t5("text_encoders.t5xxl.transformer.encoder.block.{}.layer.0.SelfAttention.q"),
        },
        (CLIP_L, T5),
    ),
    "norms of LyCORIS": Layout(write_norms, "ComfyUI"),
    "ai-toolkit": Layout(named("flux", write=begin("transformer.")), "diffusers"),
    "ai-toolkit with alpha": Layout(named("flux", write=begin("transformer."), alpha=2.0), "diffusers"),
    "diffusers, attention only": Layout(named("flux", "attn", write=begin("transformer.")), "diffusers"),
    "diffusers, all layers": Layout(named("flux", "all", write=begin("transformer.")), "diffusers"),
    "diffusers in fp8": Layout(named("flux", write=begin("transformer."), dtype=FP8), "diffusers"),
    "diffusers with the text encoder": Layout(
        named("flux", "attn", write=begin("transformer.")), "diffusers", TEXT_ENCODER, ("CLIP-L (24 layers)",)
    ),
    "diffusers with alpha in metadata": Layout(
        named("flux", write=begin("transformer."), scale=16 / RANK), "diffusers", metadata=state(r=RANK, lora_alpha=16)
    ),
    "diffusers with rsLoRA": Layout(
        named("flux", write=begin("transformer."), scale=6 / math.sqrt(RANK)),
        "diffusers",
        metadata=state(r=RANK, lora_alpha=6, use_rslora=True),
    ),
    "peft with biases": Layout(write_biases, "diffusers"),
    "peft without prefix": Layout(named("flux"), "PEFT"),
    "peft's own file": Layout(
        named("flux", write=begin("base_model.model."), scale=3 / RANK), "PEFT", config={"lora_alpha": 3, "r": RANK}
    ),
    "peft with the adapter's name": Layout(
        named("flux", "blocks", NAMED_AB, write=begin("transformer.")), "PEFT with an adapter's name"
    ),
    "XLabs": Layout(
        own(
            "flux",
            {name: size for name, size in FLUX_BLOCKS.items() if "attn" in name},
            write=write_xlabs,
            down=".down.weight",
            up=".up.weight",
        ),
        "XLabs",
    ),
    "fal": Layout(own("flux", FLUX_BLOCKS | {"final_layer.linear": 64}, AB, write=begin("base_model.model.")), "fal"),
    "OneTrainer, attention only": Layout(
        named("flux", "attn", write=flatten("lora_transformer_"), down=".lora_down.weight", up=".lora_up.weight"),
        "OneTrainer",
    ),
    "OneTrainer, blocks": Layout(
        named("flux", write=flatten("lora_transformer_"), down=".lora_down.weight", up=".lora_up.weight", alpha=2.0),
        "OneTrainer",
    ),
    "OneTrainer with an embedding": Layout(
        named("flux", "attn", write=flatten("lora_transformer_"), down=".lora_down.weight", up=".lora_up.weight"),
        "OneTrainer",
        {"bundle_emb.boat.t5": torch.ones(2, 8)},
        ("embedding (1 layer)",),
    ),
    "OneTrainer, numbered parts": Layout(
        write_one_trainer_parts,
        "OMI",
        {**clip_l("clip_l.encoder.layers.{}.{}"), **t5("t5.encoder.block.{}")},
        (CLIP_L, T5),
    ),
    "LyCORIS": Layout(
        named("flux", write=flatten("lycoris_"), down=".lora_down.weight", up=".lora_up.weight", alpha=1.0), "LyCORIS"
    ),
}

WAN: dict[str, Layout] = {
    "lightx2v Lightning": Layout(own("wan", WAN_BLOCKS, COMFY, alpha=2.0), "ComfyUI"),
    "lightx2v with differences": Layout(write_lightx2v, "lightx2v"),
    "lightx2v with the whole head": Layout(write_lightx2v_22, "lightx2v"),
    "lightx2v of Wan 2.1's image form": Layout(
        own("wan", WAN_BLOCKS, COMFY, alpha=2.0), "ComfyUI", image_parts(), ("image attention (4 layers)",)
    ),
    "lightx2v of the text form": Layout(
        own("wan", WAN_BLOCKS, COMFY, alpha=2.0),
        "lightx2v",
        PATCHES,
        ("patch embedding of 3 channels instead of 6 (1 layer)",),
    ),
    "diffusion-pipe": Layout(own("wan", WAN_BLOCKS, COMFY, AB), "ComfyUI"),
    "ai-toolkit in fp8": Layout(own("wan", WAN_BLOCKS, COMFY, AB, dtype=FP8), "ComfyUI"),
    "musubi-tuner": Layout(own("wan", WAN_BLOCKS, KOHYA), "musubi-tuner"),
    "musubi-tuner, half dotted": Layout(own("wan", WAN_BLOCKS, write=begin("lora_unet_")), "musubi-tuner"),
    "DiffSynth, lora_down": Layout(own("wan", WAN_BLOCKS), "DiffSynth"),
    "DiffSynth": Layout(own("wan", WAN_BLOCKS, NAMED_AB), "DiffSynth"),
    "diffusers": Layout(named("wan", "all", write=begin("transformer.")), "diffusers"),
    "diffusers with alpha in metadata": Layout(
        named("wan", write=begin("transformer."), scale=2.0), "diffusers", metadata=state(lora_alpha=8)
    ),
    "peft's own file": Layout(named("wan", write=begin("base_model.model.")), "PEFT"),
}

QWEN: dict[str, Layout] = {
    "Lightning": Layout(own("qwen-image", QWEN_BLOCKS, alpha=2.0), "PEFT"),
    "Lightning without .weight": Layout(own("qwen-image", QWEN_BLOCKS, down=".lora_down", up=".lora_up"), "PEFT"),
    "musubi-tuner": Layout(own("qwen-image", QWEN_BLOCKS | QWEN_REST, KOHYA), "musubi-tuner"),
    "ComfyUI": Layout(own("qwen-image", QWEN_BLOCKS, COMFY, alpha=4.0), "ComfyUI"),
    "diffusion-pipe, ai-toolkit": Layout(own("qwen-image", QWEN_BLOCKS, COMFY, AB), "ComfyUI"),
    "DiffSynth": Layout(own("qwen-image", QWEN_BLOCKS, NAMED_AB), "PEFT with an adapter's name"),
    "diffusers": Layout(named("qwen-image", "all", write=begin("transformer.")), "diffusers"),
    "diffusers in fp8": Layout(named("qwen-image", write=begin("transformer."), dtype=FP8), "diffusers"),
    "diffusers with alphas by pattern": Layout(
        write_patterns, "diffusers", metadata=state(lora_alpha=8, alpha_pattern={"attn.to_q": 2})
    ),
    "peft without prefix": Layout(named("qwen-image"), "PEFT"),
    "peft's own file": Layout(
        named("qwen-image", "blocks", NAMED_AB, write=begin("base_model.model.")), "PEFT with an adapter's name"
    ),
    "OneTrainer": Layout(
        own("qwen-image", QWEN_BLOCKS, write=flatten("lora_transformer_"), alpha=1.0),
        "OneTrainer",
        {"lora_te_model_layers_0_self_attn_q_proj.lora_down.weight": torch.ones(1, 1)},
        ("text encoder (1 layer)",),
    ),
}

ACCEPTED: dict[str, tuple[Architecture, Layout]] = {
    **{f"flux: {name}": ("flux", layout) for name, layout in FLUX.items()},
    **{f"wan: {name}": ("wan", layout) for name, layout in WAN.items()},
    **{f"qwen-image: {name}": ("qwen-image", layout) for name, layout in QWEN.items()},
}
