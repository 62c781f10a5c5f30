"""`GET /v1/models`: the served graphs and models, with their defaults and limits."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from composition.graphs.full_pipeline import GRAPH as FULL_PIPELINE
from composition.graphs.single import SINGLES
from composition.http.listing import find_graph, list_models
from composition.http.schemas import ModelObject
from tests.composition.deployed import Cluster, Hosted
from tests.composition.painting import open_door

KINDS = ("internvl", "wan", "qwen-edit", "flux", "instantid", "hunyuan-dit", "svd", "realesrgan")
LIMITS: dict[str, dict[str, float]] = {
    "wan": {"num_frames": 121, "max_area": 4096, "steps": 9999},
    "flux": {"n": 4, "steps": 50},
    "svd": {"num_frames": 30},
    "hunyuan-dit": {"steps": 40},
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "wan": {"num_frames": 17, "guidance_scale": 0.0},
    "flux": {"size": "64x64"},
    "svd": {"num_frames": 8},
    "hunyuan-dit": {"strength": 0.25},
    "qwen-edit": {"ttlg": {"lr": 0.5}},
}


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    cluster = Cluster(tmp_path)
    models = {kind: Hosted(kind, limits=LIMITS.get(kind, {}), defaults=DEFAULTS.get(kind, {})) for kind in KINDS}
    return cluster.host_models(models).host_graphs("v2v", "full-pipeline", "rolling-edit", "single")


def listed(cluster: Cluster) -> dict[str, ModelObject]:
    return {each.id: each for each in list_models(cluster.served.read_snapshot(), 7)}


def option(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of the object that a field accepts."""
    (fields,) = (each["properties"] for each in schema["anyOf"] if "properties" in each)
    return fields


def test_graphs_stand_before_models_and_each_has_its_kind_and_roles(cluster: Cluster) -> None:
    found = listed(cluster)
    assert list(found) == ["v2v", "full-pipeline", "rolling-edit", *KINDS, "wan-i2v", "wan-t2v"]
    assert {each.kind for each in list(found.values())[:3]} == {"graph"}
    assert [found[kind].kind for kind in KINDS] == list(KINDS)
    assert found["v2v"].roles == ["describe", "image-to-video"]
    assert found["full-pipeline"].roles == ["text-to-image", "face", "restyle", "image-to-video", "upscale"]
    assert (found["wan"].roles, found["instantid"].roles) == (["image-to-video", "text-to-video"], ["face"])
    assert {(each.object, each.created, each.owned_by) for each in found.values()} == {("model", 7, "reelgraph")}


def test_a_job_of_a_model_alone_has_the_model_s_defaults_and_limits(cluster: Cluster) -> None:
    fields = listed(cluster)["wan"].fields
    assert (fields["num_frames"]["default"], fields["num_frames"]["maximum"]) == (17, 121)
    assert (fields["guidance_scale"]["default"], fields["max_area"]["maximum"]) == (0.0, 4096)
    assert (fields["steps"]["default"], fields["steps"]["maximum"]) == (40, 1000), "no deployment allows more than that"
    assert fields.keys() >= {"image", "last_image", "prompt", "seed"}
    assert "models" not in fields, "there is nothing to choose"


def test_a_graph_has_those_of_its_models_at_their_places(cluster: Cluster) -> None:
    found = listed(cluster)
    v2v, pipeline, edit = (found[name].fields for name in ("v2v", "full-pipeline", "rolling-edit"))
    assert (v2v["num_frames"]["default"], v2v["num_frames"]["maximum"]) == (17, 121)
    assert (v2v["num_segments"]["default"], v2v["num_segments"]["maximum"]) == (8, 16)
    assert "models" in v2v
    assert (pipeline["size"]["default"], pipeline["steps"]["maximum"]) == ("64x64", 50)
    animate, restyle = option(pipeline["animate"]), option(pipeline["restyle"])
    assert (animate["num_frames"]["default"], animate["num_frames"]["maximum"]) == (8, 30)
    assert pipeline["animate"]["default"] == {"num_frames": 8}
    assert (restyle["strength"]["default"], restyle["steps"]["maximum"]) == (0.25, 40)
    assert pipeline["restyle"]["default"] is None, "it is off where nobody asks for it"
    assert edit["ttlg"]["properties"]["lr"]["default"] == 0.5
    assert edit["ttlg"]["default"] == {"lr": 0.5}


def test_the_graph_s_own_defaults_stand_before_them(cluster: Cluster) -> None:
    cluster.host_graphs(
        full_pipeline={"defaults": {"size": "32x32", "animate": {"steps": 5}, "restyle": "oil", "upscale": False}}
    )
    fields = listed(cluster)["full-pipeline"].fields
    assert (fields["size"]["default"], fields["upscale"]["default"]) == ("32x32", False)
    assert fields["animate"]["default"] == {"num_frames": 8, "steps": 5}
    assert fields["restyle"]["default"] == {"prompt": "oil", "strength": 0.25}
    assert option(fields["restyle"])["prompt"]["default"] == "oil"


def test_a_model_of_which_no_job_is_made_has_the_fields_of_its_request(cluster: Cluster) -> None:
    found = listed(cluster)
    assert found["internvl"].fields.keys() == {"prompt", "max_new_tokens"}
    assert found["instantid"].fields == {}
    cluster.host_graphs("v2v")
    fields = listed(cluster)["wan"].fields
    assert "image" not in fields, "nothing runs its jobs"
    assert (fields["num_frames"]["default"], fields["num_frames"]["maximum"]) == (17, 121)


def test_a_graph_is_ready_when_it_and_all_that_it_needs_are(cluster: Cluster) -> None:
    assert all(each.ready and each.state == "HEALTHY" for each in listed(cluster).values())
    cluster.host_models({"svd": Hosted("svd")}, "svd")
    cluster.host_models({kind: Hosted(kind) for kind in KINDS if kind != "svd"})
    cluster.states["svd"] = "UPDATING"
    found = listed(cluster)
    assert (found["svd"].ready, found["svd"].state) == (False, "UPDATING")
    assert found["full-pipeline"].ready, "it can do without"
    cluster.states["models"] = "UNHEALTHY"
    found = listed(cluster)
    assert [name for name, each in found.items() if each.ready] == []
    assert (found["v2v"].state, found["wan"].state) == ("HEALTHY", "UNHEALTHY")
    cluster.states |= {"models": "HEALTHY", "graphs": "UPDATING"}
    found = listed(cluster)
    assert (found["v2v"].ready, found["v2v"].state, found["wan"].ready) == (False, "UPDATING", True)


def test_a_graph_that_cannot_be_served_is_not_listed(cluster: Cluster) -> None:
    cluster.host_models({"flux": Hosted("flux")}).host_graphs(
        "v2v", "full-pipeline", "single", storyboard={"roles": {"text-to-image": "flux-2"}}
    )
    assert list(listed(cluster)) == ["full-pipeline", "flux"]


def test_which_graph_a_stored_job_has(cluster: Cluster) -> None:
    snapshot = cluster.served.read_snapshot()
    assert find_graph("full-pipeline", snapshot) is FULL_PIPELINE
    for name, kind in (("svd", "svd"), ("wan", "wan"), ("wan-i2v", "wan")):
        assert find_graph(name, snapshot) is SINGLES[kind]
    for name in ("internvl", "single", "storyboard", "text-to-video"):
        assert find_graph(name, snapshot) is None


async def test_the_list_over_http(cluster: Cluster) -> None:
    api = open_door(cluster).build_app()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://localhost") as client:
        answer = (await client.get("/v1/models")).json()
    assert [each["id"] for each in answer["data"]] == list(listed(cluster))
    wan = next(each for each in answer["data"] if each["id"] == "wan")
    assert wan.keys() == {"id", "object", "created", "owned_by", "kind", "roles", "ready", "state", "fields"}
    assert wan["fields"]["num_frames"]["maximum"] == 121
    assert "$ref" not in str(answer)


def bodies(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Name, or path, → the schema of the body of a request for it."""
    posts = {path: route["post"] for path, route in document["paths"].items() if path in BODIES}
    schemas = {path: post["requestBody"]["content"]["application/json"]["schema"] for path, post in posts.items()}
    videos = {each["properties"]["model"]["enum"][0]: each for each in schemas.pop("/v1/videos")["oneOf"]}
    return {**videos, **schemas}


BODIES = ("/v1/videos", "/v1/images/generations", "/v1/images/edits", "/v1/faces")


async def test_the_openapi_document_has_the_defaults_and_limits_of_what_is_served(cluster: Cluster) -> None:
    models = {
        "flux": Hosted("flux", limits={"n": 2}, defaults={"size": "64x64"}),
        "wan-small": Hosted("wan", limits={"num_frames": 33}),
        "wan-large": Hosted("wan", limits={"num_frames": 81}, defaults={"steps": 7, "prompt": "rain"}),
        "qwen-edit": Hosted("qwen-edit", limits={"steps": 20}),
        "hunyuan-dit": Hosted("hunyuan-dit", defaults={"prompt": "ink"}),
        "internvl": Hosted("internvl"),
    }
    api = open_door(cluster.host_models(models)).build_app()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://localhost") as client:
        found = bodies((await client.get("/openapi.json")).json())
    fields = {name: schema["properties"] for name, schema in found.items()}
    small, large = fields["wan-small"], fields["wan-large"]
    assert (small["num_frames"]["maximum"], large["num_frames"]["maximum"]) == (33, 81)
    assert (small["steps"]["default"], large["steps"]["default"], large["prompt"]["default"]) == (40, 7, "rain")
    assert fields["wan-i2v"]["num_frames"]["maximum"] == 33, "the first of its kind"
    assert fields["v2v"]["num_frames"]["maximum"] == 33
    assert (fields["/v1/images/generations"]["n"]["maximum"], fields["flux"]["size"]["default"]) == (2, "64x64")
    assert fields["/v1/images/edits"]["steps"]["maximum"] == 20
    assert found["flux"]["required"] == ["model", "prompt"]
    assert found["hunyuan-dit"]["required"] == ["model"], "its prompt has a default here"
    assert found["/v1/faces"]["required"] == ["image"], "no model for faces is served, so the class is described"
    assert large["image"]["description"].startswith("The first frame. Without it, ")
