"""Reading a configuration file: what is relative in it begins at its folder, and the rest is as it was written."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from composition.__main__ import LOCAL_CONFIG, read_config, settings_of
from services.errors import ConfigError

ARTIFACTS = {"url": "s3://bucket/reelgraph", "options": {"key": "me", "secret": "xyz"}}


def config_of(folder: Path, **args: Any) -> Path:
    application = {"name": "reelgraph", "import_path": "composition.app:build", "args": args, "deployments": []}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"applications": [application]}))
    return folder / "config.yaml"


def test_relative_paths_begin_at_the_folder_of_the_file(tmp_path, monkeypatch):
    relative, elsewhere = {"path": "checkpoints/wan"}, {"path": str(tmp_path / "elsewhere")}
    flux = {"weights": elsewhere, "identity": {"weights": {"path": "../identity"}}, "lora_dir": "loras"}
    wan = {"weights": relative, "lora_dir": "loras", "loras": [{"file": "ink.safetensors"}]}
    config_of(tmp_path / "conf", wan=wan, flux=flux, artifacts=ARTIFACTS, home="state")
    monkeypatch.chdir(tmp_path)
    (application,) = read_config(Path("conf/config.yaml")).applications
    assert application.args == {
        "wan": {
            "weights": {"path": str(tmp_path / "conf" / "checkpoints" / "wan")},
            "lora_dir": str(tmp_path / "conf" / "loras"),
            "loras": [{"file": "ink.safetensors"}],
        },
        "flux": {
            "weights": elsewhere,
            "identity": {"weights": {"path": f"{tmp_path}/conf/../identity"}},
            "lora_dir": str(tmp_path / "conf" / "loras"),
        },
        "artifacts": ARTIFACTS,
        "home": str(tmp_path / "conf" / "state"),
    }


def test_a_home_of_the_user_s_stays(tmp_path):
    (application,) = read_config(config_of(tmp_path, realesrgan={}, home="~/films")).applications
    assert application.args["home"] == "~/films"


def test_what_is_left_of_a_narrowed_file_begins_there_too(tmp_path):
    weights = {"weights": {"path": "w"}}
    config = read_config(config_of(tmp_path, wan=weights, svd=weights), only=["svd"])
    (application,) = config.applications
    assert application.args == {"svd": {"weights": {"path": str(tmp_path / "w")}}}


def test_the_local_file_names_folders_of_the_checkout():
    settings = settings_of(read_config(LOCAL_CONFIG))
    assert settings.wan
    assert settings.instantid
    assert settings.wan.weights.path == LOCAL_CONFIG.parent / "miniatures" / "checkpoints" / "wan"
    assert settings.instantid.recogniser.path == LOCAL_CONFIG.parent / "miniatures" / "checkpoints" / "recogniser"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("applications: []", "out of range"),
        ("applications: {", "while parsing a flow"),
        ("7", "valid dictionary"),
        ("applications: [{import_path: 'a:b', args: {wan: {weights: 7}}}]", "wan.weights"),
        ("applications: [{import_path: 'a:b', args: {wan: {weights: {miniature: tiny}}}}]", "miniature"),
    ],
)
def test_a_file_that_cannot_be_is_named(tmp_path, text, words):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        read_config(tmp_path / "config.yaml")
    assert str(tmp_path / "config.yaml") in caught.value.message
