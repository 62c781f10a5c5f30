import multiprocessing
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from services.errors import ConfigError
from services.licences import licence_of
from services.weights import Weights, resolve, unplugged

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write(form: str, folder: Path) -> None:
    """A miniature that keeps a list of how often it was written, beside the folder it is written into."""
    with (folder.parent / "written.txt").open("a") as log:
        log.write(f"{form}\n")
    (folder / "config.json").write_text(form)


def write_and_fail(form: str, folder: Path) -> None:
    (folder / "half.json").write_text(form)
    raise ConfigError(f"no form {form}")


def resolve_together(home: Path, barrier, found) -> None:
    barrier.wait(30)
    folder = resolve(Weights(miniature="tiny"), home, write)
    found.put((str(folder), (folder / "config.json").read_text()))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"path": "/a", "miniature": "tiny"},
        {"repository": "a/b", "revision": COMMIT, "miniature": "tiny"},
        {"repository": "a/b", "revision": COMMIT, "path": "/a", "miniature": "tiny"},
    ],
)
def test_exactly_one_source(fields):
    with pytest.raises(ValidationError, match="exactly one"):
        Weights(**fields)


@pytest.mark.parametrize("revision", [None, "main", "v1.0", COMMIT[:7], COMMIT + "0", "x" * 40])
def test_a_repository_must_be_pinned(revision):
    with pytest.raises(ValidationError, match="pinned"):
        Weights(repository="a/b", revision=revision)


def test_unknown_fields_are_refused():
    with pytest.raises(ValidationError):
        Weights(miniature="tiny", branch="main")  # pyright: ignore[reportCallIssue]


def test_source_names_what_is_loaded():
    assert Weights(repository="a/b", revision=COMMIT).source == "a/b"
    assert Weights(path=Path("/models/wan")).source == "path:wan"
    assert Weights(miniature="tiny").source == "miniature:tiny"


def test_a_path_is_taken_as_it_is(tmp_path):
    assert resolve(Weights(path=tmp_path), tmp_path / "home", write) == tmp_path


def test_a_path_that_is_missing(tmp_path):
    with pytest.raises(ConfigError, match=r"weights\.path.*nothing"):
        resolve(Weights(path=tmp_path / "nothing"), tmp_path, write)


def test_a_miniature_is_written_once(tmp_path):
    first = resolve(Weights(miniature="tiny"), tmp_path, write)
    assert resolve(Weights(miniature="tiny"), tmp_path, write) == first
    assert resolve(Weights(miniature="other"), tmp_path, write) != first
    assert (tmp_path / "miniatures" / "written.txt").read_text().split() == ["tiny", "other"]


def test_a_miniature_is_written_once_by_two_processes_at_a_time(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, found = context.Barrier(2), context.Queue()
    processes = [context.Process(target=resolve_together, args=(tmp_path, barrier, found)) for _ in range(2)]
    for process in processes:
        process.start()
    results = [found.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert results[0] == results[1]
    assert results[0][1] == "tiny"
    assert (tmp_path / "miniatures" / "written.txt").read_text().split() == ["tiny"]


def test_a_miniature_that_fails_leaves_nothing_that_could_be_taken_for_one(tmp_path):
    with pytest.raises(ConfigError, match="no form odd"):
        resolve(Weights(miniature="odd"), tmp_path, write_and_fail)
    assert [path for path in (tmp_path / "miniatures").iterdir() if path.is_dir()] == []


def test_a_repository_that_was_never_downloaded_and_offline_is_set(tmp_path):
    weights = Weights(repository="a/b", revision=COMMIT, offline=True)
    with pytest.raises(ConfigError, match=r"weights\.repository: a/b.*offline") as caught:
        resolve(weights, tmp_path, write)
    assert caught.value.param == "weights.repository"


def test_a_repository_that_was_downloaded_before_needs_no_hub(tmp_path):
    snapshot = tmp_path / "models" / "models--a--b" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "model_index.json").write_text("{}")
    assert resolve(Weights(repository="a/b", revision=COMMIT, offline=True), tmp_path, write) == snapshot


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
        resolve(Weights(path=folder), tmp_path / "home", write)
    assert caught.value.param == "weights.path"
    assert resolve(Weights(path=folder, files=("vae/*",)), tmp_path / "home", write) == folder


@pytest.mark.parametrize(
    "text",
    ["", "weights", pointer(5).replace("v1", "v9"), "x" + pointer(5), pointer(5) + "x" * 2000],
)
def test_what_is_no_pointer(tmp_path, text):
    assert resolve(Weights(path=clone(tmp_path, a_safetensors=text)), tmp_path / "home", write) == tmp_path


def test_what_git_keeps_for_itself_is_not_looked_at(tmp_path):
    clone(tmp_path / ".git", a_safetensors=pointer(5))
    assert resolve(Weights(path=tmp_path), tmp_path / "home", write) == tmp_path


@pytest.mark.parametrize("repository", ["", "a", "a/b/c", "../b", "a/..", "a/b?x=1", "https://hub/a/b", "a/ b"])
def test_what_is_no_repository(repository):
    with pytest.raises(ValidationError):
        Weights(repository=repository, revision=COMMIT)


@pytest.mark.parametrize("endpoint", ["hub.example", "file:///etc", ""])
def test_what_is_no_address_of_a_hub(endpoint):
    with pytest.raises(ValidationError, match="endpoint"):
        Weights(repository="a/b", revision=COMMIT, endpoint=endpoint)


class Inner(BaseModel):
    model_config = ConfigDict(frozen=True)

    weights: Weights = Weights(miniature="tiny")
    size: int = 3


class Outer(BaseModel):
    model_config = ConfigDict(frozen=True)

    weights: Weights
    identity: Inner | None = None
    several: tuple[Inner, ...] = ()


def test_unplugged_reaches_all_weights():
    remote = Weights(repository="a/b", revision=COMMIT)
    settings = Outer(weights=remote, identity=Inner(weights=remote), several=(Inner(size=1), Inner(size=2)))
    found = unplugged(settings)
    assert found.weights.offline
    assert found.identity is not None
    assert found.identity.weights.offline
    assert [(one.size, one.weights.offline) for one in found.several] == [(1, True), (2, True)]
    assert not settings.weights.offline
    assert unplugged(Outer(weights=remote)).identity is None


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
        ("miniature:tiny", "unknown"),
    ],
)
def test_licences(source, commercial):
    assert licence_of(source).commercial == commercial


def test_conditions_are_logged_when_weights_are_loaded(tmp_path, caplog):
    folder = tmp_path / "FLUX.1-dev"
    folder.mkdir()
    resolve(Weights(path=folder), tmp_path / "home", write)
    (tmp_path / "other").mkdir()
    resolve(Weights(path=tmp_path / "other"), tmp_path / "home", write)
    (record,) = caplog.records
    assert vars(record)["licence"] == "FLUX.1 [dev] Non-Commercial"
