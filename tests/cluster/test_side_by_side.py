"""Two models of one kind side by side, and configuration changes while a server runs."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from composition.records.store import Store
from miniatures.random import written
from tests.cluster.conftest import create_video, wait_for_end
from tests.cluster.server import CLIP, Server, until

pytestmark = pytest.mark.cluster

FIRST, SECOND = "models-first", "models-second"
UNTOUCHED = (FIRST, "graphs", "jobs")
SMALL = {"steps": 2, "max_area": 128 * 72}
OWN = {
    "wan-a14b": {"num_frames": 81, "guidance_scale": 3.5, "guidance_scale_2": 3.5, "shift": 5.0},
    "wan-5b": {"num_frames": 121, "guidance_scale": 5.0, "guidance_scale_2": None, "shift": 5.0},
}
"""Model → the default values of its checkpoint."""


class Pair(Server):
    """A server of two Wans and two Fluxes, in two processes.

    `wan-a14b` has two experts and 16 frames per second. The rate of `wan-5b`, a TI2V model, is only in its checkpoint.
    """

    def __init__(self, home: Path, models: dict[str, Any]):
        super().__init__(home, models, ("v2v", "full-pipeline"), max_queued_jobs=20)
        raw = yaml.safe_load(self.config.read_text())
        (host,) = (application for application in raw["applications"] if application["name"] == "models")
        raw["applications"].remove(host)
        wan, flux = models["wan"], models["flux"]
        wan = {**wan, "defaults": SMALL}  # all else is as the checkpoints have it
        ti2v = {**wan, "weights": {"path": str(written("wan", "ti2v", home).path)}}
        del ti2v["rate"]
        parts = {
            FIRST: {"internvl": models["internvl"], "wan-a14b": wan, "flux-one": flux},
            SECOND: {"wan-5b": ti2v, "flux-two": {**flux, "defaults": {"size": "64x64", "steps": 2}}},
        }
        for name, blocks in parts.items():
            (deployment,) = host["deployments"]
            args = {**host["args"], "application": name, "models": blocks}
            raw["applications"].append(
                {**host, "name": name, "args": args, "deployments": [{**deployment, "name": name}]}
            )
        self._write(raw)
        self._hosts |= {name: name for name in parts}

    def _write(self, raw: dict[str, Any]) -> None:
        self.config.write_text(yaml.safe_dump(raw))

    def change(self, application: str, change: dict[str, Any]) -> None:
        """Merge a change into the `args` of an application, and let the server reload its configuration."""
        raw = yaml.safe_load(self.config.read_text())
        (found,) = (each for each in raw["applications"] if each["name"] == application)
        _merge(found["args"], change)
        self._write(raw)
        assert self.process
        self.process.send_signal(signal.SIGHUP)

    def pids(self, application: str) -> list[int]:
        return [process.pid for process in self.replicas(application)]


def _merge(behind: dict[str, Any], change: dict[str, Any]) -> None:
    for name, value in change.items():
        if isinstance(value, dict):
            _merge(behind[name], value)
        else:
            behind[name] = value


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, untrained: dict[str, Any]) -> Iterator[Pair]:
    made = Pair(tmp_path_factory.mktemp("pair"), untrained)
    made.start()
    yield made
    made.kill()


@pytest.fixture
def http(pair: Pair) -> Iterator[httpx.Client]:
    with pair.client() as client:
        yield client


@pytest.fixture(scope="module")
def clip(pair: Pair) -> str:
    with pair.client() as client, CLIP.open("rb") as file:
        return client.post("/v1/files", files={"file": file}).json()["id"]


def models(http: httpx.Client) -> dict[str, dict[str, Any]]:
    return {entry["id"]: entry for entry in http.get("/v1/models").json()["data"]}


def test_both_are_listed_with_their_kind_and_roles(http: httpx.Client) -> None:
    there = models(http)
    for name, kind, roles in (
        ("wan-a14b", "wan", ["image-to-video"]),
        ("wan-5b", "wan", ["image-to-video", "text-to-video"]),
        ("flux-one", "flux", ["text-to-image"]),
        ("flux-two", "flux", ["text-to-image"]),
    ):
        assert (there[name]["kind"], there[name]["roles"], there[name]["ready"]) == (kind, roles, True)
    assert there["flux-two"]["fields"]["size"]["default"] == "64x64"
    assert there["flux-one"]["fields"]["size"]["default"] != "64x64"


@pytest.mark.parametrize(("model", "rate"), [("wan-a14b", "16"), ("wan-5b", "24")])
def test_each_samples_with_the_defaults_of_its_checkpoint(http: httpx.Client, clip: str, model: str, rate: str) -> None:
    """The listing shows them, a job that names none of them is recorded with them, and its video has them."""
    own = {**OWN[model], **SMALL}
    fields = models(http)[model]["fields"]
    assert {name: fields[name]["default"] for name in own} == own
    body = {"model": "v2v", "input_video": clip, "prompt": "a meadow", "models": {"image-to-video": model}}
    video = wait_for_end(http, http.post("/v1/videos", json=body).json()["id"])
    assert video["status"] == "completed", video["error"]
    assert {name: video["params"].get(name) for name in own} == own
    assert video["params"]["negative_prompt"] == fields["negative_prompt"]["default"]
    assert (video["frames_done"], video["rate"]) == (own["num_frames"], rate)


@pytest.mark.parametrize(("chosen", "rate", "frames"), [("wan-a14b", "16", 17), ("wan-5b", "24", 25), (None, "16", 17)])
def test_v2v_chooses_and_seconds_are_right_for_each(
    http: httpx.Client, clip: str, chosen: str | None, rate: str, frames: int
) -> None:
    choice = {"models": {"image-to-video": chosen}} if chosen else {}
    small = {"steps": 2, "max_area": 128 * 72, "seed": 5}
    body = {"model": "v2v", "input_video": clip, "prompt": "a meadow", "seconds": 1, **small, **choice}
    job = http.post("/v1/videos", json=body)
    assert job.status_code == 200, job.text
    video = wait_for_end(http, job.json()["id"])
    assert video["status"] == "completed", video["error"]
    assert (video["rate"], video["frames_done"]) == (rate, frames)
    assert float(video["seconds"]) == pytest.approx(1, abs=0.1)
    assert [stage["model"] for stage in video["stages"]] == [chosen or "wan-a14b"]
    assert video["params"]["models"] == {"describe": "internvl", "image-to-video": chosen or "wan-a14b"}


def test_a_role_that_a_model_cannot_take(http: httpx.Client, clip: str) -> None:
    body = {"model": "v2v", "input_video": clip, "models": {"image-to-video": "flux-one"}}
    answer = http.post("/v1/videos", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == "models.image-to-video"
    assert "wan-a14b, wan-5b" in answer.json()["error"]["message"]


@pytest.mark.parametrize("model", ["flux-one", "flux-two"])
def test_a_picture_by_either_as_an_answer_and_as_a_job(http: httpx.Client, model: str) -> None:
    asked = {"model": model, "prompt": "a boat", "size": "64x64", "steps": 2, "seed": 3}
    answer = http.post("/v1/images/generations", json=asked).json()
    assert [stage["model"] for stage in answer["stages"]] == [model]
    job = http.post("/v1/videos", json=asked).json()
    video = wait_for_end(http, job["id"])
    assert (video["status"], video["main"], video["results"]) == ("completed", "image", ["image", "thumbnail"])
    assert [stage["model"] for stage in video["stages"]] == [model]


def test_a_changed_block_restarts_itself_alone(pair: Pair, http: httpx.Client, clip: str) -> None:
    """A setting of one model and the queue limit change while a model of another block is working."""
    before = {name: pair.pids(name) for name in (*UNTOUCHED, SECOND, "front")}
    job = create_video(http, input_video=clip, prompt="a meadow", steps=100, models={"image-to-video": "wan-a14b"})
    until(lambda: http.get(f"/v1/videos/{job['id']}").json()["stage"] == "denoise", 60, "the first step")
    pair.change(SECOND, {"models": {"wan-5b": {"max_steps": 7}}})

    def replaced(application: str) -> bool:
        found = pair.pids(application)
        return bool(found) and not set(found) & set(before[application])

    until(lambda: replaced(SECOND), 120, "the new process of the changed model")
    until(lambda: models(http)["wan-5b"]["fields"]["steps"].get("maximum") == 7, 60, "the new limit")
    assert {name: pair.pids(name) for name in (*UNTOUCHED, "front")} == {
        name: before[name] for name in (*UNTOUCHED, "front")
    }
    pair.change("front", {"max_queued_jobs": 1})
    until(lambda: replaced("front"), 120, "the new front door")
    assert {name: pair.pids(name) for name in UNTOUCHED} == {name: before[name] for name in UNTOUCHED}
    with pair.client() as client:
        until(lambda: models(client)["wan-5b"]["ready"], 120, "the changed model")
        video = wait_for_end(client, job["id"])
    assert (video["status"], video["degraded"]) == ("completed", None)
    assert Store(f"sqlite:///{pair.home / 'reelgraph.db'}").get_job(job["id"]).attempts == 1
