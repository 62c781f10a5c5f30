"""Each layout is read as the same change made by hand, and a damaged file is refused by the key's name."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformer2DModel
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from safetensors.torch import save_file
from torch import Tensor, nn

from services.weights.loras.adaptation import Adaptation, Architecture
from services.weights.loras.errors import LoraError
from services.weights.loras.reader import read_lora
from tests.real.loras.files import train
from tests.real.loras.layouts import AB, ACCEPTED, COMFY, Layout
from tests.real.loras.transformers import BLOCKS, find_target


def save(folder: Path, layout: Layout, tensors: dict[str, Tensor]) -> Path:
    """Save a file of a layout, and peft's configuration beside it if the layout has one."""
    path = folder / ("weights.safetensors" if layout.config is None else "adapter_model.safetensors")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, layout.metadata)
    if layout.config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(layout.config))
    return path


def list_changes(adaptation: Adaptation) -> dict[str, Tensor]:
    """Return the changes of all parameters."""
    products = {f"{layer}.weight": change.up @ change.down for layer, change in adaptation.layers.items()}
    assert not products.keys() & adaptation.offsets.keys()
    return products | dict(adaptation.offsets)


@pytest.mark.parametrize("case", ACCEPTED)
def test_a_layout_is_read_as_the_change_made_by_hand(case: str, tmp_path: Path) -> None:
    architecture, layout = ACCEPTED[case]
    trainer = layout.write()
    by_hand = trainer.list_changes()
    adaptation = read_lora(save(tmp_path, layout, trainer.tensors | layout.also), find_target(architecture))
    changes = {name: change for name, change in list_changes(adaptation).items() if change.any()}
    assert sorted(changes) == sorted(by_hand)
    for name, change in changes.items():
        torch.testing.assert_close(change, by_hand[name], msg=lambda text, name=name: f"{name}: {text}")
    assert (adaptation.layout, adaptation.omitted) == (layout.name, layout.omitted)
    assert adaptation.rank == 4
    assert all(tensor.dtype == torch.float32 for tensor in changes.values())


def test_the_names_are_those_of_diffusers_classes() -> None:
    with torch.device("meta"):
        flux = FluxTransformer2DModel(num_layers=BLOCKS, num_single_layers=BLOCKS, guidance_embeds=True)
        wan = WanTransformer3DModel(num_layers=BLOCKS)
        qwen = QwenImageTransformer2DModel(num_layers=BLOCKS)
    assert find_target("flux").parameters.keys() == flux.state_dict().keys()
    assert find_target("wan").parameters.keys() == wan.state_dict().keys()
    linears = {name for name, module in qwen.named_modules() if isinstance(module, nn.Linear)}
    assert find_target("qwen-image").layers.keys() == linears


def test_a_checkpoint_without_guidance_leaves_its_layers_out(tmp_path: Path) -> None:
    target = find_target("flux")
    parts = {name: shape for name, shape in target.parameters.items() if "guidance" not in name}
    schnell = replace(
        target, parameters=parts, layers={n: size for n, size in target.layers.items() if "guidance" not in n}
    )
    case = ACCEPTED["flux: sd-scripts with embedders"][1]
    adaptation = read_lora(save(tmp_path, case, case.write().tensors), schnell)
    assert adaptation.omitted == ("guidance embedding (2 layers)",)
    assert adaptation.layers.keys() == {
        name for name in schnell.layers if not name.startswith(("norm_out", "proj_out"))
    }


def test_a_low_rank_change_of_a_convolution_is_an_offset(tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(5)
    down, up = torch.randn(3, 6, 1, 2, 2, generator=random), torch.randn(8, 3, 1, 1, 1, generator=random)
    stem = "diffusion_model.patch_embedding"
    tensors = {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up, f"{stem}.alpha": torch.tensor(6.0)}
    layer = train("wan", AB, COMFY, alpha=1.0).add(["blocks.0.ffn.0"]).tensors
    path = tmp_path / "lora.safetensors"
    save_file(tensors | layer, path)
    offsets = read_lora(path, find_target("wan")).offsets
    by_hand = 2 * torch.einsum("or,rcthw->octhw", up.flatten(1), down)
    torch.testing.assert_close(dict(offsets), {"patch_embedding.weight": by_hand})


def pick_keys(tensors: dict[str, Tensor]) -> list[str]:
    """Return the last key of each ending: of the two matrices and of alpha."""
    last = {key[key.rindex(".lora" if ".lora" in key else ".") :]: key for key in tensors if ".diff" not in key}
    return [key for ending, key in last.items() if not ending.endswith((".bias", "_norm"))]


DAMAGED = [case for case in ACCEPTED if "split_qkv" not in case]


@pytest.mark.parametrize("case", DAMAGED)
def test_a_file_without_one_key_is_refused_by_its_name(case: str, tmp_path: Path) -> None:
    architecture, layout = ACCEPTED[case]
    tensors = layout.write().tensors
    for key in pick_keys(tensors):
        left = {name: tensor for name, tensor in tensors.items() if name != key}
        assert key in refuse(architecture, layout, left, tmp_path)


@pytest.mark.parametrize("case", DAMAGED)
def test_a_file_with_another_shape_is_refused_by_its_name(case: str, tmp_path: Path) -> None:
    architecture, layout = ACCEPTED[case]
    tensors = layout.write().tensors
    for key, tensor in tensors.items():
        if key in pick_keys(tensors) or ".diff" in key:
            wide = torch.zeros([size + 1 for size in tensor.shape] or [2])
            said = refuse(architecture, layout, tensors | {key: wide}, tmp_path)
            assert key.rpartition(".lora")[0] in said, said


@pytest.mark.parametrize("case", DAMAGED)
@pytest.mark.parametrize("prefix", ["other.", "diffusion_model.", "lora_unet_"])
def test_a_file_with_one_key_of_another_prefix_is_refused_by_its_name(case: str, prefix: str, tmp_path: Path) -> None:
    architecture, layout = ACCEPTED[case]
    tensors = layout.write().tensors
    for key in pick_keys(tensors):
        renamed = {prefix + name if name == key else name: tensor for name, tensor in tensors.items()}
        assert key in refuse(architecture, layout, renamed, tmp_path)


def refuse(architecture: Architecture, layout: Layout, tensors: dict[str, Tensor], folder: Path) -> str:
    """Return why a file is refused."""
    path = save(folder, layout, tensors)
    with pytest.raises(LoraError) as refused:
        read_lora(path, find_target(architecture))
    return str(refused.value)
