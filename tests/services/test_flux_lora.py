"""LoRAs for each request: the same pixels as with diffusers, no leaks between requests, and rejection of bad files."""

import asyncio
import hashlib
import json
import pickle
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from safetensors.torch import load_file, save_file

from miniatures.random import written
from services.errors import ConfigError, InvalidParameter, LimitExceeded, ModelFailed
from services.flux.request import FluxRequest
from services.flux.service import Flux
from services.flux.settings import FluxSettings
from services.frames import Fact, Frames, Pixels, Progress
from services.weights.local import resolve
from services.weights.loras.active import Loras
from services.weights.loras.files import LORA_HASHES, LORA_NOTICE
from services.weights.loras.slots import Slot
from tests.services.flux_loras import QUERIES, VALUES, WIDTH, tensors_of

FIELDS = {"prompt": "a boat", "size": "32x32", "steps": 2, "seed": 3}
COMMIT = "0123456789" * 4


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with four valid LoRAs of different layers, ranks and alphas."""
    folder = tmp_path_factory.mktemp("loras")
    save_file(tensors_of(QUERIES, rank=2, seed=1), folder / "ink.safetensors")
    save_file(tensors_of(VALUES, rank=4, seed=2), folder / "oil.safetensors")
    (folder / "sub").mkdir()
    alphas = {f"transformer.{layer}.alpha": torch.tensor(8.0 + index) for index, layer in enumerate(QUERIES)}
    save_file(tensors_of(QUERIES, rank=4, seed=3) | alphas, folder / "sub" / "chalk.safetensors")
    head = {"transformer.r": 2, "transformer.lora_alpha": 6, "transformer.alpha_pattern": {QUERIES[1]: 10}}
    head["transformer.target_modules"] = QUERIES
    save_file(
        tensors_of(QUERIES, rank=2, seed=4), folder / "wax.safetensors", {"lora_adapter_metadata": json.dumps(head)}
    )
    return folder


@pytest.fixture(scope="module")
def flux(home, folder) -> Flux:
    return loaded(home, folder)


@pytest.fixture(scope="module")
def plain(flux) -> Pixels:
    return asyncio.run(made(flux))


def settings_of(home: Path, folder: Path, **more) -> FluxSettings:
    weights = written("flux", "tiny", home)
    fields = {"weights": weights, "device": "cpu", "dtype": "float32", "max_sequence_length": 32, "lora_dir": folder}
    return FluxSettings(**{**fields, **more})


def loaded(home: Path, folder: Path, **more) -> Flux:
    return Flux(settings_of(home, folder, **more), home, lambda: "flux#test cpu")


async def made(flux: Flux, **weights: float) -> Pixels:
    """Return the picture with LoRAs of these weights; `sub_chalk` stands for `sub/chalk`."""
    return await painted(flux, [{"name": name.replace("_", "/"), "weight": weight} for name, weight in weights.items()])


async def painted(flux: Flux, loras: list[dict[str, Any]]) -> Pixels:
    items = [item async for item in flux.generate_image(FluxRequest.model_validate({**FIELDS, "loras": loras}))]
    (pixels,) = (item.pixels for item in items if isinstance(item, Frames))
    return pixels


def by_diffusers(home: Path, folder: Path, **weights: float) -> Pixels:
    """Return the picture of diffusers' own pipeline."""
    pipe: Any = FluxPipeline.from_pretrained(resolve(written("flux", "tiny", home), home), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    for name in weights:
        pipe.load_lora_weights(folder, weight_name=f"{name.replace('_', '/')}.safetensors", adapter_name=name)
    pipe.set_adapters(list(weights), list(weights.values()))
    generator = torch.Generator().manual_seed(3)
    fields = {"prompt": "a boat", "width": 32, "height": 32, "num_inference_steps": 2, "max_sequence_length": 32}
    return (pipe(**fields, generator=generator, output_type="np").images * 255).round().astype(np.uint8)


def slots_of(flux: Flux) -> Mapping[str, Slot]:
    """Return the slots of the LoRAs in memory by their names."""
    return flux._model.loras._networks[""]._slots


def adapters_of(flux: Flux) -> set[str]:
    """Return the names of all adapters that peft holds in the transformer."""
    modules = flux._model._pipe.transformer.modules()
    return {adapter for module in modules for adapter in getattr(module, "lora_A", {})}


# --- effect -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "weights",
    [{"ink": 1.0}, {"ink": 0.3, "oil": -0.7}, {"sub_chalk": 0.5}, {"wax": 1.0}, {"wax": 0.2, "ink": 1.0, "oil": 0.4}],
    ids="+".join,
)
async def test_pixels_are_those_of_diffusers_set_adapters(home, folder, flux, plain, weights):
    pixels = await made(flux, **weights)
    assert np.array_equal(pixels, by_diffusers(home, folder, **weights))
    assert not np.array_equal(pixels, plain)


async def test_a_weight_of_zero_is_no_lora_at_all(home, folder, plain):
    flux = loaded(home, folder)
    assert np.array_equal(await made(flux, ink=0), plain)
    assert list(flux._model.loras.loaded) == []
    assert np.array_equal(await made(flux, ink=0, oil=0.5), await made(flux, oil=0.5))
    assert np.array_equal(await made(flux, ink=0), plain)


async def test_weights_matter(flux):
    pictures = {(await made(flux, ink=weight)).tobytes() for weight in (-1, 0, 0.5, 1)}
    assert len(pictures) == 4


@pytest.mark.parametrize("max_loras", [1, 2])
async def test_two_in_turn_a_hundred_times_never_mix_and_memory_does_not_grow(home, folder, plain, max_loras):
    flux = loaded(home, folder, max_loras=max_loras)
    alone = [await made(loaded(home, folder), ink=1), await made(loaded(home, folder), oil=1)]
    process, before = psutil.Process(), 0
    for turn in range(100):
        pixels = await made(flux, **{("ink", "oil")[turn % 2]: 1})
        assert np.array_equal(pixels, alone[turn % 2]), turn
        if turn == 20:
            before = process.memory_info().rss
    assert process.memory_info().rss - before < 20 * 2**20
    assert len(adapters_of(flux)) == max_loras == len(list(flux._model.loras.loaded))
    assert np.array_equal(await made(flux), plain)


async def test_the_one_used_longest_ago_makes_room_and_those_in_use_stay(home, folder, flux):
    small = loaded(home, folder, max_loras=2)
    await made(small, ink=1)
    await made(small, oil=1)
    await made(small, ink=1)
    assert list(small._model.loras.loaded) == ["oil", "ink"]
    await made(small, wax=1)
    assert list(small._model.loras.loaded) == ["ink", "wax"]
    place = slots_of(small)["ink"]
    both = await made(small, sub_chalk=1, ink=1)  # `ink` is the least recently used, but this request uses it
    assert slots_of(small)["ink"] is place
    assert list(small._model.loras.loaded) == ["sub/chalk", "ink"]
    assert np.array_equal(both, await made(flux, sub_chalk=1, ink=1))
    assert adapters_of(small) == {"slot_00", "slot_01"}


async def test_a_file_that_was_replaced_is_read_again(home, tmp_path, folder):
    file = tmp_path / "mine.safetensors"
    file.write_bytes((folder / "ink.safetensors").read_bytes())
    flux = loaded(home, tmp_path)
    first = await made(flux, mine=1)
    save_file(tensors_of(VALUES, rank=4, seed=2), file)
    assert np.array_equal(await made(flux, mine=1), by_diffusers(home, folder, oil=1))
    assert not np.array_equal(await made(flux, mine=1), first)
    assert len(adapters_of(flux)) == 1


async def test_the_files_that_were_used_are_told_before_the_picture(home, tmp_path, folder):
    for name in ("ink", "oil"):
        (tmp_path / f"{name}.safetensors").write_bytes((folder / f"{name}.safetensors").read_bytes())
    flux = loaded(home, tmp_path)
    loras = [{"name": "oil"}, {"name": "ink", "weight": 0}]
    request = FluxRequest.model_validate({**FIELDS, "loras": loras})
    for kept in ("oil", "ink"):
        items = [item async for item in flux.generate_image(request)]
        (told,) = (item for item in items if isinstance(item, Fact) and item.name == LORA_HASHES)
        expected = hashlib.sha256((folder / f"{kept}.safetensors").read_bytes()).hexdigest()
        assert json.loads(str(told.value)) == {"oil": expected}
        assert items.index(told) < next(place for place, item in enumerate(items) if isinstance(item, Frames))
        (tmp_path / "oil.safetensors").write_bytes((folder / "ink.safetensors").read_bytes())
    items = [item async for item in flux.generate_image(FluxRequest(**FIELDS))]
    assert not any(isinstance(item, Fact) and item.name == LORA_HASHES for item in items)


async def test_closing_the_stream_turns_them_off(flux, plain):
    request = FluxRequest(**{**FIELDS, "steps": 100, "loras": [{"name": "ink"}]})
    async with aclosing(flux.generate_image(request)) as stream:
        async for item in stream:
            if isinstance(item, Progress) and item.done == 1:
                break
    assert np.array_equal(await made(flux), plain)


async def test_kohya_s_layout(home, tmp_path):
    random = torch.Generator().manual_seed(5)
    tensors = {}
    for name, wide, high in (("img_attn_proj", WIDTH, WIDTH), ("img_attn_qkv", WIDTH, 3 * WIDTH)):
        prefix = f"lora_unet_double_blocks_0_{name}"
        tensors[f"{prefix}.lora_down.weight"] = torch.randn(2, wide, generator=random)
        tensors[f"{prefix}.lora_up.weight"] = torch.randn(high, 2, generator=random)
        tensors[f"{prefix}.alpha"] = torch.tensor(1.0)
    save_file(tensors, tmp_path / "kohya.safetensors")
    flux = loaded(home, tmp_path)
    assert np.array_equal(await made(flux, kohya=1), by_diffusers(home, tmp_path, kohya=1))


async def test_a_part_that_is_not_applied_is_told(home, folder, tmp_path):
    text = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    parts = {f"{text}.lora_A.weight": torch.ones(2, 32), f"{text}.lora_B.weight": torch.ones(32, 2)}
    save_file({**load_file(folder / "ink.safetensors"), **parts}, tmp_path / "style.safetensors")
    flux = loaded(home, tmp_path)
    assert np.array_equal(await made(flux, style=1), by_diffusers(home, folder, ink=1))
    request = FluxRequest.model_validate({**FIELDS, "loras": ["style"]})
    facts = {item.name: item.value async for item in flux.generate_image(request) if isinstance(item, Fact)}
    assert facts[LORA_NOTICE] == "not applied: style: CLIP-L (1 layer)"


# --- rejected requests --------------------------------------------------------------------------------------------


class Payload:
    """An object that creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("name", ["nothing", "../loras/ink", "sub/../ink", "/etc/ink", "sub", "..", "link", "ink/"])
async def test_a_name_that_is_not_of_a_file_there(home, tmp_path, name):
    (tmp_path / "loras" / "sub").mkdir(parents=True)
    save_file(tensors_of(QUERIES, 2, 1), tmp_path / "outside.safetensors")
    (tmp_path / "loras" / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    flux = loaded(home, tmp_path / "loras")
    with pytest.raises(InvalidParameter, match=r"^loras: .*(there is no|must lie inside)") as caught:
        await painted(flux, [{"name": name}])
    assert caught.value.param == "loras"
    assert str(tmp_path) not in caught.value.message


async def test_without_a_directory_there_are_none(home):
    with pytest.raises(InvalidParameter, match="loras: there is no ink here"):
        await made(Flux(settings_of(home, Path()).model_copy(update={"lora_dir": None}), home, str), ink=1)


@pytest.mark.parametrize("ending", ["bin", "ckpt", "pkl", "pt", "pth", "safetensors"])
async def test_a_pickle_is_not_opened(home, tmp_path, plain, ending):
    (tmp_path / f"style.{ending}").write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    flux = loaded(home, tmp_path)
    with pytest.raises(InvalidParameter, match=r"must be a safetensors file|is not a safetensors file"):
        await painted(flux, [{"name": f"style.{ending}"}])
    assert not (tmp_path / "ran").exists()
    assert np.array_equal(await made(flux), plain)


def spoiled() -> dict[str, dict[str, torch.Tensor]]:
    """Files that do not fit, by their defect."""
    fits = tensors_of(QUERIES, 2, 1)
    down, up = f"transformer.{QUERIES[0]}.lora_A.weight", f"transformer.{QUERIES[0]}.lora_B.weight"
    return {
        "of another model": tensors_of(["blocks.0.attn1.to_q"], 2, 1),
        "of a block too many": tensors_of(["transformer_blocks.9.attn.to_q"], 2, 1),
        "of a U-Net": {"unet.down.lora_A.weight": torch.ones(2, 32), "unet.down.lora_B.weight": torch.ones(32, 2)},
        "of other widths": {**fits, down: torch.ones(2, 48)},
        "of two ranks": {**fits, up: torch.ones(32, 3)},
        "of rank nought": {down: torch.ones(0, 32), up: torch.ones(32, 0)},
        "without a partner": {down: torch.ones(2, 32)},
        "that also changes norms": {**fits, "transformer.transformer_blocks.0.attn.norm_q.weight": torch.ones(16) * 9},
        "that widens the input": {
            **fits,
            "transformer.x_embedder.lora_A.weight": torch.ones(2, 128),
            "transformer.x_embedder.lora_B.weight": torch.ones(32, 2),
        },
        "of one dimension": {**fits, down: torch.ones(64)},
        "of no dimension": {**fits, down: torch.tensor(1.0)},
        "of a broken kohya": {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": torch.ones(2, 32)},
        "that is nothing": {},
    }


@pytest.mark.parametrize("fault", spoiled())
async def test_a_file_that_does_not_fit_harms_nothing(home, folder, tmp_path, plain, fault):
    save_file(spoiled()[fault], tmp_path / "style.safetensors")
    (tmp_path / "ink.safetensors").write_bytes((folder / "ink.safetensors").read_bytes())
    flux = loaded(home, tmp_path)
    before = {name: tensor.clone() for name, tensor in flux._model._pipe.transformer.state_dict().items()}
    with pytest.raises(InvalidParameter, match="loras: style") as caught:
        await made(flux, ink=1, style=1)
    assert caught.value.param == "loras"
    assert np.array_equal(await made(flux), plain)
    assert np.array_equal(await made(flux, ink=1), by_diffusers(home, folder, ink=1))
    after = flux._model._pipe.transformer.state_dict()
    assert all(torch.equal(after[name if name in after else based(name)], old) for name, old in before.items())
    assert len(adapters_of(flux)) == 1


def based(name: str) -> str:
    """Return the name of a layer's own parameter after peft has wrapped the layer."""
    head, _, tail = name.rpartition(".")
    return f"{head}.base_layer.{tail}"


async def test_limits_of_a_file(home, folder):
    with pytest.raises(LimitExceeded, match=r"loras: at most 100 bytes in ink, got \d+"):
        await made(loaded(home, folder, max_lora_bytes=100), ink=1)
    with pytest.raises(LimitExceeded, match="loras: at most 3 ranks in oil, got 4"):
        await made(loaded(home, folder, max_lora_rank=3), oil=1)


# --- the list of repositories -------------------------------------------------------------------------------------


async def test_a_name_on_the_list_is_taken_from_the_cache_of_the_hub(home, folder, plain, tmp_path):
    known = {"name": "house-style", "repository": "owner/style", "revision": COMMIT, "file": "style.safetensors"}
    offline = written("flux", "tiny", tmp_path).model_copy(update={"offline": True})
    flux = loaded(tmp_path, folder, weights=offline, lora_repositories=[known])
    with pytest.raises(ModelFailed, match=r"house-style: .*not downloaded yet, and offline is set"):
        await painted(flux, [{"name": "house-style"}])
    snapshot = tmp_path / "models" / "models--owner--style" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    with pytest.raises(ModelFailed, match=r"style.safetensors is not in owner/style"):
        await painted(flux, [{"name": "house-style"}])
    (snapshot / "style.safetensors").write_bytes((folder / "ink.safetensors").read_bytes())
    assert np.array_equal(await painted(flux, [{"name": "house-style"}]), by_diffusers(home, folder, ink=1))
    assert list(flux._model.loras.loaded) == ["house-style"]


def test_a_repository_of_unknown_terms_on_the_list_is_known_at_the_start(folder, tmp_path):
    known = {"name": "house-style", "repository": "owner/style", "revision": COMMIT, "file": "style.safetensors"}
    expected = "lora_repositories: house-style: .* licence of owner/style is not known"
    with pytest.raises(ConfigError, match=expected) as caught:
        loaded(tmp_path, folder, lora_repositories=[known])
    assert caught.value.param == "lora_repositories"
    loaded(tmp_path, folder, lora_repositories=[{**known, "licence": "MIT"}])


# --- swapping in place, as with compilation -----------------------------------------------------------------------


@pytest.fixture
def swapping(home, folder) -> Flux:
    """A service with the LoRA handling of `compile`, but without compilation."""
    flux = loaded(home, folder)
    settings = settings_of(home, folder, max_lora_rank=8, max_loras=2, compile=True)
    pipe = flux._model._pipe
    flux._model.loras = Loras(settings, home, pipe, "flux", {"": pipe.transformer})
    return flux


async def test_swapping_makes_the_same_pixels_in_the_same_tensors(swapping, flux, plain):
    assert not np.array_equal(await made(swapping, ink=1), plain)
    parameters = dict(swapping._model._pipe.transformer.named_parameters())
    for weights in ({"ink": 1}, {"sub_chalk": 0.5}, {"wax": -0.7}, {"ink": 0.4}, {"wax": 1}):
        pixels = (await made(swapping, **weights)).astype(int)
        assert np.abs(pixels - await made(flux, **weights)).max() <= 1, weights
        now = dict(swapping._model._pipe.transformer.named_parameters())
        assert all(now[name] is tensor for name, tensor in parameters.items()), weights
        assert now.keys() == parameters.keys()
    assert np.array_equal(await made(swapping), plain)
    assert list(swapping._model.loras.loaded) == ["wax"]


async def test_several_at_once_and_other_layers_can_be_swapped_in_too(swapping, flux, plain):
    for weights in (
        {"ink": 1, "oil": 0.5},
        {"oil": 1},
        {"oil": 0.5, "wax": 1},
        {"ink": 0.3},
        {"sub_chalk": 1, "ink": 1},
    ):
        pixels = (await made(swapping, **weights)).astype(int)
        assert np.abs(pixels - await made(flux, **weights)).max() <= 1, weights
    assert adapters_of(swapping) <= {"slot_00", "slot_01"}
    assert np.array_equal(await made(swapping), plain)


async def test_fewer_at_once_take_the_first_slots(swapping):
    """Compiled code thus depends on the number of LoRAs, not on their slots."""
    await made(swapping, ink=1, wax=1)
    await made(swapping, oil=1)
    assert slots_of(swapping)["oil"].adapter == "slot_00"
    await made(swapping, ink=1, wax=1)
    await made(swapping, wax=1)
    assert slots_of(swapping)["wax"].adapter == "slot_00"
    assert list(swapping._model.loras.loaded) == ["wax"]


def test_files_of_the_tests_are_as_they_say(folder):
    assert load_file(folder / "oil.safetensors")[f"transformer.{VALUES[3]}.lora_A.weight"].shape == (4, WIDTH)
