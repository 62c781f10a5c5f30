"""LoRAs of Wan and Qwen-Image-Edit: for a deployment and for a request, one expert or both, and exact undoing."""

import asyncio
import hashlib
import json
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from miniatures.random import written
from services.errors import ConfigError, InvalidParameter, LimitExceeded
from services.frames import Fact, Frames, Item, Pixels
from services.qwen_edit.request import EditRequest, Guidance
from services.qwen_edit.service import QwenEdit
from services.wan.request import WanLora, WanRequest, WanTextRequest
from services.wan.service import Wan
from services.wan.settings import WanSettings
from services.weights.loras.files import LORA_HASHES, LORA_NOTICE
from services.weights.loras.library import Library
from services.weights.loras.settings import FixedLora, LoraSettings, place_loras
from services.weights.loras.slots import Slots
from services.weights.weights import Weights
from tests.services.qwen import loaded as load_qwen

RANDOM = np.random.default_rng(7)
PICTURE = Frames(RANDOM.integers(0, 256, (1, 32, 64, 3), np.uint8))
WAN = {"prompt": "a boat", "num_frames": 5, "size": "64x32", "steps": 4, "seed": 3}
EDIT = {"prompt": "a boat", "steps": 2, "seed": 3, "true_cfg_scale": 1.0, "ttlg": Guidance(edge_scale=0)}
QUERIES = [f"blocks.{block}.attn1.to_q" for block in range(3)]
VALUES = [f"blocks.{block}.attn2.to_v" for block in range(3)]
WIDTH = 48
"""Channels of Wan's transformer."""
ATTENTION = "transformer_blocks.0.attn.to_q"
"""A layer of Qwen-Image's transformer."""


def draw_matrices(layers: list[str], seed: int, width: int = WIDTH) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for layer in layers:
        tensors[f"transformer.{layer}.lora_A.weight"] = torch.randn(2, width, generator=random)
        tensors[f"transformer.{layer}.lora_B.weight"] = torch.randn(width, 2, generator=random)
    return tensors


def draw_distilled() -> dict[str, Tensor]:
    """Return a LoRA in the layout of lightx2v, which also changes a bias and a norm."""
    matrices = draw_matrices(QUERIES, 5)
    names = {
        "transformer.": "diffusion_model.",
        "attn1.to_q": "self_attn.q",
        "lora_A": "lora_down",
        "lora_B": "lora_up",
    }
    tensors: dict[str, Tensor] = {}
    for key, tensor in matrices.items():
        tensors[reduce(lambda text, pair: text.replace(*pair), names.items(), key)] = tensor
    random = torch.Generator().manual_seed(6)
    tensors["diffusion_model.blocks.0.self_attn.q.diff_b"] = torch.randn(WIDTH, generator=random)
    tensors["diffusion_model.blocks.1.self_attn.norm_q.diff"] = torch.randn(WIDTH, generator=random)
    return tensors


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def folder(home: Path) -> Path:
    folder = home / "loras"
    folder.mkdir()
    save_file(draw_matrices(QUERIES, 1), folder / "ink.safetensors")
    save_file(draw_matrices(VALUES, 2), folder / "oil.safetensors")
    save_file(draw_distilled(), folder / "distilled.safetensors")
    return folder


@pytest.fixture(scope="module")
def wan(home: Path, folder: Path) -> Wan:
    return load_wan(home, lora_dir=folder)


@pytest.fixture(scope="module")
def plain(wan: Wan) -> Pixels:
    return asyncio.run(animate(wan))


def load_wan(home: Path, form: str = "a14b", **more: Any) -> Wan:
    fields = {"weights": written("wan", form, home), "device": "cpu", "dtype": "float32", "max_sequence_length": 32}
    return Wan(WanSettings.model_validate({**fields, **more}), home, lambda: "wan#test cpu")


async def list_items(wan: Wan, *loras: object) -> list[Item]:
    request = WanRequest.model_validate({**WAN, "loras": loras})
    return [item async for item in wan.animate(request, PICTURE)]


async def animate(wan: Wan, *loras: object) -> Pixels:
    """Return all frames of a video, (n, h, w, 3)."""
    return np.concatenate([item.pixels for item in await list_items(wan, *loras) if isinstance(item, Frames)])


def read_facts(items: list[Item]) -> dict[str, str]:
    return {item.name: str(item.value) for item in items if isinstance(item, Fact)}


def hash_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def copy_parameters(wan: Wan) -> dict[str, Tensor]:
    """Return copies of the parameters of both experts, without those of LoRAs."""
    pipe = wan._model._pipe
    networks = {"high": pipe.transformer, "low": pipe.transformer_2}
    return {
        f"{expert}.{name.replace('base_layer.', '')}": parameter.detach().clone()
        for expert, network in networks.items()
        for name, parameter in network.named_parameters()
        if "lora_" not in name
    }


# --- Wan: for a request -------------------------------------------------------------------------------------------


async def test_a_request_adapts_the_expert_that_it_names(wan: Wan, plain: Pixels) -> None:
    both, high, low = [await animate(wan, loras) for loras in ("ink", "ink:1:high", {"name": "ink", "expert": "low"})]
    assert len({video.tobytes() for video in (plain, both, high, low)}) == 4
    assert np.array_equal(await animate(wan, "ink:high", "ink:low"), both)
    assert np.array_equal(await animate(wan), plain)


async def test_a_request_and_a_deployment_adapt_in_the_same_way(home: Path, folder: Path, wan: Wan) -> None:
    fixed = load_wan(home, lora_dir=folder, loras=[{"file": "ink.safetensors", "weight": 0.5, "expert": "high"}])
    assert np.array_equal(await animate(fixed), await animate(wan, "ink:0.5:high"))
    together = await animate(fixed, "oil")
    assert np.array_equal(together, await animate(wan, "ink:0.5:high", "oil"))
    assert not np.array_equal(together, await animate(wan, "oil"))


async def test_fixed_ones_take_no_place_of_a_request_and_may_be_named_as_in_one(home: Path, folder: Path) -> None:
    fixed = load_wan(home, lora_dir=folder, loras=[{"name": "ink"}], max_loras=1)
    alone = await animate(fixed)
    for name in ("oil", "distilled", "oil"):
        assert not np.array_equal(await animate(fixed, name), alone)
        assert fixed._model.loras.loaded == (name,)
    assert np.array_equal(await animate(fixed), alone)


async def test_the_record_has_every_file_that_was_used(home: Path, folder: Path) -> None:
    fixed = load_wan(home, lora_dir=folder, loras=[{"file": "ink.safetensors"}])
    facts = read_facts(await list_items(fixed, "oil"))
    names = {"ink.safetensors": "ink", "oil": "oil"}
    expected = {label: hash_file(folder / f"{name}.safetensors") for label, name in names.items()}
    assert json.loads(facts[LORA_HASHES]) == expected
    assert LORA_NOTICE not in facts


async def test_biases_and_norms_come_and_go_exactly(home: Path, folder: Path, plain: Pixels) -> None:
    wan = load_wan(home, lora_dir=folder)
    before = copy_parameters(wan)
    videos = [await animate(wan, f"distilled:{weight}") for weight in (1, 0.3)]
    assert len({video.tobytes() for video in (*videos, plain)}) == 3
    after = copy_parameters(wan)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert np.array_equal(await animate(wan), plain)


async def test_biases_and_norms_are_added_by_their_weight(wan: Wan, folder: Path) -> None:
    before, changes = copy_parameters(wan), draw_distilled()
    request = WanRequest.model_validate({**WAN, "loras": ["distilled:0.5:low", "ink"]})
    with wan._model.loras.activate(request.loras):
        inside = copy_parameters(wan)
    changed = {name for name, tensor in before.items() if not torch.equal(inside[name], tensor)}
    bias, norm = "low.blocks.0.attn1.to_q.bias", "low.blocks.1.attn1.norm_q.weight"
    assert changed == {bias, norm}
    for name, key in ((bias, "blocks.0.self_attn.q.diff_b"), (norm, "blocks.1.self_attn.norm_q.diff")):
        torch.testing.assert_close(inside[name], before[name] + 0.5 * changes[f"diffusion_model.{key}"])


def test_biases_and_norms_are_refused_where_offloading_keeps_copies(home: Path, folder: Path) -> None:
    wan = load_wan(home, lora_dir=folder)
    pipe = wan._model._pipe
    settings = wan._settings.model_copy(update={"offload": "sequential"})
    slots, library = Slots(pipe, pipe.transformer, "wan", settings), Library(settings, home)
    reading = library.read(library.find("distilled"), slots.target)
    with pytest.raises(
        InvalidParameter, match="loras: distilled changes 2 biases or norms, which `offload: sequential`"
    ):
        slots.load(reading, {"distilled"})
    assert slots.names == ()


async def test_a_checkpoint_of_one_expert(home: Path, folder: Path) -> None:
    wan = load_wan(home, "ti2v", lora_dir=folder)
    assert np.array_equal(await animate(wan, "ink"), await animate(wan, "ink:high"))
    with pytest.raises(InvalidParameter, match="loras: ink: this checkpoint has no low-noise expert") as caught:
        await animate(wan, "ink:low")
    assert caught.value.param == "loras"


async def test_a_video_without_a_picture_is_adapted_too(home: Path, folder: Path) -> None:
    wan = load_wan(home, "t2v", lora_dir=folder)
    videos: dict[str, bytes] = {}
    for loras in ("", "ink", "ink:low"):
        request = WanTextRequest.model_validate({**WAN, "loras": [loras] if loras else []})
        items = [item async for item in wan.generate_video(request)]
        videos[loras] = b"".join(item.pixels.tobytes() for item in items if isinstance(item, Frames))
        assert (LORA_HASHES in read_facts(items)) == bool(loras)
    assert len(set(videos.values())) == 3


async def test_limits_of_a_request(home: Path, folder: Path) -> None:
    wan = load_wan(home, lora_dir=folder, max_loras=1, max_lora_rank=1)
    with pytest.raises(LimitExceeded, match="loras: at most 1 LoRAs, got 2"):
        await animate(wan, "ink", "oil")
    with pytest.raises(LimitExceeded, match="loras: at most 1 ranks in ink, got 2"):
        await animate(wan, "ink")


async def test_a_lora_of_another_model_is_refused_with_both_names(wan: Wan, folder: Path, plain: Pixels) -> None:
    layer = "transformer.single_transformer_blocks.0.attn.to_q"
    tensors = {f"{layer}.lora_A.weight": torch.ones(2, 32), f"{layer}.lora_B.weight": torch.ones(32, 2)}
    save_file(tensors, folder / "other.safetensors")
    with pytest.raises(InvalidParameter, match=r"loras: other .*(FLUX|Flux).*Wan|loras: other .*Wan.*(FLUX|Flux)"):
        await animate(wan, "other")
    assert np.array_equal(await animate(wan), plain)


# --- requests -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("ink", WanLora(name="ink")),
        ("ink:0.5", WanLora(name="ink", weight=0.5)),
        ("ink:high", WanLora(name="ink", expert="high")),
        ("ink:-0.5:low", WanLora(name="ink", weight=-0.5, expert="low")),
        ('{"name": "ink", "expert": "low"}', WanLora(name="ink", expert="low")),
        ({"name": "ink.safetensors", "weight": 2}, WanLora(name="ink", weight=2)),
    ],
)
def test_how_a_lora_of_wan_is_written(given: object, expected: WanLora) -> None:
    assert WanRequest.model_validate({"loras": [given]}).loras == (expected,)


@pytest.mark.parametrize("loras", [("ink", "ink"), ("ink", "ink:high"), ("ink:low", "./ink:0.5:low")])
def test_an_expert_uses_a_lora_once(loras: tuple[str, ...]) -> None:
    with pytest.raises(InvalidParameter, match="loras: ink must be listed once, got 2 times"):
        WanRequest.model_validate({"loras": loras})


def test_requests_with_the_same_files_are_routed_alike() -> None:
    sets = {WanRequest.model_validate({"loras": loras}).lora_set for loras in (["b", "a:high"], ["a", "b:0.5"])}
    assert sets == {"a+b"}
    assert EditRequest.model_validate({"loras": ["b", "a"]}).lora_set == "a+b"
    assert EditRequest().lora_set == ""


# --- Qwen-Image-Edit ----------------------------------------------------------------------------------------------


async def edit(qwen: QwenEdit, *loras: object) -> list[Item]:
    request = EditRequest.model_validate({**EDIT, "loras": loras})
    return [item async for item in qwen.edit(request, PICTURE)]


def find_pixels(items: list[Item]) -> bytes:
    (pixels,) = (item.pixels.tobytes() for item in items if isinstance(item, Frames))
    return pixels


async def test_qwen_image_edit_adapts_for_a_request_and_for_a_deployment(home: Path, tmp_path: Path) -> None:
    qwen = load_qwen(home, lora_dir=tmp_path)
    width = qwen._model._pipe.transformer.get_submodule(ATTENTION).in_features
    save_file(draw_matrices([ATTENTION], 3, width), tmp_path / "ink.safetensors")
    plain, inked = await edit(qwen), await edit(qwen, "ink")
    assert find_pixels(plain) != find_pixels(inked)
    assert json.loads(read_facts(inked)[LORA_HASHES]) == {"ink": hash_file(tmp_path / "ink.safetensors")}
    assert LORA_HASHES not in read_facts(plain)
    assert find_pixels(await edit(qwen)) == find_pixels(plain)
    fixed = load_qwen(home, lora_dir=tmp_path, loras=[{"file": "ink.safetensors"}])
    assert find_pixels(await edit(fixed)) == find_pixels(inked)
    with pytest.raises(InvalidParameter, match="loras: there is no oil here"):
        await edit(qwen, "oil")


# --- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, {"file": "a.safetensors", "name": "a"}])
def test_a_fixed_lora_has_a_file_or_a_name(fields: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="give exactly one of file and name"):
        FixedLora.model_validate(fields)


@pytest.mark.parametrize(
    ("loras", "message"),
    [([{"name": "nowhere"}], "there is no nowhere here"), ([{"file": "no.safetensors"}], "there is no no.safetensors")],
)
def test_a_deployment_says_at_its_start_that_a_lora_is_missing(
    home: Path, folder: Path, loras: list[dict[str, str]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_wan(home, lora_dir=folder, loras=loras)
    assert caught.value.param == "loras"


def test_the_folder_of_loras_is_that_of_the_home_by_default(tmp_path: Path) -> None:
    settings: LoraSettings[Any] = WanSettings(weights=Weights(path=tmp_path))
    assert place_loras(settings, tmp_path).lora_dir == tmp_path / "loras"
    assert (tmp_path / "loras").is_dir()
    own = settings.model_copy(update={"lora_dir": tmp_path})
    assert place_loras(own, tmp_path / "nowhere").lora_dir == tmp_path
