"""Each layout is read as the same change made by hand, and a damaged file is refused by the key's name."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from services.weights.loras.adaptation import Adaptation, Architecture
from services.weights.loras.errors import LoraError
from services.weights.loras.reader import read_lora
from tests.real.loras.layouts import ACCEPTED, Layout
from tests.real.loras.transformers import find_target


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
