"""Assigning models to roles, by what is deployed, configured and requested; defaults and limits."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from composition.configuration.settings import GraphEntry, ModelEntry
from composition.configuration.snapshot import GRAPH, Snapshot, describe_graph, describe_model
from composition.graphs.graph import Need
from services.catalogue import KINDS
from services.errors import ConfigError, InvalidParameter, NotFound, ReelError
from services.flux.request import FluxRequest
from services.model import Role
from services.realesrgan.settings import SHIPPED
from services.svd.request import SvdRequest
from services.wan.request import WanRequest
from tests.composition.deployed import Cluster, Hosted

PAINTERS = ("flux", "instantid", "hunyuan-dit", "svd", "realesrgan")
"""The kinds of models that the full pipeline uses."""
WANS = {"wan-a14b": Hosted("wan"), "wan-5b": Hosted("wan")}


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def assigned(cluster: Cluster, name: str, **chosen: str) -> dict[Role, str]:
    """Return role → id of the model; keywords are roles with `_` for `-`."""
    by_role = {role.replace("_", "-"): model for role, model in chosen.items()}
    return read(cluster).assign_models(name, cast("Mapping[Role, str]", by_role)).ids


def read(cluster: Cluster) -> Snapshot:
    return cluster.served.read_snapshot()


def refused(cluster: Cluster, name: str, **chosen: str) -> tuple[str | None, str]:
    with pytest.raises(InvalidParameter) as caught:
        assigned(cluster, name, **chosen)
    return caught.value.param, caught.value.message


# Roles.


def test_the_first_that_is_served_takes_a_role_and_another_one_where_it_is_chosen(cluster: Cluster) -> None:
    cluster.host_models({"eyes": Hosted("internvl"), **WANS}).host_graphs("v2v")
    assert assigned(cluster, "v2v") == {"describe": "eyes", "image-to-video": "wan-a14b"}
    assert assigned(cluster, "v2v", image_to_video="wan-5b") == {"describe": "eyes", "image-to-video": "wan-5b"}
    assert assigned(cluster, "v2v", image_to_video="wan-a14b", describe="eyes") == assigned(cluster, "v2v")


def test_the_order_is_that_of_the_applications_and_of_the_models_in_them(cluster: Cluster) -> None:
    cluster.host_models({"wan-z": Hosted("wan"), "wan-y": Hosted("wan")}, "b")
    cluster.host_models({"eyes": Hosted("internvl"), "wan-x": Hosted("wan")}, "a").host_graphs("v2v")
    assert list(read(cluster).models) == ["wan-z", "wan-y", "eyes", "wan-x"]
    assert assigned(cluster, "v2v")["image-to-video"] == "wan-z"
    cluster.states = {"a": "HEALTHY", "b": "HEALTHY", "graphs": "HEALTHY"}
    assert list(read(cluster).models) == ["eyes", "wan-x", "wan-z", "wan-y"]
    assert assigned(cluster, "v2v")["image-to-video"] == "wan-x"


def test_the_configured_model_stands_before_the_first_and_behind_the_chosen(cluster: Cluster) -> None:
    cluster.host_models({"eyes": Hosted("internvl"), **WANS})
    cluster.host_graphs(v2v={"roles": {"image-to-video": "wan-5b"}})
    assert assigned(cluster, "v2v")["image-to-video"] == "wan-5b"
    assert assigned(cluster, "v2v", image_to_video="wan-a14b")["image-to-video"] == "wan-a14b"


def test_what_is_wanted_and_not_needed_is_taken_where_it_is_there(cluster: Cluster) -> None:
    cluster.host_models({"flux": Hosted("flux")}).host_graphs("full-pipeline")
    assert assigned(cluster, "full-pipeline") == {"text-to-image": "flux"}
    cluster.host_models({kind: Hosted(kind) for kind in PAINTERS})
    assert assigned(cluster, "full-pipeline") == {
        "text-to-image": "flux",
        "face": "instantid",
        "restyle": "hunyuan-dit",
        "image-to-video": "svd",
        "upscale": "realesrgan",
    }


def test_a_model_that_is_asked_otherwise_does_not_fit(cluster: Cluster) -> None:
    """Wan and Stable Video Diffusion both animate pictures, but their requests differ."""
    cluster.host_models({"wan": Hosted("wan"), "svd": Hosted("svd"), "flux": Hosted("flux")})
    cluster.host_graphs("full-pipeline", "v2v")
    assert assigned(cluster, "full-pipeline")["image-to-video"] == "svd"
    param, message = refused(cluster, "full-pipeline", image_to_video="wan")
    assert (param, message) == ("models.image-to-video", "models.image-to-video: must be one of svd, got 'wan'")
    snapshot = read(cluster)
    for request, ids in ((SvdRequest, ["svd"]), (WanRequest, ["wan"]), (FluxRequest, [])):
        assert [each.id for each in snapshot.list_candidates(Need("image-to-video", request))] == ids


def test_what_cannot_be_chosen(cluster: Cluster) -> None:
    cluster.host_models({"eyes": Hosted("internvl"), **WANS, "flux": Hosted("flux")})
    cluster.host_graphs("v2v", "full-pipeline", "single")
    known = "v2v, full-pipeline, wan-a14b, wan-5b, flux"
    assert refused(cluster, "v2v", image_to_video="wan") == (
        "models.image-to-video",
        "models.image-to-video: must be one of wan-a14b, wan-5b, got 'wan'",
    )
    assert refused(cluster, "full-pipeline", upscale="wan-5b") == (
        "models.upscale",
        "models.upscale: must be omitted, because no model for upscale is served here, got 'wan-5b'",
    )
    assert refused(cluster, "v2v", upscale="x") == ("models", "models: v2v has no role upscale")
    assert refused(cluster, "wan-5b", image_to_video="wan-a14b") == (
        "models.image-to-video",
        "models.image-to-video: must be wan-5b, the model of the job, got 'wan-a14b'",
    )
    assert refused(cluster, "wan-5b", upscale="x") == ("models", "models: a job of model wan-5b has no role upscale")
    for name in ("sora", "single", "eyes"):
        assert refused(cluster, name) == ("model", f"model: must be one of {known}, got '{name}'")


def test_where_nothing_is_served_nothing_is_listed(cluster: Cluster) -> None:
    assert read(cluster).list_names() == []
    assert refused(cluster, "v2v") == (
        "model",
        "model: must be a deployed graph or model (there are none yet), got 'v2v'",
    )


# Single-model jobs.


def test_a_model_alone_is_run_by_the_graph_of_its_kind(cluster: Cluster) -> None:
    cluster.host_models(WANS)
    assert (
        refused(cluster, "wan-5b")[1] == "model: must be a deployed graph or model (there are none yet), got 'wan-5b'"
    )
    cluster.host_graphs("single", application="alone")
    assignment = read(cluster).assign_models("wan-5b", {})
    assert (assignment.name, assignment.application, assignment.ids) == (
        "wan-5b",
        "alone",
        {"image-to-video": "wan-5b", "text-to-video": "wan-5b"},
    )
    assert assigned(cluster, "wan-5b", image_to_video="wan-5b") == assignment.ids


def test_older_clients_ask_for_the_first_wan_by_another_name(cluster: Cluster) -> None:
    cluster.host_models({"svd": Hosted("svd"), **WANS}).host_graphs("single")
    assignment = read(cluster).assign_models("wan-i2v", {})
    assert (assignment.name, set(assignment.ids.values())) == ("wan-i2v", {"wan-a14b"})
    assert set(assigned(cluster, "wan-i2v", image_to_video="wan-5b").values()) == {"wan-5b"}
    assert "wan-i2v" not in read(cluster).list_names()
    cluster.host_models({"wan-i2v": Hosted("svd"), **WANS})
    assert read(cluster).assign_models("wan-i2v", {}).models["image-to-video"].model.kind == "svd", (
        "an id stands before it"
    )


def test_a_checkpoint_takes_only_its_own_roles(cluster: Cluster) -> None:
    pictures, texts, both = (
        Hosted("wan", roles=("image-to-video",)),
        Hosted("wan", roles=("text-to-video",)),
        Hosted("wan", roles=("image-to-video", "text-to-video")),
    )
    cluster.host_models({"eyes": Hosted("internvl"), "texts": texts, "pictures": pictures, "both": both})
    cluster.host_graphs("single", "v2v")
    assert assigned(cluster, "v2v")["image-to-video"] == "pictures"
    assert refused(cluster, "v2v", image_to_video="texts")[0] == "models.image-to-video"
    assert assigned(cluster, "texts") == {"text-to-video": "texts"}
    assert assigned(cluster, "pictures") == {"image-to-video": "pictures"}
    assert assigned(cluster, "both") == {"image-to-video": "both", "text-to-video": "both"}
    assert assigned(cluster, "wan-t2v") == {"text-to-video": "texts"}, "the first that can"
    assert assigned(cluster, "wan-i2v") == {"image-to-video": "pictures"}
    assert refused(cluster, "pictures", text_to_video="pictures") == (
        "models",
        "models: a job of model pictures has no role text-to-video",
    )
    assert list(read(cluster).aliases) == ["wan-t2v", "wan-i2v"]


# Deployed models and graphs.


def test_an_application_that_serve_does_not_have_serves_nothing(cluster: Cluster) -> None:
    cluster.host_models({"eyes": Hosted("internvl")}, "eyes").host_models(WANS, "wans").host_graphs("v2v")
    assert read(cluster).list_names() == ["v2v"]
    del cluster.states["wans"]
    assert read(cluster).list_names() == []
    assert refused(cluster, "v2v") == (
        "model",
        "model: v2v needs a model for image-to-video, which is not served here",
    )
    cluster.states["wans"] = "UPDATING"
    assert read(cluster).models["wan-5b"].state == "UPDATING"
    del cluster.states["graphs"]
    assert refused(cluster, "v2v")[1] == "model: must be a deployed graph or model (there are none yet), got 'v2v'"


def test_of_one_name_the_first_counts(cluster: Cluster) -> None:
    cluster.host_models({"wan": Hosted("wan", rate=16)}, "a").host_models({"wan": Hosted("wan", rate=24)}, "b")
    served = read(cluster).models["wan"]
    assert (served.application, served.rate) == ("a", 16)


def test_what_this_version_does_not_know_is_passed_over(cluster: Cluster) -> None:
    facts = Hosted("wan").facts
    rows = [("wan-3", "wan-3", facts), ("holodeck", GRAPH, GraphEntry().model_dump(mode="json")), ("wan", "wan", facts)]
    cluster.deploy("later", rows, None)
    assert (list(read(cluster).models), list(read(cluster).graphs)) == (["wan"], [])


@pytest.mark.parametrize("configured", ["wan-a14b", "elsewhere"])
def test_a_graph_whose_configured_model_is_not_served_is_not_listed(cluster: Cluster, configured: str) -> None:
    cluster.host_models({"eyes": Hosted("internvl"), "wan-5b": Hosted("wan"), "flux": Hosted("flux")})
    cluster.host_graphs("full-pipeline", v2v={"roles": {"image-to-video": configured}})
    assert read(cluster).list_names() == ["full-pipeline"]
    assert refused(cluster, "v2v") == ("model", f"model: v2v needs {configured}, which is not served here")
    assert assigned(cluster, "v2v", image_to_video="wan-5b")["image-to-video"] == "wan-5b"


def test_a_configured_model_that_a_graph_can_do_without(cluster: Cluster) -> None:
    cluster.host_models({"flux": Hosted("flux"), "svd": Hosted("svd")})
    cluster.host_graphs(full_pipeline={"roles": {"image-to-video": "svd-xt"}})
    assert assigned(cluster, "full-pipeline") == {"text-to-image": "flux"}, "no other one takes its place unasked"
    assert read(cluster).list_names() == ["full-pipeline"]


def test_a_graph_that_makes_jobs_is_served_beside_what_runs_them(cluster: Cluster) -> None:
    cluster.host_models({kind: Hosted(kind) for kind in ("flux", "svd", "text-to-video")})
    cluster.host_graphs("storyboard")
    assert refused(cluster, "storyboard")[1] == (
        "model: storyboard needs the graph full-pipeline, which is not served here"
    )
    cluster.host_graphs("full-pipeline", "storyboard")
    assert read(cluster).list_names() == ["full-pipeline", "storyboard"]
    assert assigned(cluster, "storyboard") == {"text-to-image": "flux", "image-to-video": "svd"}
    cluster.host_graphs("full-pipeline", storyboard={"scenes_by": "text-to-video"})
    assert read(cluster).list_names() == ["full-pipeline"]
    cluster.host_graphs("single", storyboard={"scenes_by": "text-to-video"})
    assert assigned(cluster, "storyboard") == {"text-to-video": "text-to-video"}


# Defaults and limits.


def completed(cluster: Cluster, name: str, chosen: Mapping[Role, str] | None = None, **given: Any) -> dict[str, Any]:
    return read(cluster).assign_models(name, chosen or {}).complete_fields(given)


def pipeline(cluster: Cluster, *kinds: str, **defaults: Any) -> None:
    """Deploy the full pipeline with models of these kinds and with its own defaults."""
    behind: dict[str, dict[str, Any]] = {
        "flux": {"size": "64x64", "steps": 3, "guidance_scale": 0.0, "n": 2},
        "hunyuan-dit": {"strength": 0.25},
        "svd": {"num_frames": 8, "noise_aug_strength": 0},
        "realesrgan": {"scale": 2},
    }
    cluster.host_models({kind: Hosted(kind, defaults=behind.get(kind, {})) for kind in kinds})
    cluster.host_graphs(full_pipeline={"defaults": defaults})


def test_defaults_of_the_models_stand_at_their_places(cluster: Cluster) -> None:
    pipeline(cluster, *PAINTERS)
    fields = completed(cluster, "full-pipeline", prompt="a fox", steps=9)
    assert fields == {
        "prompt": "a fox",
        "steps": 9,
        "size": "64x64",
        "guidance_scale": 0.0,
        "animate": {"num_frames": 8, "noise_aug_strength": 0},
        "upscale": {"scale": 2},
    }, "what is 0 counts; the pipeline has no n, and does not restyle where that is not asked for"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"restyle": "ink"}, {"restyle": {"prompt": "ink", "strength": 0.25}}),
        ({"restyle": {"prompt": "ink", "strength": 1}}, {"restyle": {"prompt": "ink", "strength": 1}}),
        ({"restyle": False}, {"restyle": False}),
        ({"animate": True}, {"animate": {"num_frames": 8, "noise_aug_strength": 0}}),
        ({"animate": {"num_frames": 4}}, {"animate": {"num_frames": 4, "noise_aug_strength": 0}}),
        ({"animate": False}, {"animate": False, "upscale": None}),
        ({"animate": "false", "upscale": True}, {"animate": False, "upscale": {"scale": 2}}),
        ({"upscale": False}, {"upscale": False}),
        ({"upscale": {"scale": 4}}, {"upscale": {"scale": 4}}),
    ],
)
def test_defaults_of_a_model_turn_nothing_on(cluster: Cluster, given: dict[str, Any], expected: dict[str, Any]) -> None:
    pipeline(cluster, *PAINTERS)
    fields = completed(cluster, "full-pipeline", **given)
    assert {name: fields.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("own", "given", "expected"),
    [
        ({"steps": 7}, {}, {"steps": 7, "size": "64x64"}),
        ({"steps": 7}, {"steps": 9}, {"steps": 9}),
        ({"animate": {"steps": 2, "num_frames": 5}}, {}, {"animate": {"num_frames": 5, "steps": 2}}),
        ({"animate": False}, {}, {"animate": False, "upscale": None}),
        ({"animate": False}, {"animate": True}, {"animate": {"num_frames": 8}, "upscale": {"scale": 2}}),
        ({"restyle": "oil"}, {}, {"restyle": {"prompt": "oil", "strength": 0.25}}),
        ({"restyle": "oil"}, {"restyle": False}, {"restyle": False}),
        ({"restyle": {"prompt": "oil", "steps": 5}}, {"restyle": "ink"}, {"restyle": {"prompt": "ink", "steps": 5}}),
    ],
)
def test_the_graph_s_defaults_stand_before_those_of_its_models(
    cluster: Cluster, own: dict[str, Any], given: dict[str, Any], expected: dict[str, Any]
) -> None:
    pipeline(cluster, *PAINTERS, **own)
    fields = completed(cluster, "full-pipeline", **given)
    for name, value in expected.items():
        found: Any = fields.get(name)
        assert ({**found, **value} if isinstance(value, dict) else value) == found


def test_defaults_of_the_graph_for_what_is_not_served_are_left_out(cluster: Cluster) -> None:
    pipeline(cluster, "flux", animate={"num_frames": 4}, upscale=True, restyle="oil", steps=7)
    assert completed(cluster, "full-pipeline") == {"steps": 7, "size": "64x64", "guidance_scale": 0.0}


def test_defaults_and_limits_are_those_of_the_chosen_model(cluster: Cluster) -> None:
    cluster.host_models(
        {
            "eyes": Hosted("internvl", limits={"max_new_tokens": 9}),
            "wan-a14b": Hosted("wan", limits={"num_frames": 121, "steps": 50}, defaults={"num_frames": 81}),
            "wan-5b": Hosted("wan", limits={"num_frames": 17}, defaults={"num_frames": 17, "steps": 4}),
        }
    ).host_graphs("v2v", "single")
    first, second = (read(cluster).assign_models("v2v", {"image-to-video": name}) for name in ("wan-a14b", "wan-5b"))
    assert (first.limits, first.complete_fields({})) == ({"num_frames": 121, "steps": 50}, {"num_frames": 81})
    assert (second.limits, second.complete_fields({})) == ({"num_frames": 17}, {"num_frames": 17, "steps": 4})
    alone = read(cluster).assign_models("wan-5b", {})
    assert (alone.limits, alone.complete_fields({"steps": 5})) == ({"num_frames": 17}, {"num_frames": 17, "steps": 5})


def test_limits_stand_at_their_places(cluster: Cluster) -> None:
    limits = {"flux": {"n": 4, "steps": 50}, "hunyuan-dit": {"steps": 30}, "svd": {"num_frames": 14}}
    cluster.host_models({kind: Hosted(kind, limits=limits.get(kind, {})) for kind in PAINTERS})
    cluster.host_graphs("full-pipeline", "storyboard", "single")
    expected = {"n": 4, "steps": 50, "restyle.steps": 30, "animate.num_frames": 14}
    assert read(cluster).assign_models("full-pipeline", {}).limits == expected
    assert read(cluster).assign_models("storyboard", {}).limits == expected
    assert read(cluster).assign_models("svd", {}).limits == {"num_frames": 14}


# Requests without a job.


def test_who_answers_at_once(cluster: Cluster) -> None:
    cluster.host_models({"svd": Hosted("svd"), "schnell": Hosted("flux"), "dev": Hosted("flux")})
    snapshot, need = read(cluster), Need("text-to-image", FluxRequest)
    assert snapshot.choose_model(need, None).id == "schnell"
    assert snapshot.choose_model(need, None, "dev").id == "dev"
    assert snapshot.choose_model(need, "schnell", "dev").id == "schnell"
    assert snapshot.choose_model(need, "schnell", "pro").id == "schnell"


@pytest.mark.parametrize(
    ("need", "name", "configured", "kind", "message"),
    [
        (Need("face"), None, None, NotFound, "no model for face is served here"),
        (Need("face"), "instantid", None, NotFound, "no model for face is served here"),
        (Need("text-to-image", WanRequest), None, None, NotFound, "no model for text-to-image is served here"),
        (
            Need("text-to-image", FluxRequest),
            None,
            "pro",
            NotFound,
            "model: pro, configured for text-to-image, is not served here",
        ),
        (Need("text-to-image", FluxRequest), "svd", None, InvalidParameter, "model: must be one of dev, got 'svd'"),
        (Need("text-to-image", FluxRequest), "", None, InvalidParameter, "model: must be one of dev, got ''"),
    ],
)
def test_who_cannot_answer(
    cluster: Cluster, need: Need, name: str | None, configured: str | None, kind: type[ReelError], message: str
) -> None:
    cluster.host_models({"svd": Hosted("svd"), "dev": Hosted("flux")})
    with pytest.raises(kind) as caught:
        read(cluster).choose_model(need, name, configured)
    assert (type(caught.value), caught.value.message, caught.value.param) == (kind, message, "model")


# Registered rows.


def test_a_model_is_written_down_with_what_requests_must_know() -> None:
    given = {"rate": 16, "max_frames": 81, "max_area": 4096, "max_steps": 30}
    entry = ModelEntry.model_validate(
        {"kind": "wan", "weights": {"path": "."}, "defaults": {"num_frames": 17}, **given}
    )
    row = describe_model("wans", 3, "wan-5b", entry)
    assert (row.application, row.position, row.name, row.kind) == ("wans", 3, "wan-5b", "wan")
    assert row.facts == {
        "roles": list(dict.fromkeys(offer.role for offer in KINDS["wan"].offers)),
        "limits": {"num_frames": 81, "max_area": 4096, "steps": 30},
        "defaults": {"num_frames": 17},
        "rate": 16.0,
        "source": "path:",
        "revision": "",
        "unmeasured": {},
    }
    upscaler = describe_model("a", 0, "b", ModelEntry.model_validate({"kind": "realesrgan"}))
    weights = {"source": SHIPPED.stem, "revision": "", "roles": ["upscale"]}
    assert upscaler.facts == {"limits": {}, "defaults": {}, "rate": None, **weights, "unmeasured": {}}
    editor = ModelEntry.model_validate({"kind": "qwen-edit", "weights": {"path": "."}, "vgg16": "random"})
    unmeasured = {"lpips_to_init": "lpips", "lpips_to_prev": "lpips"}
    assert describe_model("a", 0, "b", editor).facts["unmeasured"] == unmeasured


def test_a_graph_is_written_down_with_its_settings(cluster: Cluster) -> None:
    entry = GraphEntry.model_validate({"defaults": {"steps": 3}, "roles": {"describe": "eyes"}})
    row = describe_graph("graphs", 1, "v2v", entry)
    assert (row.position, row.kind, GraphEntry.model_validate(row.facts)) == (1, "graph", entry)
    with pytest.raises(ConfigError, match=r"must be one of v2v, .*, single, got 'v3v'") as caught:
        describe_graph("graphs", 1, "v3v", entry)
    assert caught.value.param == "graphs"
