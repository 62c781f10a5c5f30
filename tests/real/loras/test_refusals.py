"""LoRA files that are refused, each with its reason; whatever the file, no other error."""

import json
import random
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from services.weights.loras.adaptation import Architecture
from services.weights.loras.errors import LoraError
from services.weights.loras.reader import read_lora
from tests.real.loras.files import Trainer, begin, clip_l, flatten, train
from tests.real.loras.layouts import AB, ACCEPTED, COMFY, list_layers
from tests.real.loras.transformers import FLUX_BLOCKS, WAN_BLOCKS, find_target


def pair(stem: str, inputs: int = 8, outputs: int = 8, rank: int = 2) -> dict[str, Tensor]:
    return {f"{stem}.lora_down.weight": torch.ones(rank, inputs), f"{stem}.lora_up.weight": torch.ones(outputs, rank)}


def flux(**also: Tensor) -> dict[str, Tensor]:
    """Return a LoRA of sd-scripts; in names of other tensors `__` stands for a dot."""
    names = {name.replace("__", "."): tensor for name, tensor in also.items()}
    return Trainer("flux", write=flatten("lora_unet_"), alpha=2.0).add(FLUX_BLOCKS).tensors | names


def attention(architecture: Architecture, prefix: str = "transformer.") -> dict[str, Tensor]:
    return train(architecture, AB, own=False, write=begin(prefix)).add(list_layers(architecture, "attn")).tensors


PROJ = "lora_unet_double_blocks_0_img_attn_proj"
ONE = torch.ones(1)
KINDS = {
    "DoRA": flux(**{f"{PROJ}__dora_scale": torch.ones(1, 8)}),
    "DoRA of peft": attention("flux") | {"transformer.transformer_blocks.0.attn.to_q.lora_magnitude_vector": ONE},
    "DoRA of an adapter": {"base_model.model.blocks.0.self_attn.q.lora_magnitude_vector.default.weight": ONE},
    "LoKr": {f"{PROJ}.{name}": torch.ones(4, 4) for name in ("lokr_w1", "lokr_w2", "alpha")},
    "LoHa": {f"{PROJ}.{name}": torch.ones(4, 4) for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")},
    "GLoRA": {f"{PROJ}.{name}.weight": torch.ones(4, 4) for name in ("a1", "a2", "b1", "b2")},
    "OFT": {f"{PROJ}.oft_blocks": torch.ones(4, 4)},
    "BOFT": {"base_model.model.transformer_blocks.0.attn.to_q.boft_R.default": ONE},
    "(IA)³": {f"{PROJ}.on_input": ONE},
    "VeRA": {"base_model.model.transformer_blocks.0.attn.to_q.vera_lambda_b.default": ONE},
    "LoCon with a Tucker core": pair(PROJ) | {f"{PROJ}.lora_mid.weight": ONE},
}


def refuse(tensors: dict[str, Tensor], architecture: Architecture, folder: Path, **metadata: str) -> str:
    """Return why a file is refused."""
    path = folder / "lora.safetensors"
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path, metadata or None)
    with pytest.raises(LoraError) as refused:
        read_lora(path, find_target(architecture))
    return str(refused.value)


@pytest.mark.parametrize("kind", KINDS)
def test_another_kind_of_adapter_is_refused_by_its_name(kind: str, tmp_path: Path) -> None:
    name = kind.partition(" of ")[0]
    for architecture in ("flux", "wan", "qwen-image"):
        assert refuse(KINDS[kind], architecture, tmp_path) == f"is a {name}, which is not supported; only LoRA is"


UNET = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
BASES: list[tuple[Architecture, str, dict[str, Tensor]]] = [
    ("flux", "SDXL", pair(UNET, inputs=2048)),
    ("flux", "SDXL", pair("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", inputs=2048)),
    ("wan", "Stable Diffusion 1.5", pair(UNET, inputs=768) | clip_l("lora_te_text_model_encoder_layers_{}_{}")),
    ("qwen-image", "Stable Diffusion 2", pair("unet.down_blocks.0.attentions.0.attn2.to_k", inputs=1024)),
    ("flux", "Stable Diffusion 3", pair("transformer.transformer_blocks.23.attn.add_k_proj", inputs=1536)),
    ("flux", "HunyuanVideo", pair("transformer.single_transformer_blocks.39.attn.to_q")),
    ("flux", "Stable Diffusion 3", pair("lora_unet_joint_blocks_0_x_block_attn_qkv")),
    ("flux", "HunyuanVideo", pair("lora_unet_double_blocks_0_img_mlp_fc1") | flux()),
    ("wan", "HunyuanVideo", pair("diffusion_model.double_blocks.0.img_mlp.fc1")),
    ("flux", "FLUX.2", pair("transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj")),
    ("flux", "Chroma", pair("lora_unet_distilled_guidance_layer_layers_0_in_layer") | flux()),
    ("flux", "FLUX.1 Canny or Depth", {"double_blocks.0.img_attn.norm.key_norm.scale": ONE}),
    ("flux", "Wan", train("wan", COMFY).add(WAN_BLOCKS).tensors),
    ("qwen-image", "Wan", Trainer("wan", write=flatten("lora_unet_")).add(WAN_BLOCKS).tensors),
    ("flux", "Wan", attention("wan")),
    ("wan", "Wan VACE", pair("diffusion_model.vace_blocks.0.self_attn.q")),
    ("wan", "FLUX.1", flux()),
    ("qwen-image", "FLUX.1", flux()),
    ("wan", "FLUX.1", attention("flux", "base_model.model.")),
    ("flux", "Qwen-Image", pair("transformer_blocks.0.img_mlp.net.2")),
    ("flux", "Qwen-Image", pair("transformer.transformer_blocks.59.attn.to_q")),
    ("wan", "Qwen-Image", pair("lora_unet_transformer_blocks_0_txt_mod_1")),
    ("flux", "LTX-Video", pair("diffusion_model.transformer_blocks.0.attn2.to_k")),
    ("wan", "HunyuanDiT", pair("lora_unet_blocks_0_attn1_Wqkv")),
    ("qwen-image", "Lumina or Z-Image", pair("diffusion_model.layers.0.attention.to_q")),
    ("wan", "Cosmos", pair("lora_unet_blocks_0_self_attn_q_proj")),
    ("flux", "a language model", pair("base_model.model.model.layers.0.self_attn.q_proj")),
]
OURS = {"flux": "FLUX.1", "wan": "Wan", "qwen-image": "Qwen-Image"}


@pytest.mark.parametrize(("architecture", "base", "tensors"), BASES)
def test_a_lora_of_another_base_is_refused_with_both_names(
    architecture: Architecture, base: str, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    said = refuse(tensors, architecture, tmp_path)
    assert f"is a LoRA of {base}, as " in said
    assert said.endswith(f" shows; this model is {OURS[architecture]}")


def test_a_lora_of_another_size_of_wan_is_refused_with_both_sizes(tmp_path: Path) -> None:
    said = refuse(pair("diffusion_model.blocks.0.self_attn.q", inputs=5120), "wan", tmp_path)
    assert said == (
        "is a LoRA of Wan 14B; this model is Wan: "
        "diffusion_model.blocks.0.self_attn.q.lora_down.weight has 5120 inputs, the model's layer 8"
    )


def test_metadata_tells_a_base_whose_layers_have_the_same_names(tmp_path: Path) -> None:
    tensors = pair("transformer.transformer_blocks.0.attn.to_q")
    stated = {"modelspec.architecture": "flux-1-dev/lora"}
    said = refuse(tensors, "qwen-image", tmp_path, **stated)
    assert said == "is a LoRA of FLUX.1, as its metadata says; this model is Qwen-Image"


OTHERS: list[tuple[str, dict[str, Tensor], str]] = [
    ("nothing", {}, "is empty"),
    ("text encoder alone", clip_l(), "changes only CLIP-L (72 layers), which is not applied"),
    ("a whole model", {"double_blocks.0.img_attn.qkv.weight": torch.ones(4, 4)}, "is not a LoRA: it has no low-rank"),
    ("an unknown layer", flux(**{f"{PROJ}x__alpha": ONE}), f"has {PROJ}x.alpha, which is not part of a LoRA"),
    ("a long name", {"x" * 500 + ".alpha": ONE}, f"has {'x' * 119}…, which"),
    ("another line", {"lora\n.alpha": ONE}, r"has 'lora\n.alpha', which"),
    ("two alphas", flux(**{f"{PROJ}__alpha": torch.ones(2)}), f"has {PROJ}.alpha that is not one number"),
    (
        "integers",
        flux(**{f"{PROJ}__alpha": torch.ones((), dtype=torch.int32)}),
        f"has {PROJ}.alpha of the data type I32",
    ),
    (
        "infinite",
        flux(**{f"{PROJ}__alpha": torch.tensor(torch.inf)}),
        f"has {PROJ}.alpha with values that are not finite",
    ),
    ("two names", pair(PROJ, 8, 3072) | pair("lora_unet_transformer_blocks_0_attn_to_out_0", 8, 3072), "twice"),
    ("no rank", pair(PROJ, 8, 3072, rank=0), "which are not of one rank"),
    ("both experts", pair("transformer_2.blocks.0.attn1.to_q"), "each expert needs a file of its own"),
    ("whole differences", {"diffusion_model.txt_in.diff": torch.ones(3072, 8)}, "has no low-rank changes"),
    ("a norm", pair("lora_unet_double_blocks_0_img_attn_norm_key_norm", 1, 128), "that module is not a linear layer"),
]


@pytest.mark.parametrize(("case", "tensors", "reason"), OTHERS, ids=[case for case, *_ in OTHERS])
def test_anything_else_is_refused_in_a_sentence(
    case: str, tensors: dict[str, Tensor], reason: str, tmp_path: Path
) -> None:
    said = refuse(tensors, "flux", tmp_path)
    assert reason in said
    assert len(said) < 300


@pytest.mark.parametrize(
    "stated",
    [
        "{",
        "[1]",
        "[" * 100_000,
        json.dumps({"transformer.lora_alpha": "8"}),
        json.dumps({"transformer.lora_alpha": 10**400}),
        json.dumps({"transformer.lora_alpha": float("nan")}),
        json.dumps({"transformer.alpha_pattern": [1]}),
        json.dumps({"transformer.alpha_pattern": {"(a+)+": 2}}),
        json.dumps({"transformer.use_dora": True}),
    ],
)
def test_hostile_metadata_is_refused(stated: str, tmp_path: Path) -> None:
    said = refuse(attention("qwen-image"), "qwen-image", tmp_path, lora_adapter_metadata=stated)
    assert said.startswith(("has lora_adapter_metadata", "has a lora_alpha", "has an alpha_pattern", "is a DoRA"))


@given(content=st.binary(max_size=300))
def test_any_bytes_are_refused(content: bytes, tmp_path_factory) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.safetensors"
    path.write_bytes(content)
    with pytest.raises(LoraError):
        read_lora(path, find_target("wan"))


def test_a_missing_file_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_lora(tmp_path / "none.safetensors", find_target("wan"))


PREFIXES = ("transformer", "lora_unet_", "diffusion_model", "")
LAYERS = ("blocks", "0", "self_attn", "q", "attn1", "to_q", "patch_embedding", "head")
ENDINGS = ("lora_down", "lora_up", "lora_A", "lora_B", "weight", "bias", "alpha", "diff", "diff_b", "diff_m")
PIECES = st.sampled_from([*PREFIXES, *LAYERS, *ENDINGS])


@given(
    tensors=st.dictionaries(
        st.lists(PIECES, min_size=1, max_size=7).map(".".join), st.lists(st.integers(0, 3), max_size=3), max_size=4
    )
)
def test_any_names_and_shapes_raise_nothing_else(tensors: dict[str, list[int]], tmp_path_factory) -> None:
    path = tmp_path_factory.getbasetemp() / "names.safetensors"
    save_file({name: torch.ones(shape) for name, shape in tensors.items()}, path)
    with suppress(LoraError):
        read_lora(path, find_target("wan"))


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), case=st.sampled_from(sorted(ACCEPTED)))
def test_shuffled_keys_raise_nothing_else(seed: int, case: str, tmp_path_factory) -> None:
    architecture, layout = ACCEPTED[case]
    tensors = layout.write().tensors
    keys = list(tensors)
    random.Random(seed).shuffle(keys)
    path = tmp_path_factory.getbasetemp() / "shuffled.safetensors"
    save_file({key: tensor.clone() for key, tensor in zip(keys, tensors.values(), strict=True)}, path)
    with suppress(LoraError):
        read_lora(path, find_target(architecture))
