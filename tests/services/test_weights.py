import multiprocessing
from pathlib import Path

import pytest
from pydantic import ValidationError

from services.errors import ConfigError
from services.weights import Weights, resolve

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
