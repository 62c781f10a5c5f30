"""Folders as the repositories publish them, with narrow networks, load through the models' own loaders.

The files of the repositories were saved by older versions of the libraries: other names of tensors, tokenizers without
`tokenizer.json`, indexes that name another pipeline or lack members, weights in several files or in a variant.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from miniatures.random import written
from services.flux.model import FluxModel
from services.flux.settings import FluxSettings
from services.hunyuan_dit.model import HunyuanDitModel
from services.hunyuan_dit.settings import HunyuanDitSettings
from services.internvl.model import Describer
from services.qwen_edit.model import QwenEditModel
from services.qwen_edit.settings import QwenEditSettings
from services.svd.model import SvdModel
from services.svd.settings import SvdSettings
from services.text_to_video.model import TextToVideoModel
from services.text_to_video.settings import TextToVideoSettings
from services.wan.model import WanModel
from services.wan.settings import WanSettings
from services.weights.weights import Weights
from tests.real.layouts import (
    SENTENCES,
    edit_json,
    keep_one_embedding,
    list_names,
    name_variant,
    rename_prefixes,
    shard_tensors,
    write_bert_vocabulary,
    write_clip_vocabulary,
    write_sentencepiece,
)

Copy = Callable[[str, str], Path]

OPENAI_MEAN, OPENAI_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def copy(home: Path, tmp_path: Path) -> Copy:
    """Return a function that copies the random checkpoint of a kind and a form to a new folder."""

    def make_copy(kind: str, form: str) -> Path:
        return Path(shutil.copytree(find_saved(home, kind, form), tmp_path / f"{kind}-{form}"))

    return make_copy


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def find_saved(home: Path, kind: str, form: str) -> Path:
    folder = written(kind, form, home).path
    assert folder is not None
    return folder


def settings_of(folder: Path, **settings: Any) -> dict[str, Any]:
    return {"weights": Weights(path=folder), "device": "cpu", "dtype": "float32", **settings}


def check_same_networks(model: Any, saved: Any) -> None:
    """Check that all networks of two loaded pipelines have the same tensors."""
    for name, network in saved._pipe.components.items():
        if not isinstance(network, nn.Module):
            continue
        found = getattr(model._pipe, name).state_dict()
        for tensor, values in network.state_dict().items():
            assert torch.equal(found[tensor], values), f"{name}: {tensor}"


@pytest.mark.parametrize("embedding", ["shared.weight", "encoder.embed_tokens.weight"])
def test_wan_a14b(copy: Copy, home: Path, embedding: str) -> None:
    folder = copy("wan", "a14b")
    edit_json(
        folder / "model_index.json",
        image_encoder=[None, None],
        image_processor=[None, None],
        expand_timesteps=...,
        tokenizer=["transformers", "T5TokenizerFast"],
    )
    for part in ("transformer", "transformer_2", "text_encoder"):
        if part == "text_encoder":
            keep_one_embedding(folder / part, embedding)
        shard_tensors(folder / part)
    pieces = write_sentencepiece(folder / "tokenizer", "T5Tokenizer")
    model = WanModel(WanSettings(**settings_of(folder)), home)
    check_same_networks(model, WanModel(WanSettings(**settings_of(find_saved(home, "wan", "a14b"))), home))
    assert model.has_two_experts
    assert model.sides.multiple == 16
    assert model.rate == 16
    assert model._pipe.tokenizer(SENTENCES[0]).input_ids == [*pieces.encode(SENTENCES[0]), 1]


def test_wan_ti2v_published_as_a_text_to_video_pipeline(copy: Copy, home: Path) -> None:
    folder = copy("wan", "ti2v")
    edit_json(
        folder / "model_index.json",
        _class_name="WanPipeline",
        image_encoder=...,
        image_processor=...,
        boundary_ratio=None,
        transformer_2=[None, None],
        tokenizer=["transformers", "T5TokenizerFast"],
    )
    model = WanModel(WanSettings(**settings_of(folder)), home)
    check_same_networks(model, WanModel(WanSettings(**settings_of(find_saved(home, "wan", "ti2v"))), home))
    assert not model.has_two_experts
    assert model.sides.multiple == 32
    assert model.rate == 24


def test_flux(copy: Copy, home: Path) -> None:
    folder = copy("flux", "tiny")
    edit_json(
        folder / "model_index.json",
        image_encoder=...,
        feature_extractor=...,
        tokenizer_2=["transformers", "T5TokenizerFast"],
    )
    write_clip_vocabulary(folder / "tokenizer")
    pieces = write_sentencepiece(folder / "tokenizer_2", "T5Tokenizer")
    rename_prefixes(folder / "text_encoder", ("", "text_model."))
    keep_one_embedding(folder / "text_encoder_2", "shared.weight")
    shard_tensors(folder / "text_encoder_2")
    shard_tensors(folder / "transformer")
    model = FluxModel(FluxSettings(**settings_of(folder)), home)
    saved = FluxModel(FluxSettings(**settings_of(find_saved(home, "flux", "tiny"))), home)
    check_same_networks(model, saved)
    assert model._pipe.tokenizer.model_max_length == 77
    for sentence in SENTENCES:
        assert model._pipe.tokenizer(sentence).input_ids == saved._pipe.tokenizer(sentence).input_ids
        assert model._pipe.tokenizer_2(sentence).input_ids == [*pieces.encode(sentence), 1]


@pytest.mark.parametrize("newer", [False, True])
def test_qwen_edit(copy: Copy, home: Path, newer: bool) -> None:
    folder = copy("qwen-edit", "tiny")
    (folder / "processor" / "processor_config.json").unlink()
    edit_json(
        folder / "processor" / "preprocessor_config.json",
        do_convert_rgb=True,
        do_normalize=True,
        do_rescale=True,
        do_resize=True,
        image_mean=OPENAI_MEAN,
        image_std=OPENAI_STD,
        image_processor_type="Qwen2VLImageProcessor",
        min_pixels=3136,
        max_pixels=12845056,
        merge_size=2,
        patch_size=14,
        temporal_patch_size=2,
        processor_class="Qwen2VLProcessor",
        resample=3,
        rescale_factor=1 / 255,
        size={"longest_edge": 12845056, "shortest_edge": 3136},
    )
    assert {"model.norm.weight", "visual.merger.ln_q.weight"} <= set(list_names(folder / "text_encoder"))
    if newer:
        rename_prefixes(folder / "text_encoder", ("model.", "model.language_model."), ("visual.", "model.visual."))
    shard_tensors(folder / "text_encoder")
    shard_tensors(folder / "transformer")
    model = QwenEditModel(QwenEditSettings(**settings_of(folder)), home)
    saved = QwenEditModel(QwenEditSettings(**settings_of(find_saved(home, "qwen-edit", "tiny"))), home)
    check_same_networks(model, saved)
    assert model._pipe.processor.image_processor.patch_size == 14


def test_svd_in_its_variant(copy: Copy, home: Path) -> None:
    folder = copy("svd", "xt")
    assert {"vision_model.post_layernorm.weight", "visual_projection.weight"} <= set(
        list_names(folder / "image_encoder")
    )
    name_variant(folder, "fp16")
    model = SvdModel(SvdSettings(**settings_of(folder, variant="fp16")), home)
    saved = SvdModel(SvdSettings(**settings_of(find_saved(home, "svd", "xt"))), home)
    check_same_networks(model, saved)


def test_text_to_video_in_its_variant(copy: Copy, home: Path) -> None:
    folder = copy("text-to-video", "tiny")
    write_clip_vocabulary(folder / "tokenizer")
    rename_prefixes(folder / "text_encoder", ("", "text_model."))
    name_variant(folder, "fp16")
    model = TextToVideoModel(TextToVideoSettings(**settings_of(folder, variant="fp16")), home)
    saved = TextToVideoModel(TextToVideoSettings(**settings_of(find_saved(home, "text-to-video", "tiny"))), home)
    check_same_networks(model, saved)
    assert model._pipe.tokenizer(SENTENCES[0]).input_ids == saved._pipe.tokenizer(SENTENCES[0]).input_ids


def test_hunyuan_dit_with_slow_tokenizers(copy: Copy, home: Path) -> None:
    folder = copy("hunyuan-dit", "tiny")
    write_bert_vocabulary(folder / "tokenizer")
    pieces = write_sentencepiece(folder / "tokenizer_2", "T5Tokenizer")
    keep_one_embedding(folder / "text_encoder_2", "shared.weight")
    shard_tensors(folder / "text_encoder_2")
    edit_json(
        folder / "model_index.json",
        requires_safety_checker=True,
        safety_checker=[None, None],
        feature_extractor=[None, None],
        image_encoder=[None, None],
        tokenizer_2=["transformers", "T5Tokenizer"],
    )
    model = HunyuanDitModel(HunyuanDitSettings(**settings_of(folder)), home)
    saved = HunyuanDitModel(HunyuanDitSettings(**settings_of(find_saved(home, "hunyuan-dit", "tiny"))), home)
    check_same_networks(model, saved)
    for sentence in SENTENCES:
        assert model._pipe.tokenizer(sentence).input_ids == saved._pipe.tokenizer(sentence).input_ids
        assert model._pipe.tokenizer_2(sentence).input_ids == [*pieces.encode(sentence), 1]


@pytest.mark.parametrize("newer", [False, True])
def test_internvl_with_the_processor_of_an_older_version(copy: Copy, home: Path, newer: bool) -> None:
    folder, saved = copy("internvl", "tiny"), find_saved(home, "internvl", "tiny")
    processor = json.loads((saved / "processor_config.json").read_text())
    side = processor["image_processor"]["size"]
    (folder / "processor_config.json").write_text(
        json.dumps({"image_seq_length": processor["image_seq_length"], "processor_class": "InternVLProcessor"})
    )
    pixels = {"do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True, "resample": 3}
    edit_json(
        folder / "preprocessor_config.json",
        **pixels,
        crop_to_patches=False,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
        image_processor_type="GotOcr2ImageProcessorFast",
        min_patches=1,
        max_patches=12,
        processor_class="InternVLProcessor",
        rescale_factor=1 / 255,
        size=side,
    )
    edit_json(  # published with other statistics and another size, which nothing uses
        folder / "video_preprocessor_config.json",
        **pixels,
        image_mean=OPENAI_MEAN,
        image_std=OPENAI_STD,
        processor_class="InternVLProcessor",
        rescale_factor=1 / 255,
        size={"height": 384, "width": 384},
        video_processor_type="InternVLVideoProcessor",
    )
    assert {"language_model.model.norm.weight", "vision_tower.layernorm.weight"} & set(list_names(folder))
    if newer:
        rename_prefixes(
            folder,
            ("language_model.model.", "model.language_model."),
            ("language_model.lm_head.", "lm_head."),
            ("vision_tower.", "model.vision_tower."),
            ("multi_modal_projector.", "model.multi_modal_projector."),
        )
    shard_tensors(folder)
    published, own = (Describer(place, device="cpu", dtype="float32") for place in (folder, saved))
    for name, values in own.model.state_dict().items():
        assert torch.equal(published.model.state_dict()[name], values), name
    frames = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), np.uint8)
    inputs, expected = published.encode("what is it", frames), own.encode("what is it", frames)
    assert torch.equal(inputs["input_ids"], expected["input_ids"])
    assert torch.equal(inputs["pixel_values"], expected["pixel_values"])
