"""The checkpoints that ship: small, of half precision, and each with what made it and what it is worth."""

import json
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open

from miniatures.score import PARTS as SCORED
from miniatures.score import table
from miniatures.train import CARD, CHECKPOINTS, PARTS

MIB = 1 << 20
MOST, MOST_TOGETHER = 6 * MIB, 30 * MIB
LOCAL = Path(__file__).parents[2] / "serve_config.local.yaml"


def files_of(name: str) -> list[Path]:
    return [path for path in (CHECKPOINTS / name).rglob("*") if path.is_file() and not path.name.startswith(".")]


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
    assert list(card["parts"]) == [part.name for part in PARTS[name]]
    for part, made in card["parts"].items():
        assert made["command"].startswith(f"python -m miniatures.train {name} --part {part} "), part
        assert made["steps"] > 0
        assert made["minutes"] > 0
        assert made["device"]
    assert name not in SCORED or card["scores"]["scenes"] >= 100


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


def test_the_readme_says_what_was_measured() -> None:
    assert table(CHECKPOINTS) in (CHECKPOINTS.parent / "README.md").read_text()


def test_the_local_configuration_names_checkpoints_that_ship() -> None:
    text = LOCAL.read_text()
    named = {
        line.split("miniatures/checkpoints/")[1].split("}")[0] for line in text.splitlines() if "checkpoints/" in line
    }
    assert yaml.safe_load(text)
    assert named
    for name in named:
        assert (CHECKPOINTS / name).is_dir(), name
