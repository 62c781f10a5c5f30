"""`reel models pull`: called in this process without questions, and as a program at a terminal."""

import hashlib
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from composition.configuration.settings import ModelEntry
from composition.server.pull import (
    DONE,
    FAILED,
    INTERRUPTED,
    REFUSED,
    Acceptance,
    NamedWeights,
    find_weights,
    pull_weights,
)
from services.weights.weights import Weights
from tests.services.file_server import serve_file
from tests.services.hub_server import COMMIT, HubServer, Repository, running

INTERNVL, SVD = "OpenGVLab/InternVL3_5-8B-HF", "stabilityai/stable-video-diffusion-img2vid-xt"
OTHER = "somebody/something"
KNOWN = Acceptance(conditions=True)
WAIT_S = 120


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with running() as hub:
        for name in (INTERNVL, SVD, OTHER):
            hub.repositories[name] = Repository({"model.safetensors": name.encode() * 1000})
        yield hub


def remote(hub: HubServer, name: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, "weights": {"repository": name, "revision": COMMIT, "endpoint": hub.url, **fields}}


def entries(**models: dict[str, Any]) -> dict[str, ModelEntry]:
    return {name: ModelEntry.model_validate(model) for name, model in models.items()}


def program(tmp_path: Path, models: dict[str, Any], *words: str) -> list[str]:
    """The command, with a configuration that has an application for each model."""
    path, home = "composition.app:models", str(tmp_path / "home")
    blocks = [
        {"name": name, "route_prefix": None, "import_path": path, "args": {"home": home, "models": {name: model}}}
        for name, model in models.items()
    ]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"applications": blocks}))
    return [sys.executable, "-m", "composition", "pull", "--config", str(tmp_path / "config.yaml"), *words]


def fetched(home: Path) -> dict[str, bytes]:
    """Paths of the fetched repositories, found by their only file."""
    found = (home / "models").glob("models--*/snapshots/*/model.safetensors")
    return {path.parts[-4].removeprefix("models--").replace("--", "/"): path.read_bytes() for path in found}


def test_everything_free_is_fetched(hub, tmp_path, capsys):
    models = entries(
        internvl=remote(hub, INTERNVL, "internvl", offline=True),
        wan={"kind": "wan", "weights": {"path": "/w/wan"}},
        svd={"kind": "svd", "weights": {"path": "/w/svd", "licence": "Apache-2.0"}},
    )
    assert pull_weights(models, tmp_path, Acceptance()) == DONE
    assert list(fetched(tmp_path)) == [INTERNVL]
    out, told = capsys.readouterr()
    assert out.splitlines() == [
        f"internvl.weights: {INTERNVL} at {COMMIT} on huggingface",
        "  27.0 kB, 27.0 kB to fetch",
        f"  licence: Apache-2.0 (commercial use: free; keep the notices; https://huggingface.co/{INTERNVL})",
        "wan.weights: path:wan",
        "  nothing to fetch",
        "  licence: unknown (commercial use: unknown; see the repository; no address known)",
        "svd.weights: path:svd",
        "  nothing to fetch",
        "  licence: Apache-2.0 (as the configuration says)",
        "all weights are complete",
    ]
    assert told == f"{INTERNVL}: 27.0 kB of 27.0 kB\n"
    assert pull_weights(models, tmp_path, Acceptance()) == DONE
    assert "0 bytes to fetch" in capsys.readouterr().out
    assert hub.served.total() == 1


@pytest.mark.parametrize("acceptance", [KNOWN, Acceptance(sources=(SVD,))])
def test_conditions_must_be_accepted(hub, tmp_path, capsys, acceptance):
    models = entries(internvl=remote(hub, INTERNVL, "internvl"), svd=remote(hub, SVD, "svd"))
    assert pull_weights(models, tmp_path, Acceptance()) == REFUSED
    out, told = capsys.readouterr()
    assert "licence: Stability AI Community (commercial use: restricted;" in out
    how = f"read its terms, and give --accept-licence {SVD} or --accept-licences"
    assert told == f"the licence of {SVD} (Stability AI Community) must be accepted: {how}\n"
    assert hub.served.total() == 0
    assert pull_weights(models, tmp_path, acceptance) == DONE
    assert fetched(tmp_path).keys() == {INTERNVL, SVD}
    assert pull_weights(models, tmp_path, Acceptance()) == DONE  # nothing to fetch, so no question


def test_unknown_terms_must_be_accepted_by_name(hub, tmp_path, capsys):
    models = entries(svd=remote(hub, SVD, "svd"), wan=remote(hub, OTHER, "wan"), again=remote(hub, OTHER, "wan"))
    assert pull_weights(models, tmp_path, KNOWN) == REFUSED
    how = f"read its terms, and give --accept-licence {OTHER}"
    assert capsys.readouterr().err == f"the licence of {OTHER} (unknown) must be accepted: {how}\n"
    assert hub.served.total() == 0
    assert pull_weights(models, tmp_path, Acceptance(sources=(OTHER,))) == REFUSED
    assert SVD in capsys.readouterr().err
    assert pull_weights(models, tmp_path, Acceptance(conditions=True, sources=(OTHER,))) == DONE
    assert fetched(tmp_path).keys() == {SVD, OTHER}
    assert pull_weights(models, tmp_path, Acceptance()) == DONE


def test_a_licence_that_the_configuration_names_is_accepted(hub, tmp_path):
    assert pull_weights(entries(wan=remote(hub, OTHER, "wan", licence="MIT")), tmp_path, Acceptance()) == DONE
    assert fetched(tmp_path).keys() == {OTHER}


def test_what_is_accepted_must_be_named(hub, tmp_path, capsys):
    models = entries(wan=remote(hub, OTHER, "wan"))
    assert pull_weights(models, tmp_path, Acceptance(sources=("somebody/else",))) == FAILED
    assert capsys.readouterr().err == "--accept-licence: the configuration does not name somebody/else\n"


def test_a_shut_gate_is_known_before_anything_is_fetched(hub, tmp_path, capsys):
    hub.repositories[SVD].gate = "GatedRepo"
    models = entries(internvl=remote(hub, INTERNVL, "internvl"), svd=remote(hub, SVD, "svd"))
    assert pull_weights(models, tmp_path, KNOWN) == FAILED
    assert "svd.weights: weights.repository: stabilityai/" in capsys.readouterr().err
    assert hub.served.total() == 0


def test_the_room_is_for_all_together(hub, tmp_path, capsys):
    disk = os.statvfs(tmp_path)
    most = disk.f_bavail * disk.f_frsize * 2 // 3
    for name in (INTERNVL, SVD):
        hub.repositories[name].claimed = {"model.safetensors": most}
    models = entries(internvl=remote(hub, INTERNVL, "internvl"), svd=remote(hub, SVD, "svd"))
    assert pull_weights(models, tmp_path, KNOWN) == FAILED
    assert "the download needs" in capsys.readouterr().err
    assert hub.served.total() == 0


def test_one_that_fails_does_not_stop_the_others(hub, tmp_path, capsys):
    hub.repositories[INTERNVL].claimed = {"model.safetensors": 5}
    models = entries(internvl=remote(hub, INTERNVL, "internvl"), svd=remote(hub, SVD, "svd"))
    assert pull_weights(models, tmp_path, KNOWN) == FAILED
    assert "internvl.weights: weights.repository: OpenGVLab" in capsys.readouterr().err
    assert SVD in fetched(tmp_path)


def test_weights_are_found_however_deep():
    where = {"repository": "a/b", "revision": COMMIT}
    lora = {"name": "style", "file": "style.safetensors", "licence": "MIT", **where}
    flux = {"weights": where, "identity": {"weights": {"path": "/w/InfiniteYou"}}, "lora_repositories": [lora]}
    style = Weights(repository="a/b", revision=COMMIT, files=("style.safetensors",), licence="MIT")
    faces = {"recogniser": {"path": "/w/recogniser"}, "detector": {"kind": "insightface", "pack": "/packs/antelopev2"}}
    found = find_weights(entries(painter={"kind": "flux", **flux}, instantid={"kind": "instantid", **faces}))
    assert found == [
        NamedWeights("painter.weights", "a/b", Weights(repository="a/b", revision=COMMIT)),
        NamedWeights("painter.lora_repositories.0", "a/b", style, "MIT"),
        NamedWeights("painter.identity.weights", "path:InfiniteYou"),
        NamedWeights("instantid.recogniser", "path:recogniser"),
        NamedWeights("instantid.detector.pack", "path:antelopev2"),
    ]
    assert [one.licence.commercial for one in found] == ["unknown", "stated", "forbidden", "unknown", "forbidden"]


def test_files_by_address_are_fetched(tmp_path, capsys):
    with serve_file() as server:
        server.body = b"weights"
        url, sha256 = f"{server.url}/x4plus.pth", hashlib.sha256(b"weights").hexdigest()
        file = {"url": f"{url}?token=secret", "sha256": sha256, "offline": True}
        models = entries(realesrgan={"kind": "realesrgan", "weights": file})
        assert pull_weights(models, tmp_path, KNOWN) == REFUSED
        assert pull_weights(models, tmp_path, Acceptance(sources=(url,))) == DONE
        assert pull_weights(models, tmp_path, KNOWN) == DONE
    assert (tmp_path / "models" / "files" / sha256 / "x4plus.pth").read_bytes() == b"weights"
    printed = "".join(capsys.readouterr())
    assert f"realesrgan.weights: {url}\n" in printed
    assert "secret" not in printed


def test_the_local_configuration_asks_nothing_and_knows_every_licence(tmp_path):
    environment = {**os.environ, "REELGRAPH_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "composition", "pull"]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=WAIT_S, env=environment)
    assert (ended.returncode, ended.stderr) == (DONE, "")
    assert ended.stdout.count("licence: Apache-2.0 (as the configuration says)") == 8
    assert "unknown" not in ended.stdout


def test_a_configuration_that_cannot_be(tmp_path):
    broken = {"kind": "internvl", "weights": {"repository": "a/b", "revision": "main"}}
    command = program(tmp_path, {"internvl": broken})
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=WAIT_S)
    assert (ended.returncode, "must be pinned to a commit" in ended.stderr) == (2, True)


def test_licences_are_accepted_on_the_command_line(hub, tmp_path):
    models = {"svd": remote(hub, SVD, "svd"), "wan": remote(hub, OTHER, "wan")}
    words = ("--accept-licence", SVD, "--accept-licence", OTHER)
    ended = subprocess.run(
        program(tmp_path, models, *words), check=False, capture_output=True, text=True, timeout=WAIT_S
    )
    assert ended.returncode == DONE, ended.stderr
    assert fetched(tmp_path / "home").keys() == {SVD, OTHER}


@pytest.mark.parametrize(("answers", "status"), [("yy", DONE), ("yn", REFUSED), ("n", REFUSED)])
def test_a_question_at_a_terminal_for_each_repository(hub, tmp_path, answers, status):
    ours, theirs = pty.openpty()
    models = {"svd": remote(hub, SVD, "svd"), "wan": remote(hub, OTHER, "wan")}
    process = subprocess.Popen(
        program(tmp_path, models), stdin=theirs, stderr=theirs, stdout=subprocess.PIPE, text=True
    )
    os.close(theirs)
    asked: list[str] = []
    for answer in answers:
        said = b""
        while b"[y/N]" not in said:
            said += os.read(ours, 4096)
        asked.append(said.decode())
        os.write(ours, f"{answer}\n".encode())
    out, _ = process.communicate(timeout=WAIT_S)
    os.close(ours)
    assert f"The licence of {SVD} has conditions. Have you read its terms" in asked[0]
    assert all(f"The licence of {OTHER} is unknown. Have" in question for question in asked[1:])
    assert process.returncode == status
    assert out.endswith("all weights are complete\n") == (status == DONE)
    assert fetched(tmp_path / "home").keys() == ({SVD, OTHER} if status == DONE else set())


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_does_not_wait_for_the_hub(hub, tmp_path, how):
    hub.hold.clear()
    process = subprocess.Popen(
        program(tmp_path, {"internvl": remote(hub, INTERNVL, "internvl")}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert hub.held.wait(WAIT_S)
    process.send_signal(how)
    _, told = process.communicate(timeout=WAIT_S)
    assert (process.returncode, "Traceback" in told) == (INTERRUPTED, False)
    assert told.splitlines()[-1] == "interrupted; run the command again to resume"
