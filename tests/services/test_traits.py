"""What a checkpoint determines: its roles, default values and frame rate, by its name or by the form of its files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from composition.configuration.settings import ModelEntry
from miniatures.random import written
from services.catalogue import KINDS, MODELS
from services.checkpoint import Checkpoint
from services.levers import ModelSettings
from services.model import Model
from services.traits import Traits, find_traits, select_files
from services.weights.weights import Weights

COMMIT = "0" * 40
KNOWN = [(model, checkpoint) for model in MODELS for checkpoint in model.checkpoints if checkpoint.roles]


def settings_of(kind: str, weights: Mapping[str, Any]) -> ModelSettings:
    return KINDS[kind].settings.model_validate({"weights": weights})


def traits_of(kind: str, weights: Mapping[str, Any], home: Path | None = None) -> Traits:
    return find_traits(KINDS[kind], settings_of(kind, weights), home)


def name_of(value: Any) -> str:
    return value.kind if isinstance(value, Model) else value.repository


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize(("model", "checkpoint"), KNOWN, ids=name_of)
def test_a_known_repository_has_its_published_defaults(model: Model[Any], checkpoint: Checkpoint) -> None:
    found = traits_of(model.kind, {"repository": checkpoint.repository, "revision": COMMIT})
    assert (found.defaults, found.rate) == (checkpoint.defaults, checkpoint.rate)
    assert set(found.roles) == set(checkpoint.roles) & {offer.role for offer in model.offers}
    assert model.licences[checkpoint.repository]


@pytest.mark.parametrize(("model", "checkpoint"), KNOWN, ids=name_of)
def test_published_defaults_are_valid_requests(model: Model[Any], checkpoint: Checkpoint) -> None:
    for offer in model.offers:
        if offer.role in checkpoint.roles and offer.request is not None:
            known = {name: value for name, value in checkpoint.defaults.items() if name in offer.request.model_fields}
            required = {name: "a boat" for name, field in offer.request.model_fields.items() if field.is_required()}
            checked = offer.request.model_validate({**required, **known})
            assert {name: getattr(checked, name) for name in known} == known


def test_the_two_wans_differ() -> None:
    a14b = traits_of("wan", {"repository": "Wan-AI/Wan2.2-I2V-A14B-Diffusers", "revision": COMMIT})
    ti2v = traits_of("wan", {"repository": "Wan-AI/Wan2.2-TI2V-5B-Diffusers", "revision": COMMIT})
    named = ("num_frames", "guidance_scale", "guidance_scale_2")
    assert [a14b.defaults.get(name) for name in named] == [81, 3.5, 3.5]
    assert [ti2v.defaults.get(name) for name in named] == [121, 5.0, None]
    assert str(a14b.defaults["negative_prompt"]).startswith("色调艳丽")
    assert ti2v.defaults["max_area"] == 704 * 1280
    assert (a14b.rate, ti2v.rate) == (16, 24)


@pytest.mark.parametrize(("form", "like"), [("a14b", "I2V-A14B"), ("t2v", "T2V-A14B"), ("ti2v", "TI2V-5B")])
def test_a_folder_has_the_defaults_of_the_checkpoint_whose_form_it_has(tmp_path: Path, form: str, like: str) -> None:
    weights = written("wan", form, tmp_path)
    by_path = find_traits(KINDS["wan"], KINDS["wan"].settings.model_validate({"weights": weights}))
    by_name = traits_of("wan", {"repository": f"Wan-AI/Wan2.2-{like}-Diffusers", "revision": COMMIT})
    assert by_path == by_name


@pytest.mark.parametrize(("guided", "like"), [(True, "FLUX.1-dev"), (False, "FLUX.1-schnell")])
def test_flux_is_recognised_by_its_guidance(tmp_path: Path, guided: bool, like: str) -> None:
    write_json(tmp_path / "transformer" / "config.json", {"guidance_embeds": guided})
    by_name = traits_of("flux", {"repository": f"black-forest-labs/{like}", "revision": COMMIT})
    assert traits_of("flux", {"path": tmp_path}) == by_name
    assert by_name.defaults["steps"] == (28 if guided else 4)


@pytest.mark.parametrize("frames", [14, 25])
def test_svd_is_recognised_by_its_frames(tmp_path: Path, frames: int) -> None:
    write_json(tmp_path / "unet" / "config.json", {"num_frames": frames})
    assert traits_of("svd", {"path": tmp_path}).defaults["num_frames"] == frames


def test_a_downloaded_fork_has_the_defaults_of_the_form_of_its_files(tmp_path: Path) -> None:
    fork = {"repository": "someone/tuned-wan", "revision": COMMIT}
    folder = tmp_path / "models" / "models--someone--tuned-wan" / "snapshots" / COMMIT
    assert traits_of("wan", fork, tmp_path).defaults == {}  # not downloaded yet
    write_json(folder / "model_index.json", {"_class_name": "WanPipeline", "expand_timesteps": True})
    assert traits_of("wan", fork, tmp_path).defaults["num_frames"] == 121
    assert traits_of("wan", fork).defaults == {}


@pytest.mark.parametrize("content", ["", "[]", "{", "\udce4"])
def test_a_folder_that_cannot_be_read_has_no_defaults_of_its_own(tmp_path: Path, content: str) -> None:
    (tmp_path / "model_index.json").write_bytes(content.encode(errors="surrogateescape"))
    found = traits_of("wan", {"path": tmp_path})
    assert (found.defaults, found.rate) == ({}, None)
    assert found.roles == tuple(dict.fromkeys(offer.role for offer in KINDS["wan"].offers))


# Files.


def select(kind: str, **fields: Any) -> tuple[str, ...]:
    weights = {"revision": COMMIT, **fields.pop("weights")}
    settings = KINDS[kind].settings.model_validate({"weights": weights, **fields})
    return select_files(KINDS[kind], settings).weights.files


def test_the_second_copies_of_a_known_repository_are_not_required() -> None:
    dev = {"repository": "black-forest-labs/FLUX.1-dev"}
    weights = Weights.model_validate({**dev, "revision": COMMIT, "files": select("flux", weights=dev)})
    assert weights.needs("transformer/diffusion_pytorch_model-00001-of-00003.safetensors")
    assert weights.needs("text_encoder_2/model.safetensors.index.json")
    assert not weights.needs("flux1-dev.safetensors")
    assert not weights.needs("ae.safetensors")


def test_files_that_the_configuration_or_the_variant_selects_stay() -> None:
    xt = {"repository": "stabilityai/stable-video-diffusion-img2vid-xt"}
    assert "*/*.fp16.safetensors" in select("svd", weights=xt, variant="fp16")
    assert select("svd", weights=xt, variant=None) == ()
    assert select("svd", weights={**xt, "files": ("*.bin",)}, variant="fp16") == ("*.bin",)
    assert select("svd", weights={"repository": "someone/else"}, variant="fp16") == ()


def test_a_configuration_selects_the_files_of_nested_weights() -> None:
    identity = {"weights": {"repository": "ByteDance/InfiniteYou", "revision": COMMIT}}
    dev = {"repository": "black-forest-labs/FLUX.1-dev", "revision": COMMIT}
    entry = ModelEntry.model_validate({"kind": "flux", "weights": dev, "identity": identity})
    assert entry.settings.identity.weights.needs("infu_flux_v1.0/aes_stage2/image_proj_model.bin")
    assert not entry.settings.identity.weights.needs("supports/insightface/models/antelopev2/glintr100.onnx")
