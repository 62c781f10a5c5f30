"""Downloads from local fake hubs with the real client libraries."""

import hashlib
import json
import logging
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.errors import ConfigError
from services.weights.downloads import need_room
from services.weights.huggingface import LEFTOVER_S
from services.weights.local import Inventory, check_licence, fetch, inventory, resolve
from services.weights.weights import Weights
from tests.services.hub_server import COMMIT, HubServer, Repository, running

OTHER = "f" * 40
UNET = bytes(range(256)) * 4000
FILES = {"config.json": b"{}", "unet/model.fp16.safetensors": UNET, "unet/model.safetensors": UNET + UNET}
TOTAL = sum(map(len, FILES.values()))
WAIT_S = 60


@pytest.fixture(scope="module")
def lasting() -> Iterator[HubServer]:
    with running() as hub:
        yield hub


@pytest.fixture
def hub(lasting: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "modelscope-home"))  # ModelScope's client writes a file there
    lasting.begin()
    lasting.repositories["a/b"] = Repository(dict(FILES))
    return lasting


@pytest.fixture(params=["huggingface", "modelscope"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def of(hub: HubServer, kind: str = "huggingface", **fields) -> Weights:
    asked = {"repository": "a/b", "revision": COMMIT, "hub": kind, "endpoint": hub.url, "licence": "MIT"}
    return Weights(**{**asked, **fields})


def told(_done: int, _total: int) -> None:
    """Ignore the progress."""


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(weights: Weights, home: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        fetch(weights, home, told)
    assert caught.value.param == "weights.repository"
    return caught.value.message


def fetch_together(weights: Weights, home: Path, barrier, found) -> None:
    barrier.wait(WAIT_S)
    found.put(str(fetch(weights, home, told)))


def fetch_with_little_room(weights: Weights, home: Path, found) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        fetch(weights, home, told)
    except ConfigError as error:
        found.put(error.message)


def test_a_repository_comes_whole_and_once(hub, kind, tmp_path):
    seen: list[tuple[int, int]] = []
    folder = fetch(of(hub, kind), tmp_path, lambda done, total: seen.append((done, total)))
    assert contents(folder) == FILES
    assert folder.is_relative_to(tmp_path / "models")
    assert seen == sorted(seen)
    assert seen[-1] == (TOTAL, TOTAL)
    asked = hub.requests
    assert fetch(of(hub, kind), tmp_path, told) == folder
    assert fetch(of(hub, kind, offline=True), tmp_path, told) == folder
    assert hub.requests == asked


def test_nothing_of_unknown_terms_is_fetched_until_somebody_accepts_them(hub, kind, tmp_path):
    few = of(hub, kind, licence=None, files=("*.json",))
    for ask in (resolve, check_licence):
        with pytest.raises(ConfigError, match=r"licence of a/b is not known.*pull --accept-licence a/b") as caught:
            ask(few, tmp_path)
        assert caught.value.param == "weights.licence"
    assert (hub.requests, list(tmp_path.rglob("*.json"))) == (0, [])
    folder = fetch(few, tmp_path, told, accepted=True)
    assert resolve(few, tmp_path) == folder
    check_licence(few, tmp_path)
    everything = of(hub, kind, licence=None)
    for ask in (resolve, check_licence):
        with pytest.raises(ConfigError, match="licence of a/b is not known"):
            ask(everything, tmp_path)
    assert set(contents(folder)) == {"config.json"}
    assert resolve(of(hub, kind), tmp_path) == folder
    assert contents(folder) == FILES


def test_only_the_files_that_are_named(hub, kind, tmp_path):
    few = of(hub, kind, files=("*.json", "*.fp16.safetensors"))
    assert inventory(few, tmp_path) == Inventory(len(UNET) + 2, len(UNET) + 2)
    folder = fetch(few, tmp_path, told)
    assert set(contents(folder)) == {"config.json", "unet/model.fp16.safetensors"}
    assert inventory(few, tmp_path) == Inventory(len(UNET) + 2, 0)
    assert inventory(of(hub, kind), tmp_path) == Inventory(TOTAL, 2 * len(UNET))
    fetch(of(hub, kind), tmp_path, told)
    assert contents(folder) == FILES
    assert hub.served == dict.fromkeys(FILES, 1)


def test_patterns_that_nothing_matches(hub, kind, tmp_path):
    assert "none of its 3 files is one of ['*.onnx']" in refusal(of(hub, kind, files=("*.onnx",)), tmp_path)


def test_the_mirror_may_be_asked_for_weights_of_a_model(hub, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "ray.serve.reelgraph.weights"):
        folder = resolve(of(hub), tmp_path)
    assert contents(folder) == FILES
    last = vars(caplog.records[-1])
    assert (last["weights"], last["bytes"], last["of"]) == ("a/b", TOTAL, TOTAL)


def test_no_such_repository(hub, kind, tmp_path):
    assert "there is no such repository" in refusal(of(hub, kind, repository="a/none"), tmp_path)


def test_no_such_commit(hub, kind, tmp_path):
    message = refusal(of(hub, kind, revision=OTHER), tmp_path)
    assert f"a/b at {OTHER}: there is no such" in message
    assert "commit" in message


@pytest.mark.parametrize(
    ("kind", "gate", "words"),
    [
        ("huggingface", "GatedRepo", "Accept it with your account at {url}/a/b, .* set HF_TOKEN"),
        ("huggingface", "Disabled", "the hub has disabled it"),
        ("huggingface", "Odd", "the hub answered 403; HF_TOKEN may be invalid"),
        ("modelscope", "403", "Accept it with your account at {url}/models/a/b, .* set MODELSCOPE_API_TOKEN"),
        ("modelscope", "401", "set MODELSCOPE_API_TOKEN"),
        ("modelscope", "418", "the hub answered 418"),
    ],
)
@pytest.mark.parametrize("gated_list", [False, True])
def test_a_gate(hub, tmp_path, kind, gate, words, gated_list):
    hub.repositories["a/b"].gate = gate
    hub.repositories["a/b"].gated_list = gated_list
    message = refusal(of(hub, kind), tmp_path)
    assert re.search(words.format(url=re.escape(hub.url)), message), message
    with pytest.raises(ConfigError) as caught:
        inventory(of(hub, kind), tmp_path)
    assert caught.value.message == message
    assert hub.served.total() == 0


def test_a_gate_that_opens(hub, tmp_path):
    hub.repositories["a/b"].gate, hub.repositories["a/b"].token = "GatedRepo", "hf_secret"
    script = "import sys; from pathlib import Path; from services.weights.local import fetch\n"
    script += "from services.weights.weights import Weights\n"
    script += "fetch(Weights.model_validate_json(sys.argv[1]), Path(sys.argv[2]), lambda done, total: None)"
    command = [sys.executable, "-c", script, of(hub).model_dump_json(), str(tmp_path)]
    subprocess.run(command, env={**os.environ, "HF_TOKEN": "hf_secret"}, check=True, timeout=WAIT_S)
    assert contents(fetch(of(hub), tmp_path, told)) == FILES


def test_a_hub_that_may_not_be_asked(hub, tmp_path):
    script = "import sys; from pathlib import Path; from services.weights.local import fetch\n"
    script += "from services.weights.weights import Weights\n"
    script += "fetch(Weights.model_validate_json(sys.argv[1]), Path(sys.argv[2]), lambda done, total: None)"
    command = [sys.executable, "-c", script, of(hub).model_dump_json(), str(tmp_path)]
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(command, env=env, check=False, capture_output=True, text=True, timeout=WAIT_S)
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("services.errors.ConfigError: weights.repository: a/b at")
    assert "the hub cannot be reached, or did not give it (OfflineModeIsEnabled" in last
    assert hub.requests == 0


def test_a_disk_that_is_too_small_is_known_before(hub, kind, tmp_path):
    hub.repositories["a/b"].claimed = {"unet/model.safetensors": 10**18}
    message = refusal(of(hub, kind), tmp_path)
    assert re.search(r"the download needs 1\.0 EB, and .* has [\d.]+ [kMGT]?B free", message), message
    assert hub.served.total() == 0


def test_room_is_looked_for_where_the_folder_will_be(tmp_path):
    need_room(tmp_path / "not" / "there" / "yet", 1)
    with pytest.raises(ConfigError, match=f"{re.escape(str(tmp_path))} has"):
        need_room(tmp_path / "not" / "there" / "yet", 10**18)


def test_a_disk_that_fills_up(hub, tmp_path):
    context = multiprocessing.get_context("spawn")
    found = context.Queue()
    process = context.Process(target=fetch_with_little_room, args=(of(hub), tmp_path, found))
    process.start()
    assert "the disk is full" in found.get(timeout=WAIT_S)
    process.join(WAIT_S)
    assert contents(fetch(of(hub), tmp_path, told)) == FILES


def test_a_connection_that_breaks_is_taken_up_where_it_broke(hub, kind, tmp_path):
    large = UNET * 16  # huggingface_hub writes in chunks of ten megabytes
    hub.repositories["a/b"] = Repository({"model.bin": large}, cut={"model.bin": 12_000_000})
    seen: list[tuple[int, int]] = []
    folder = fetch(of(hub, kind), tmp_path, lambda done, total: seen.append((done, total)))
    assert contents(folder) == {"model.bin": large}
    assert hub.ranges == [f"bytes={10 << 20 if kind == 'huggingface' else 12_000_000}-"]
    assert seen[-1] == (len(large), len(large))


def test_a_process_that_is_killed_is_taken_up(hub, kind, tmp_path):
    files = {"config.json": b"{}", "model.bin": UNET * 32}  # half of it exceeds a socket's buffer
    hub.repositories["a/b"] = Repository(files)
    fetch(of(hub, kind, files=("*.json",)), tmp_path, told)
    hub.hold.clear()
    context = multiprocessing.get_context("spawn")
    barrier, found = context.Barrier(1), context.Queue()
    process = context.Process(target=fetch_together, args=(of(hub, kind), tmp_path, barrier, found))
    process.start()
    assert hub.held.wait(WAIT_S)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join(WAIT_S)
    hub.hold.set()
    with pytest.raises(ConfigError, match="1 of its files are missing, and offline is set"):
        fetch(of(hub, kind, offline=True), tmp_path, told)
    assert contents(fetch(of(hub, kind), tmp_path, told)) == files
    assert hub.served == {"config.json": 1, "model.bin": 2}
    assert bool(hub.ranges) == (kind == "modelscope")


def test_what_a_killed_process_leaves_behind_is_deleted(hub, tmp_path):
    blobs = tmp_path / "models" / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    old, young = blobs / "1.incomplete", blobs / "2.incomplete"
    old.touch()
    young.touch()
    long_ago = time.time() - 2 * LEFTOVER_S
    os.utime(old, (long_ago, long_ago))
    fetch(of(hub), tmp_path, told)
    assert (old.exists(), young.exists()) == (False, True)


def test_two_processes_download_once(hub, kind, tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, found = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=fetch_together, args=(of(hub, kind), tmp_path, barrier, found)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    folders = {found.get(timeout=WAIT_S) for _ in processes}
    for process in processes:
        process.join(WAIT_S)
    assert len(folders) == 1
    assert contents(Path(folders.pop())) == FILES
    assert hub.served == dict.fromkeys(FILES, 1)
    together = hub.requests
    fetch(of(hub, kind), tmp_path / "alone", told)
    assert hub.requests == 2 * together  # the waiting process has sent no request, not even for the list


def test_a_file_that_was_cut_short_on_the_disk_is_fetched_again(hub, kind, tmp_path):
    folder = fetch(of(hub, kind), tmp_path, told)
    with (folder / "config.json").open("r+b") as file:
        file.truncate(1)
    with pytest.raises(ConfigError, match="1 of its files are missing"):
        fetch(of(hub, kind, offline=True), tmp_path, told)
    assert contents(fetch(of(hub, kind), tmp_path, told)) == FILES


def test_bytes_that_are_not_what_the_list_says(hub, kind, tmp_path):
    hub.repositories["a/b"].claimed = {"config.json": 1}
    assert "config.json" in refusal(of(hub, kind), tmp_path)


def test_a_hub_that_names_files_outside_the_repository(hub, kind, tmp_path):
    hub.repositories["a/b"].files["../../outside.txt"] = b"here"
    refusal(of(hub, kind), tmp_path / "home")
    assert list(tmp_path.rglob("outside.txt")) == []


def test_a_list_of_modelscope_is_kept_with_its_sums(hub, tmp_path):
    fetch(of(hub, "modelscope"), tmp_path, told)
    kept = json.loads((tmp_path / "models" / "modelscope" / "a--b" / f"{COMMIT}.json").read_text())
    assert kept["config.json"] == [2, hashlib.sha256(b"{}").hexdigest()]


def test_without_the_package_of_modelscope(hub, tmp_path):
    script = "import sys; sys.modules['modelscope_hub'] = None\nfrom pathlib import Path\n"
    script += "from services.weights.local import fetch; from services.weights.weights import Weights\n"
    script += "fetch(Weights.model_validate_json(sys.argv[1]), Path(sys.argv[2]), lambda done, total: None)"
    command = [sys.executable, "-c", script, of(hub, "modelscope").model_dump_json(), str(tmp_path)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=WAIT_S)
    assert "pip install 'reelgraph[modelscope]'" in ended.stderr.splitlines()[-1]
