"""The shipped checkpoints are small, in half precision, and have a record of their training and scores."""

import importlib
import json
import re
from pathlib import Path

import pytest
from safetensors import safe_open

from miniatures.score import table
from miniatures.train import CARD, CHECKPOINTS, PARTS

MOST, MOST_TOGETHER = 6_000_000, 30_000_000
"""In bytes: one checkpoint, and all together."""
LOCAL = Path(__file__).parents[2] / "serve_config.local.yaml"


def files_of(name: str) -> list[Path]:
    """Return the files of this checkpoint alone; shared ones are links."""
    found = [path for path in (CHECKPOINTS / name).rglob("*") if path.is_file() and not path.name.startswith(".")]
    return [path for path in found if path.resolve().is_relative_to((CHECKPOINTS / name).resolve())]


def test_all_together_they_are_small() -> None:
    assert sum(path.stat().st_size for name in PARTS for path in files_of(name)) <= MOST_TOGETHER


@pytest.mark.parametrize("name", PARTS)
def test_each_is_small_and_of_half_precision(name: str) -> None:
    files = files_of(name)
    assert sum(path.stat().st_size for path in files) <= MOST
    weights = [path for path in files if path.suffix not in (".json", ".jinja", ".txt", ".md")]
    assert weights
    for path in weights:
        assert path.suffix == ".safetensors", path
        with safe_open(path, "pt") as tensors:
            kinds = {tensors.get_slice(key).get_dtype() for key in tensors.keys()}  # noqa: SIM118
        assert kinds <= {"BF16", "F16", "I64"}, (path, kinds)


@pytest.mark.parametrize("name", PARTS)
def test_what_made_it_is_written_beside_it(name: str) -> None:
    card = json.loads((CHECKPOINTS / name / CARD).read_text())
    recipes = {part.name: part for part in PARTS[name]}
    assert list(card["parts"]) == list(recipes)
    for part, made in card["parts"].items():
        assert made["command"].startswith(f"python -m miniatures.train {name} --part {part} "), part
        recipe = getattr(importlib.import_module(recipes[part].module), recipes[part].recipe)
        assert made["steps"] == recipe.steps, f"{part}: what ships is not what the recipe makes"
        assert made["minutes"] > 0
        assert made["device"]
    assert card["scores"]["scenes"] >= 100


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("wan", {"vae_psnr": 30, "vae_shape": 0.9, "i2v_first_db": 22, "v2v_direction": 0.8, "v2v_colour": 0.9}),
        ("internvl", {"colour": 0.9, "shape": 0.9, "direction": 0.8}),
        ("flux", {"vae_psnr": 30, "vae_shape": 0.9, "colour": 0.85, "shape": 0.85}),
        ("svd", {"vae_psnr": 30, "vae_shape": 0.9, "colour": 0.9}),
    ],
)
def test_each_is_worth_what_it_has_to_be(name: str, least: dict[str, float]) -> None:
    scores = json.loads((CHECKPOINTS / name / CARD).read_text())["scores"]
    assert {key: value for key, value in scores.items() if value < least.get(key, value)} == {}
    assert least.keys() <= scores.keys()


def test_guidance_is_worth_what_it_has_to_be() -> None:
    scores = json.loads((CHECKPOINTS / "qwen-edit" / CARD).read_text())["scores"]
    assert scores["edge_ratio"] <= 0.9
    assert 0.005 < scores["lpips_to_prev"] < scores["lpips_to_init"]
    assert scores["lpips_to_init"] > 0.01


@pytest.mark.parametrize(("one", "other"), [("qwen-edit", "wan"), ("hunyuan-dit", "flux")])
def test_those_that_share_a_vae_have_the_same(one: str, other: str) -> None:
    assert (CHECKPOINTS / one / "vae").resolve() == (CHECKPOINTS / other / "vae").resolve()


def test_no_file_names_a_place_of_the_machine_that_made_it() -> None:
    for name in PARTS:
        for path in files_of(name):
            if path.suffix == ".json" and path.name != "tokenizer.json":  # contains every character
                assert not re.search(r'"(/|~|[A-Z]:\\|.*miniatures/checkpoints)', path.read_text()), path


def test_the_readme_says_what_was_measured() -> None:
    assert table(CHECKPOINTS) in (CHECKPOINTS.parent / "README.md").read_text()


def test_the_local_configuration_names_checkpoints_that_ship() -> None:
    named = set(re.findall(r"miniatures/checkpoints/([\w-]+)", LOCAL.read_text()))
    assert named == PARTS.keys()
    for name in named:
        assert (CHECKPOINTS / name).is_dir(), name
