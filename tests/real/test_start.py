"""A checkpoint that lacks a tensor, or has one of another shape, is refused by that tensor's name."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from miniatures.random import written
from services.catalogue import KINDS
from services.errors import ConfigError
from services.weights.completeness import check_pipeline
from services.weights.weights import Weights
from tests.real.layouts import edit_tensors, shard_tensors

CASES = [
    ("wan", "a14b", ("transformer", "transformer_2", "text_encoder", "vae"), {}),
    ("wan", "ti2v", ("transformer", "text_encoder", "vae"), {}),
    ("flux", "tiny", ("transformer", "text_encoder", "text_encoder_2", "vae"), {}),
    ("qwen-edit", "tiny", ("transformer", "text_encoder", "vae"), {}),
    ("svd", "xt", ("unet", "image_encoder", "vae"), {}),
    ("text-to-video", "tiny", ("unet", "text_encoder", "vae"), {}),
    ("hunyuan-dit", "tiny", ("transformer", "text_encoder", "text_encoder_2", "vae"), {}),
    ("internvl", "tiny", ("",), {}),
]
NETWORKS = [(kind, form, part) for kind, form, parts, _ in CASES for part in parts]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def copy(home: Path, tmp_path: Path) -> Iterator[Callable[[str, str], Path]]:
    def make_copy(kind: str, form: str) -> Path:
        saved = written(kind, form, home).path
        assert saved is not None
        return Path(shutil.copytree(saved, tmp_path / form))

    yield make_copy
    shutil.rmtree(tmp_path)


def load(kind: str, folder: Path, home: Path, **settings: Any) -> None:
    model = KINDS[kind]
    fields: dict[str, Any] = {"weights": Weights(path=folder), "device": "cpu", "dtype": "float32", **settings}
    model.load(model.settings(**fields), home, lambda: "test cpu")


def choose_tensor(tensors: dict[str, Tensor]) -> str:
    """Return the name of a tensor in the middle of a file."""
    return sorted(tensors)[len(tensors) // 2]


@pytest.mark.parametrize(("kind", "form", "part"), NETWORKS)
def test_a_missing_tensor_is_named(
    copy: Callable[[str, str], Path], home: Path, kind: str, form: str, part: str
) -> None:
    folder, lost = copy(kind, form), list[str]()

    def remove(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        lost.append(choose_tensor(tensors))
        return {name: tensor for name, tensor in tensors.items() if name != lost[0]}

    edit_tensors(folder / part, remove)
    with pytest.raises(ConfigError, match=f"{last_words(lost[0])} is missing$"):
        load(kind, folder, home)


@pytest.mark.parametrize(("kind", "form", "part"), NETWORKS)
def test_a_misshapen_tensor_is_named(
    copy: Callable[[str, str], Path], home: Path, kind: str, form: str, part: str
) -> None:
    folder, changed = copy(kind, form), list[str]()

    def widen(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        changed.append(choose_tensor(tensors))
        tensor = tensors[changed[0]]
        return tensors | {changed[0]: torch.cat([tensor, tensor[:1]])}

    edit_tensors(folder / part, widen)
    with pytest.raises(ConfigError, match=rf"{last_words(changed[0])} has the shape \[.*\] instead of \["):
        load(kind, folder, home)


def last_words(name: str) -> str:
    """Return the end of a tensor's name, which older and newer versions of the libraries share."""
    return r"\.".join(name.split(".")[-3:])


def test_a_missing_shard_is_named(copy: Callable[[str, str], Path], home: Path) -> None:
    folder = copy("wan", "a14b")
    shard_tensors(folder / "transformer_2")
    (folder / "transformer_2" / "diffusion_pytorch_model-00002-of-00003.safetensors").unlink()
    with pytest.raises(
        ConfigError, match=r"transformer_2/diffusion_pytorch_model-00002-of-00003.safetensors: is missing"
    ):
        load("wan", folder, home)


def test_a_truncated_file_is_named(copy: Callable[[str, str], Path], home: Path) -> None:
    folder = copy("flux", "tiny")
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ConfigError, match=r"transformer/diffusion_pytorch_model.safetensors: \S+ is cut off"):
        load("flux", folder, home)


@pytest.mark.parametrize("lost", [None, "text_projection.weight", "final_layer_norm.weight"])
def test_pickled_weights_are_compared_too(copy: Callable[[str, str], Path], tmp_path: Path, lost: str | None) -> None:
    folder = copy("text-to-video", "tiny")
    file = folder / "text_encoder" / "model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(file).items() if name != lost}
    torch.save(tensors, file.with_name("pytorch_model.fp16.bin"))
    file.unlink()
    if lost == "final_layer_norm.weight":
        with pytest.raises(ConfigError, match=r"text_encoder: final_layer_norm\.weight is missing"):
            check_pipeline(folder, "fp16")
    else:  # the network has no such projection
        check_pipeline(folder, "fp16")


def test_old_names_of_attention_are_known(copy: Callable[[str, str], Path], home: Path) -> None:
    folder = copy("text-to-video", "tiny")
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}

    def rename(name: str) -> str:
        for new, published in old.items():
            name = name.replace(new, published) if "mid_block.attentions" in name else name
        return name

    tensors = load_file(file)
    renamed = {rename(name): tensor for name, tensor in tensors.items()}
    assert renamed.keys() != tensors.keys()
    save_file(renamed, file, {"format": "pt"})
    check_pipeline(folder)
