"""Jobs over HTTP by what is served: which models are asked for, and what is left of those that are served no longer."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from composition.records.artifacts import Artifacts
from composition.records.store import Lease
from composition.records.tables import Job
from tests.composition.deployed import Cluster, Hosted
from tests.composition.painting import open_door
from tests.composition.studio import MODELS


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    models = {kind: Hosted(kind) for kind in MODELS}
    cluster = Cluster(tmp_path).host_models({**models, "flux-2": Hosted("flux", limits={"steps": 9})})
    return cluster.host_graphs("full-pipeline", "single")


@pytest.fixture
async def http(cluster: Cluster) -> AsyncIterator[httpx.AsyncClient]:
    api = open_door(cluster).api()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://localhost") as client:
        yield client


def stored(cluster: Cluster, model: str, params: dict[str, Any], main: str | None = None, **results: bytes) -> Job:
    """A job that is worked on and has these results already."""
    said: dict[str, Any] = {"params": params, "media": {}, "main": main, "created_at": time.time()}
    cluster.store.create_job(Job(id=f"video_{model}", owner="", model=model, **said), 9)
    job = cluster.store.claim_job(60)
    assert job
    artifacts, keys = Artifacts(cluster.where), {name: f"videos/{job.id}/{name}.mp4" for name in results}
    for name, data in results.items():
        artifacts.put(keys[name], data)
    cluster.store.update_job(Lease(job.id, job.fence), {"results": keys}, [])
    return cluster.store.get_job(job.id)


async def test_a_job_is_bound_to_the_models_that_it_is_asked_with(http: httpx.AsyncClient) -> None:
    chosen = {"text-to-image": "flux-2", "upscale": "realesrgan"}
    body = {"model": "full-pipeline", "prompt": "a fox", "steps": 3}
    job = (await http.post("/v1/videos", json={**body, "models": chosen})).json()
    others = {"face": "instantid", "restyle": "hunyuan-dit", "image-to-video": "svd", "upscale": "realesrgan"}
    assert job["params"]["models"] == {"text-to-image": "flux-2", **others}
    form = (await http.post("/v1/videos", data={**body, "models": '{"text-to-image": "flux-2"}'})).json()
    assert form["params"]["models"] == job["params"]["models"]
    brackets = (await http.post("/v1/videos", data={**body, "models[text-to-image]": "flux-2"})).json()
    assert brackets["params"]["models"] == job["params"]["models"]
    plain = (await http.post("/v1/videos", json={**body, "models": None})).json()
    assert plain["params"]["models"] == {"text-to-image": "flux", **others}
    alone = (await http.post("/v1/videos", json={"model": "flux-2", "prompt": "a fox", "steps": 9})).json()
    assert (alone["model"], alone["main"]) == ("flux-2", "image")
    assert alone["params"]["models"] == {"text-to-image": "flux-2"}


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"models": {"text-to-image": "svd"}}, "models.text-to-image", "must be one of flux, flux-2, got 'svd'"),
        ({"models": {"describe": "flux"}}, "models", "full-pipeline has no role describe"),
        ({"models": {"holodeck": "flux"}}, "models.holodeck", "input should be 'describe', "),
        ({"models": "{"}, "models", "must be a JSON object, got '{'"),
        ({"models": ["flux"]}, "models", "input should be a valid dictionary, got ['flux']"),
        ({"models": {"text-to-image": 3}}, "models.text-to-image", "input should be a valid string, got 3"),
        ({"models": {"text-to-image": ""}}, "models.text-to-image", "must be one of flux, flux-2, got ''"),
        ({"models": {"text-to-image": "flux-2"}, "steps": 10}, "steps", "10 is more than the limit of 9"),
        ({"model": "flux-2", "steps": 10}, "steps", "10 is more than the limit of 9"),
        ({"model": "flux-3"}, "model", "must be one of full-pipeline, "),
        ({"model": ["flux"]}, "model", "must be the name of a graph or a model"),
        ({"model": "single"}, "model", "got 'single'"),
        ({"model": "instantid"}, "model", "got 'instantid'"),
    ],
)
async def test_what_cannot_be_chosen(http: httpx.AsyncClient, fields: dict[str, Any], param: str, message: str) -> None:
    answer = await http.post("/v1/videos", json={"model": "full-pipeline", "prompt": "a fox", "steps": 3, **fields})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (422, param), error
    assert message in error["message"]
    assert (await http.get("/v1/videos")).json()["data"] == []


async def test_results_of_a_model_that_is_served_no_longer_can_still_be_had(
    http: httpx.AsyncClient, cluster: Cluster
) -> None:
    job = stored(cluster, "gone", {}, video=b"frames")
    cluster.store.end_job(Lease(job.id, job.fence), "completed")
    route = f"/v1/videos/{job.id}/content"
    assert (await http.get(route)).content == b"frames"
    assert (await http.get(f"/v1/videos/{job.id}")).json()["status"] == "completed"
    missing = await http.get(route, params={"variant": "hd"})
    assert (missing.status_code, missing.json()["error"]["param"]) == (404, "variant")
    assert missing.json()["error"]["message"] == f"variant: {job.id} has no 'hd'; there is video"


@pytest.mark.parametrize(
    ("model", "params", "there"),
    [
        ("full-pipeline", {"animate": {}, "upscale": {}}, "hd, video"),
        ("full-pipeline", {"animate": {}, "upscale": None}, "video"),
        ("full-pipeline", {"animate": None}, "nothing yet"),
        ("flux-2", {}, "nothing yet"),
        ("svd", {}, "video"),
        ("realesrgan", {"image": "x"}, "nothing yet"),
        ("gone", {}, "video"),
    ],
)
async def test_which_videos_a_job_will_have(
    http: httpx.AsyncClient, cluster: Cluster, model: str, params: dict[str, Any], there: str
) -> None:
    job = stored(cluster, model, params)
    answer = await http.get(f"/v1/videos/{job.id}/content", params={"variant": "nothing"})
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == f"variant: {job.id} has no 'nothing'; there is {there}"


async def test_while_the_controller_is_away_the_front_door_goes_by_what_it_knows(
    http: httpx.AsyncClient, cluster: Cluster
) -> None:
    body = {"model": "flux-2", "prompt": "a fox", "steps": 2}
    assert (await http.post("/v1/videos", json=body)).status_code == 200
    cluster.away = True
    assert (await http.post("/v1/videos", json=body)).status_code == 200
    assert len((await http.get("/v1/models")).json()["data"]) == len(MODELS) + 2
