from pathlib import Path

import pytest
from pydantic import ValidationError

from services.errors import ConfigError
from services.weights.licences import UNKNOWN
from services.weights.local import check_licence, resolve
from services.weights.terms import find_licence, find_terms
from services.weights.weights import RepositoryFile, Weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize("fields", [{}, {"repository": "a/b", "revision": COMMIT, "path": "/a"}])
def test_exactly_one_source(fields):
    with pytest.raises(ValidationError, match="exactly one"):
        Weights(**fields)


@pytest.mark.parametrize("revision", [None, "main", "v1.0", COMMIT[:7], COMMIT + "0", "x" * 40])
def test_a_repository_must_be_pinned(revision):
    with pytest.raises(ValidationError, match="pinned"):
        Weights(repository="a/b", revision=revision)


def test_unknown_fields_are_refused():
    with pytest.raises(ValidationError):
        Weights(path=Path("/a"), branch="main")  # pyright: ignore[reportCallIssue]


def test_source_names_what_is_loaded():
    assert Weights(repository="a/b", revision=COMMIT).source == "a/b"
    assert Weights(path=Path("/models/wan")).source == "path:wan"


def test_a_path_is_taken_as_it_is(tmp_path):
    assert resolve(Weights(path=tmp_path), tmp_path / "home") == tmp_path


def test_a_path_that_is_missing(tmp_path):
    with pytest.raises(ConfigError, match=r"weights\.path.*nothing"):
        resolve(Weights(path=tmp_path / "nothing"), tmp_path)


def test_a_relative_path_is_refused_wherever_the_process_is(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError, match=r"weights\.path: must be an absolute path, got here; only `reel serve`"
    ) as caught:
        resolve(Weights(path=Path("here")), tmp_path / "home")
    assert caught.value.param == "weights.path"


def test_a_repository_that_was_never_downloaded_and_offline_is_set(tmp_path):
    weights = Weights(repository="a/b", revision=COMMIT, offline=True)
    with pytest.raises(ConfigError, match=r"weights\.repository: a/b.*offline") as caught:
        resolve(weights, tmp_path)
    assert caught.value.param == "weights.repository"


def test_a_repository_that_was_downloaded_before_needs_no_hub(tmp_path):
    snapshot = tmp_path / "models" / "models--a--b" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "model_index.json").write_text("{}")
    assert resolve(Weights(repository="a/b", revision=COMMIT, offline=True), tmp_path) == snapshot


def pointer(size: int) -> str:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize {size}\n"


def clone(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_safetensors", ".safetensors")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_a_clone_whose_files_were_not_fetched(tmp_path):
    folder = clone(
        tmp_path,
        README="a clone",
        unet__a_safetensors=pointer(1_500_000_000),
        unet__b_safetensors=pointer(500_000_000),
        vae__whole_safetensors="weights",
    )
    with pytest.raises(ConfigError, match=r"unet/a\.safetensors and 1 more .* 2\.0 GB .*git lfs pull") as caught:
        resolve(Weights(path=folder), tmp_path / "home")
    assert caught.value.param == "weights.path"
    assert resolve(Weights(path=folder, files=("vae/*",)), tmp_path / "home") == folder


@pytest.mark.parametrize(
    "text",
    ["", "weights", pointer(5).replace("v1", "v9"), "x" + pointer(5), pointer(5) + "x" * 2000],
)
def test_what_is_no_pointer(tmp_path, text):
    assert resolve(Weights(path=clone(tmp_path, a_safetensors=text)), tmp_path / "home") == tmp_path


def test_what_git_keeps_for_itself_is_not_looked_at(tmp_path):
    clone(tmp_path / ".git", a_safetensors=pointer(5))
    assert resolve(Weights(path=tmp_path), tmp_path / "home") == tmp_path


@pytest.mark.parametrize("repository", ["", "a", "a/b/c", "../b", "a/..", "a/b?x=1", "https://hub/a/b", "a/ b"])
def test_what_is_no_repository(repository):
    with pytest.raises(ValidationError):
        Weights(repository=repository, revision=COMMIT)


@pytest.mark.parametrize("endpoint", ["hub.example", "file:///etc", ""])
def test_what_is_no_address_of_a_hub(endpoint):
    with pytest.raises(ValidationError, match="endpoint"):
        Weights(repository="a/b", revision=COMMIT, endpoint=endpoint)


@pytest.mark.parametrize(
    ("source", "commercial"),
    [
        ("black-forest-labs/FLUX.1-dev", "forbidden"),
        ("path:FLUX.1-dev", "forbidden"),
        ("AI-ModelScope/FLUX.1-dev", "forbidden"),
        ("ByteDance/InfiniteYou", "forbidden"),
        ("path:antelopev2", "forbidden"),
        ("stabilityai/stable-video-diffusion-img2vid-xt", "restricted"),
        ("Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers-Distilled", "restricted"),
        ("Wan-AI/Wan2.2-I2V-A14B-Diffusers", "free"),
        ("somebody/something", "unknown"),
        ("somebody/Wan2.2-I2V-A14B-Diffusers", "unknown"),
        ("path:Wan2.2-I2V-A14B-Diffusers", "free"),
        ("path:wan", "unknown"),
    ],
)
def test_licences(source, commercial):
    assert find_licence(source).commercial == commercial


def test_what_the_operator_names_counts_where_the_project_knows_nothing():
    stated = find_terms(Weights(repository="a/b", revision=COMMIT, licence=" MIT "))
    assert (stated.name, stated.must_be_accepted, str(stated)) == ("MIT", False, "MIT (as the configuration says)")
    known = find_terms(Weights(path=Path("/w/FLUX.1-dev"), licence="MIT"))
    assert (known.name, known.must_be_accepted) == ("FLUX.1 [dev] Non-Commercial", True)
    assert UNKNOWN.must_be_accepted
    assert not find_licence("Wan-AI/Wan2.2-I2V-A14B-Diffusers").must_be_accepted


@pytest.mark.parametrize("licence", ["", "  ", "x" * 101])
def test_what_is_no_name_of_a_licence(licence):
    with pytest.raises(ValidationError, match="licence"):
        Weights(repository="a/b", revision=COMMIT, licence=licence)


def test_a_repository_of_unknown_terms_is_not_fetched(tmp_path):
    nowhere = Weights(repository="a/b", revision=COMMIT, endpoint="http://127.0.0.1:9")
    for ask in (lambda: resolve(nowhere, tmp_path), lambda: check_licence(nowhere, tmp_path)):
        with pytest.raises(ConfigError, match=r"licence of a/b is not known.*pull --accept-licence a/b") as caught:
            ask()
        assert caught.value.param == "weights.licence"
    check_licence(nowhere.model_copy(update={"licence": "MIT"}), tmp_path)


def test_one_file_of_a_repository():
    file = RepositoryFile(repository="a/b", revision=COMMIT, file="x.safetensors", licence="MIT")
    assert file.weights == Weights(repository="a/b", revision=COMMIT, files=("x.safetensors",), licence="MIT")


def test_conditions_are_logged_when_weights_are_loaded(tmp_path, caplog):
    folder = tmp_path / "FLUX.1-dev"
    folder.mkdir()
    resolve(Weights(path=folder), tmp_path / "home")
    (tmp_path / "other").mkdir()
    resolve(Weights(path=tmp_path / "other"), tmp_path / "home")
    (record,) = caplog.records
    assert vars(record)["licence"] == "FLUX.1 [dev] Non-Commercial"
