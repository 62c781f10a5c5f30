"""Random weights: every form can be written, is written once, and is never seen incomplete."""

import multiprocessing
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from composition.configuration.file import LOCAL_CONFIG, parse_configuration
from miniatures.random import find_random_model, once, written
from miniatures.random.served import host_apart, random_models, use_random_weights
from services.catalogue import KINDS
from services.weights.local import resolve

FORMS = {
    "flux": "tiny, identity",
    "hunyuan-dit": "tiny",
    "instantid": "tiny",
    "internvl": "tiny",
    "qwen-edit": "tiny",
    "realesrgan": "compact, rrdb or rrdb-x2",
    "svd": "xt",
    "text-to-video": "tiny",
    "wan": "a14b, t2v, ti2v",
}
ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-m", "miniatures.random"]
WAIT_S = 120


def write(form: str, folder: Path) -> None:
    """Append to a list beside the folder, which counts the writes."""
    with (folder.parent / "written.txt").open("a") as log:
        log.write(f"{form}\n")
    (folder / "config.json").write_text(form)


def write_and_fail(form: str, folder: Path) -> None:
    (folder / "half.json").write_text(form)
    raise ValueError(f"no form {form}")


def write_together(folder: Path, barrier, found) -> None:
    barrier.wait(30)
    target = once(write, "tiny", folder)
    found.put((str(target), (target / "config.json").read_text()))


def test_it_is_written_once(tmp_path):
    first = once(write, "tiny", tmp_path)
    assert once(write, "tiny", tmp_path) == first
    assert once(write, "other", tmp_path) != first
    assert (tmp_path / "written.txt").read_text().split() == ["tiny", "other"]


def test_it_is_written_once_by_two_processes_at_a_time(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, found = context.Barrier(2), context.Queue()
    processes = [context.Process(target=write_together, args=(tmp_path, barrier, found)) for _ in range(2)]
    for process in processes:
        process.start()
    results = [found.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert results[0] == results[1]
    assert results[0][1] == "tiny"
    assert (tmp_path / "written.txt").read_text().split() == ["tiny"]


def test_what_fails_leaves_nothing_that_could_be_taken_for_it(tmp_path):
    with pytest.raises(ValueError, match="no form odd"):
        once(write_and_fail, "odd", tmp_path)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_what_is_written_is_a_path_that_can_be_resolved(tmp_path):
    weights = written("realesrgan", "compact", tmp_path)
    folder = resolve(weights, tmp_path / "home")
    assert folder.parent == tmp_path / "miniatures"
    assert weights.source == f"path:{folder.name}"
    assert folder.name.startswith("realesrgan-compact-")
    assert [file.name for file in folder.iterdir()] == ["compact.safetensors"]
    assert written("realesrgan", "compact", tmp_path) == weights


@pytest.mark.parametrize("kind", FORMS)
def test_a_form_that_is_not_there(tmp_path, kind):
    with pytest.raises(ValueError, match=f"form: must be (one of )?{FORMS[kind]}, got 'huge'"):
        find_random_model(kind).write("huge", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"kind: must be one of internvl, .*, got 'sora'"):
        written("sora", "tiny", tmp_path)


def test_each_kind_has_a_file_and_each_file_a_kind():
    there = {path.stem for path in (ROOT / "miniatures" / "random").glob("*.py")}
    assert there - {"__init__", "__main__", "served"} == {kind.replace("-", "_") for kind in KINDS}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


def local() -> dict[str, Any]:
    return yaml.safe_load(LOCAL_CONFIG.read_text())


def test_every_model_can_be_served_with_them(home):
    models = random_models(home)
    assert models.keys() == KINDS.keys()
    named = [block["weights"] for block in models.values() if "weights" in block]
    named += [models["flux"]["identity"]["weights"], models["instantid"]["recogniser"]]
    assert len({where["path"] for where in named}) == len(named) == 9
    assert all(any(Path(where["path"]).rglob("*.*")) for where in named)


def test_the_local_configuration_with_them(home):
    raw = local()
    made = use_random_weights(raw, home)
    assert raw == local()
    found = parse_configuration(made, LOCAL_CONFIG.parent)
    assert [block.name for block in found.blocks] == [each["name"] for each in raw["applications"]]
    assert found.models.keys() == KINDS.keys()
    assert found.models["wan"].settings.weights.path.is_relative_to(home)
    assert found.models["wan"].defaults["num_frames"] == 33
    assert found.snapshot.assign_models("storyboard", {}).complete_fields({})["size"] == "256x144"


def test_other_ids_keep_theirs(home):
    raw = local()
    (hosts,) = [each["args"] for each in raw["applications"] if "models" in each["args"]]
    hosts["models"] = {"wan-5b": hosts["models"]["wan"], "wan-14b": hosts["models"]["wan"]}
    (made,) = [each["args"] for each in use_random_weights(raw, home)["applications"] if "models" in each["args"]]
    assert list(made["models"])[:2] == ["wan-5b", "wan-14b"]
    assert made["models"]["wan-14b"] == random_models(home)["wan"]
    assert "wan" not in made["models"]


def test_each_can_be_hosted_apart():
    raw = local()
    apart = parse_configuration(host_apart(raw), LOCAL_CONFIG.parent)
    together = parse_configuration(raw, LOCAL_CONFIG.parent)
    assert raw == local()
    assert [block.name for block in apart.blocks] == ["front", "jobs", *together.models, *together.graphs]
    assert (list(apart.models), list(apart.graphs)) == (list(together.models), list(together.graphs))
    options = {block.name: block.raw["deployments"][0] for block in apart.blocks}
    assert options["wan"] == {**together.blocks[2].raw["deployments"][0], "name": "wan"}


def test_or_some_of_them():
    found = parse_configuration(host_apart(local(), ["svd", "v2v"]), LOCAL_CONFIG.parent)
    assert [block.name for block in found.blocks] == ["front", "jobs", "models", "svd", "graphs", "v2v"]
    assert "svd" not in found.blocks[2].models
    assert found.blocks[2].models.keys() | {"svd"} == parse_configuration(local(), LOCAL_CONFIG.parent).models.keys()


def test_a_folder_of_ones_own(tmp_path):
    folder = tmp_path / "made" / "here"
    command = [*PROGRAM, "realesrgan", "rrdb", str(folder)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=WAIT_S, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert [file.name for file in folder.iterdir()] == ["rrdb.safetensors"]
    again = subprocess.run(command, check=False, capture_output=True, text=True, timeout=WAIT_S, cwd=ROOT)
    assert (again.returncode, again.stderr) == (2, f"{folder} is not empty\n")
