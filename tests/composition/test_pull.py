"""`reel models pull`, in this process where nobody is asked, and as a program where somebody is."""

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

from composition.app import AppSettings
from composition.pull import DONE, FAILED, INTERRUPTED, REFUSED, Named, named, pull
from services.flux.service import FluxSettings
from services.instantid.service import InsightFaceSettings, InstantIdSettings
from services.weights import Weights
from tests.services.hub_server import COMMIT, HubServer, Repository, running

INTERNVL, SVD = "OpenGVLab/InternVL3_5-8B-HF", "stabilityai/stable-video-diffusion-img2vid-xt"
WAIT_S = 120


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with running() as hub:
        for name in (INTERNVL, SVD):
            hub.repositories[name] = Repository({"model.safetensors": name.encode() * 1000})
        yield hub


def remote(hub: HubServer, name: str, **fields: Any) -> dict[str, Any]:
    return {"weights": {"repository": name, "revision": COMMIT, "endpoint": hub.url, **fields}}


def settings(home: Path, **models: Any) -> AppSettings:
    return AppSettings.model_validate({"home": home, "auth": "none", **models})


def program(tmp_path: Path, models: dict[str, Any], *words: str) -> list[str]:
    args = {"home": str(tmp_path / "home"), "auth": "none", **models}
    config = {"applications": [{"name": "reelgraph", "import_path": "composition.app:build", "args": args}]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    return [sys.executable, "-m", "composition", "pull", "--config", str(tmp_path / "config.yaml"), *words]


def fetched(home: Path) -> dict[str, bytes]:
    """The repositories that are there, by their only file."""
    found = (home / "models").glob("models--*/snapshots/*/model.safetensors")
    return {path.parts[-4].removeprefix("models--").replace("--", "/"): path.read_bytes() for path in found}


def test_everything_free_is_fetched(hub, tmp_path, capsys):
    models = {"internvl": remote(hub, INTERNVL, offline=True), "wan": {"weights": {"path": "/w/wan"}}}
    assert pull(settings(tmp_path, **models), accept_licences=False) == DONE
    assert list(fetched(tmp_path)) == [INTERNVL]
    out, told = capsys.readouterr()
    assert out.splitlines() == [
        f"internvl.weights: {INTERNVL} at {COMMIT} on huggingface",
        "  27.0 kB, of which 27.0 kB are to be fetched",
        f"  licence: Apache-2.0 (commercial use: free; keep the notices; https://huggingface.co/{INTERNVL})",
        "wan.weights: path:wan",
        "  nothing to fetch",
        "  licence: unknown (commercial use: unknown; see the repository; no address known)",
        "all there",
    ]
    assert told == f"{INTERNVL}: 27.0 kB of 27.0 kB\n"
    assert pull(settings(tmp_path, **models), accept_licences=False) == DONE
    assert "of which 0 bytes are to be fetched" in capsys.readouterr().out
    assert hub.served.total() == 1


def test_conditions_must_be_accepted(hub, tmp_path, capsys):
    models = settings(tmp_path, internvl=remote(hub, INTERNVL), svd=remote(hub, SVD))
    assert pull(models, accept_licences=False) == REFUSED
    out, told = capsys.readouterr()
    assert "licence: Stability AI Community (commercial use: restricted;" in out
    assert told == f"not free of conditions: {SVD}. Read the terms, and give --accept-licences\n"
    assert hub.served.total() == 0
    assert pull(models, accept_licences=True) == DONE
    assert fetched(tmp_path).keys() == {INTERNVL, SVD}
    assert pull(models, accept_licences=False) == DONE  # what is here already is not asked about


def test_a_shut_gate_is_known_before_anything_is_fetched(hub, tmp_path, capsys):
    hub.repositories[SVD].gate = "GatedRepo"
    models = settings(tmp_path, internvl=remote(hub, INTERNVL), svd=remote(hub, SVD))
    assert pull(models, accept_licences=True) == FAILED
    assert "svd.weights: weights.repository: stabilityai/" in capsys.readouterr().err
    assert hub.served.total() == 0


def test_the_room_is_for_all_together(hub, tmp_path, capsys):
    disk = os.statvfs(tmp_path)
    most = disk.f_bavail * disk.f_frsize * 2 // 3
    for name in (INTERNVL, SVD):
        hub.repositories[name].claimed = {"model.safetensors": most}
    models = settings(tmp_path, internvl=remote(hub, INTERNVL), svd=remote(hub, SVD))
    assert pull(models, accept_licences=True) == FAILED
    assert "are to be fetched, and" in capsys.readouterr().err
    assert hub.served.total() == 0


def test_one_that_fails_does_not_stop_the_others(hub, tmp_path, capsys):
    hub.repositories[INTERNVL].claimed = {"model.safetensors": 5}
    models = settings(tmp_path, internvl=remote(hub, INTERNVL), svd=remote(hub, SVD))
    assert pull(models, accept_licences=True) == FAILED
    assert "internvl.weights: weights.repository: OpenGVLab" in capsys.readouterr().err
    assert SVD in fetched(tmp_path)


def test_weights_are_found_however_deep():
    where = {"repository": "a/b", "revision": COMMIT}
    lora = {"name": "style", "file": "style.safetensors", **where}
    flux = {"weights": where, "identity": {"weights": {"path": "/w/InfiniteYou"}}, "lora_repositories": [lora]}
    assert list(named(FluxSettings.model_validate(flux), "flux")) == [
        Named("flux.weights", "a/b", Weights(repository="a/b", revision=COMMIT)),
        Named("flux.identity.weights", "path:InfiniteYou"),
        Named(
            "flux.lora_repositories.0", "a/b", Weights(repository="a/b", revision=COMMIT, files=("style.safetensors",))
        ),
    ]
    pack = InsightFaceSettings(kind="insightface", pack=Path("/packs/antelopev2"))
    faces = InstantIdSettings(recogniser=Weights(path=Path("/w/recogniser")), detector=pack)
    found = {one.field: one.licence.commercial for one in named(faces)}
    assert found == {"recogniser": "unknown", "detector.pack": "forbidden"}


def test_a_configuration_that_cannot_be(tmp_path):
    command = program(tmp_path, {"internvl": {"weights": {"repository": "a/b", "revision": "main"}}})
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=WAIT_S)
    assert (ended.returncode, "must be pinned to a commit" in ended.stderr) == (2, True)


@pytest.mark.parametrize(("answer", "status"), [("y", DONE), ("", REFUSED)])
def test_a_question_at_a_terminal(hub, tmp_path, answer, status):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        program(tmp_path, {"svd": remote(hub, SVD)}), stdin=theirs, stderr=theirs, stdout=subprocess.PIPE, text=True
    )
    os.close(theirs)
    said = b""
    while b"[y/N]" not in said:
        said += os.read(ours, 4096)
    os.write(ours, f"{answer}\n".encode())
    out, _ = process.communicate(timeout=WAIT_S)
    os.close(ours)
    assert process.returncode == status
    assert out.endswith("all there\n") == (status == DONE)
    assert list(fetched(tmp_path / "home")) == ([SVD] if status == DONE else [])


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_does_not_wait_for_the_hub(hub, tmp_path, how):
    hub.hold.clear()
    process = subprocess.Popen(
        program(tmp_path, {"internvl": remote(hub, INTERNVL)}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert hub.held.wait(WAIT_S)
    process.send_signal(how)
    _, told = process.communicate(timeout=WAIT_S)
    assert (process.returncode, "Traceback" in told) == (INTERRUPTED, False)
    assert told.splitlines()[-1] == "stopped; run it again to go on"
