"""`reel models check`: the plan of a configuration, headers of a hub and of folders, and what does not fit."""

import json
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from composition.configuration.file import Configuration, load_configuration, parse_configuration
from composition.server.check import FITS, UNFIT, Question, check_models, find_facts
from composition.server.sizing import Sizing, size_model
from miniatures.random import written
from services.cards import CARDS
from tests.services.hub_server import COMMIT, HubServer, Repository, running

ROOT = Path(__file__).parents[3]
PRODUCTION = ROOT / "serve_config.yaml"
OFFLINE = Question(("h100-80",), 0.4, offline=True)
SHARE = 0.26
"""Part of a GPU's peak that the published time of Wan on eight H100 means."""
NAME = "somebody/miniature"


def configure(**models: dict[str, Any]) -> Configuration:
    """A configuration with an application for each model."""
    blocks = [
        {
            "name": name,
            "route_prefix": None,
            "import_path": "composition.app:models",
            "args": {"models": {name: {key: value for key, value in model.items() if key != "deployment"}}},
            "deployments": [{"name": name, **model.get("deployment", {})}],
        }
        for name, model in models.items()
    ]
    return parse_configuration({"applications": blocks}, ROOT)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with running() as hub:
        yield hub


def save(kind: str, form: str, home: Path) -> Path:
    folder = written(kind, form, home).path
    assert folder is not None
    return folder


def publish(hub: HubServer, folder: Path) -> dict[str, bytes]:
    """Put the files of a folder into the hub, and return them."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    hub.repositories[NAME] = Repository(files)
    return files


def remote(hub: HubServer, kind: str, name: str = NAME) -> dict[str, Any]:
    return {"kind": kind, "dtype": "float32", "weights": {"repository": name, "revision": COMMIT, "endpoint": hub.url}}


def edit_header(data: bytes, change: Any) -> bytes:
    """Return a safetensors file with a changed header."""
    (length,) = struct.unpack("<Q", data[:8])
    text = json.dumps(change(json.loads(data[8 : 8 + length]))).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def size_production() -> dict[str, Sizing]:
    found: dict[str, Sizing] = {}
    for name, entry in load_configuration(PRODUCTION).models.items():
        facts = find_facts(entry, Path("/nowhere"), offline=True)
        assert facts.checkpoint is not None
        sizing = size_model(name, entry, facts.checkpoint, CARDS["h100-80"], SHARE)
        assert sizing is not None
        found[name] = sizing
    return found


def test_production_is_planned_offline(tmp_path, capsys):
    assert check_models(load_configuration(PRODUCTION), tmp_path, OFFLINE) == FITS
    out = capsys.readouterr().out
    for name in load_configuration(PRODUCTION).models:
        assert f"\n{name}: " in out
    wan = out[out.index("\nwan: ") : out.index("\nqwen-edit: ")]
    assert "disk         126.2 GB" in wan
    assert "host memory  73.0 GB = weights 69.0 + runtime 4.0" in wan
    assert "default job  22 min: 80 forward passes, 522.91 PFLOP, 921,600 pixels and 81 frames" in wan
    assert "largest job  25 min: 200 forward passes, 2,585.55 PFLOP" in wan
    assert "max_pflop allows 600 PFLOP of it" in wan


def test_what_does_not_fit_is_said_with_the_arithmetic(tmp_path, capsys):
    assert check_models(load_configuration(PRODUCTION), tmp_path, Question(("4090",), 0.4, offline=True)) == UNFIT
    out = capsys.readouterr().out
    assert (
        "num_gpus: the default job takes 39.2 GB (wan: weights 29.1 + activations of transformer 8.6 + runtime 1.5), "
        "and NVIDIA GeForce RTX 4090 has 25.8 GB: 13.4 GB too little"
    ) in out


def test_production_reserves_what_its_models_need():
    """The reservations of serve_config.yaml follow from the plan: enough, and not a gigabyte more."""
    sizings = size_production()
    for block in load_configuration(PRODUCTION).blocks:
        for name in block.models:
            (deployment,) = block.raw["deployments"]
            need = sizings[name].largest.footprint.host_bytes
            memory = deployment["ray_actor_options"]["memory"]
            assert need <= memory < need + 1e9, name
            assert sizings[name].largest.footprint.gpu_bytes < CARDS["h100-80"].memory_bytes, name
            assert sizings[name].largest.seconds < deployment["graceful_shutdown_timeout_s"], name


def test_the_numbers_in_the_comments_of_production_hold():
    sizings, text = size_production(), PRODUCTION.read_text()
    wan, flux, qwen = sizings["wan"], sizings["flux"], sizings["qwen-edit"]
    assert f"{wan.default.seconds / 60:.0f} minutes, a frame of the rolling edit {qwen.default.seconds / 60:.1f}" in (
        text.replace("\n# ", " ")
    )
    assert f"a picture of Flux {flux.default.seconds:.0f} seconds" in text.replace("\n# ", " ")
    assert f"costs {wan.default.cost.flop / 1e15:.0f} PFLOP" in text
    assert f"the limits above allow {wan.largest.cost.flop / 1e15:,.0f}" in text
    assert f"of at most {qwen.largest.cost.flop / 1e15:.0f} PFLOP" in text


@pytest.mark.parametrize(
    ("deployment", "fault"),
    [
        ({"ray_actor_options": {"num_gpus": 1}}, "memory: Ray is not told of the 73.0 GB of host memory"),
        (
            {"ray_actor_options": {"num_gpus": 1, "memory": 70_000_000_000}},
            "memory: a replica takes 73.0 GB of host memory, and 70.0 GB are reserved: 3.0 GB too little",
        ),
        (
            {"graceful_shutdown_timeout_s": 3600, "ray_actor_options": {"num_gpus": 1, "memory": 74_000_000_000}},
            "graceful_shutdown_timeout_s: 3,600 s end the largest job of wan, which takes 6,540 s",
        ),
        ({"ray_actor_options": {"num_gpus": 0.5}}, "and 0.5 of NVIDIA H100 SXM with 80 GB has 42.8 GB"),
    ],
)
def test_reservations_that_are_too_small(tmp_path, capsys, deployment, fault):
    weights = {"repository": "Wan-AI/Wan2.2-I2V-A14B-Diffusers", "revision": COMMIT}
    limits = {"offload": "model", "max_frames": 121}
    wan = {"kind": "wan", "weights": weights, **limits, "deployment": deployment}
    assert check_models(configure(wan=wan), tmp_path, OFFLINE) == UNFIT
    assert fault in capsys.readouterr().out


@pytest.mark.parametrize(("kind", "form"), [("wan", "a14b"), ("flux", "tiny"), ("internvl", "tiny")])
def test_headers_of_a_hub_are_compared_without_a_download(hub, tmp_path, capsys, kind, form):
    saved = save(kind, form, tmp_path / "made")
    publish(hub, saved)
    model = remote(hub, kind)
    assert check_models(configure(tiny=model), tmp_path / "home", Question(("h100-80",), 0.4)) == FITS
    out = capsys.readouterr().out
    compared = re.search(r"headers read from the hub, ([\d,]+) tensors compared", out)
    assert compared is not None
    assert compared[1] != "0"
    assert "forward passes" in out
    assert all(asked.startswith("bytes=") for asked in hub.ranges)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            lambda header: {("wrong." + name if name == "proj_out.bias" else name): header[name] for name in header},
            "weights: transformer_2: proj_out.bias is missing",
        ),
        (
            lambda header: header | {"proj_out.bias": header["proj_out.bias"] | {"dtype": "Q9"}},
            "proj_out.bias has the unknown data type Q9",
        ),
        (
            lambda header: {
                name: {**value, "shape": [1, *value["shape"]]} if name == "proj_out.bias" else value
                for name, value in header.items()
            },
            "weights: transformer_2: proj_out.bias has the shape [1, ",
        ),
    ],
)
def test_a_broken_header_of_a_hub_is_named(hub, tmp_path, capsys, change, fault):
    saved = save("wan", "a14b", tmp_path / "made")
    files = publish(hub, saved)
    file = next(name for name in files if name.startswith("transformer_2/") and name.endswith(".safetensors"))
    files[file] = edit_header(files[file], change)
    assert check_models(configure(tiny=remote(hub, "wan")), tmp_path / "home", Question(("h100-80",), 0.4)) == UNFIT
    assert fault in capsys.readouterr().out


def test_a_missing_shard_of_a_hub_is_named(hub, tmp_path, capsys):
    files = publish(hub, save("flux", "tiny", tmp_path / "made"))
    places = {"weight_map": {"x.weight": "model-00001-of-00002.safetensors"}}
    files["transformer/diffusion_pytorch_model.safetensors.index.json"] = json.dumps(places).encode()
    assert check_models(configure(tiny=remote(hub, "flux")), tmp_path / "home", Question(("h100-80",), 0.4)) == UNFIT
    fault = "transformer/model-00001-of-00002.safetensors: is missing, with x.weight and 0 other tensors"
    assert fault in capsys.readouterr().out


def test_a_known_checkpoint_with_other_tensors_is_refused_before_its_download(hub, tmp_path, capsys):
    name = "Wan-AI/Wan2.2-I2V-A14B-Diffusers"
    publish(hub, save("wan", "a14b", tmp_path / "made"))
    hub.repositories[name] = hub.repositories.pop(NAME)
    assert check_models(configure(wan=remote(hub, "wan", name)), tmp_path / "home", Question(("h200",), 0.4)) == UNFIT
    assert "weights: transformer: " in capsys.readouterr().out
    assert hub.served.total() > 0


def test_without_a_hub_the_shipped_facts_are_used(tmp_path, capsys):
    names = "Wan-AI/Wan2.2-TI2V-5B-Diffusers", "Wan-AI/Wan2.2-T2V-A14B-Diffusers"
    models = {
        f"wan-{index}": {
            "kind": "wan",
            "weights": {"repository": name, "revision": COMMIT, "endpoint": "http://127.0.0.1:9"},
        }
        for index, name in enumerate(names)
    }
    assert check_models(configure(**models), tmp_path, Question(("h200",), 0.4)) == FITS
    out = capsys.readouterr().out
    assert out.count("from the shipped facts; headers not read: ") == 1  # the hub is asked once
    assert out.count("80 forward passes") == 2


def test_a_repository_that_the_hub_does_not_have(hub, tmp_path, capsys):
    assert check_models(configure(wan=remote(hub, "wan")), tmp_path, Question(("h200",), 0.4)) == UNFIT
    assert "there is no such repository, or it is private" in capsys.readouterr().out


def test_a_folder_is_compared(tmp_path, capsys):
    folder = save("wan", "ti2v", tmp_path)
    model = {"kind": "wan", "dtype": "float32", "weights": {"path": str(folder)}}
    assert check_models(configure(tiny=model), tmp_path, OFFLINE) == FITS
    assert "a local folder, " in capsys.readouterr().out
    (file,) = (folder / "vae").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-4])
    assert check_models(configure(tiny=model), tmp_path, OFFLINE) == UNFIT
    assert "vae/diffusion_pytorch_model.safetensors: " in capsys.readouterr().out


def test_a_folder_that_does_not_exist(tmp_path, capsys):
    model = {"kind": "wan", "weights": {"path": str(tmp_path / "none")}}
    assert check_models(configure(wan=model), tmp_path, OFFLINE) == UNFIT
    assert f"weights: there is no folder {tmp_path / 'none'}" in capsys.readouterr().out


def test_the_command(tmp_path):
    config = tmp_path / "config.yaml"
    raw = yaml.safe_load(PRODUCTION.read_text())
    config.write_text(yaml.safe_dump({"applications": [one for one in raw["applications"] if one["name"] == "wan"]}))
    words = [sys.executable, "-m", "composition", "check", "--config", str(config), "--offline", "--gpu"]
    done = subprocess.run([*words, "a100-40"], check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == UNFIT, done.stderr
    assert "NVIDIA A100 with 40 GB has 42.9 GB" in done.stdout
    done = subprocess.run([*words, "h200"], check=False, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (FITS, "everything fits\n")
    done = subprocess.run([*words, "h200,4090"], check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == UNFIT, "one of them is too small"
    assert ("NVIDIA H200: " in done.stdout, "NVIDIA GeForce RTX 4090: " in done.stdout) == (True, True)
    done = subprocess.run([*words, "h200,b300"], check=False, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, "got b300" in done.stderr) == (2, True)
