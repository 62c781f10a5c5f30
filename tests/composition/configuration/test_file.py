"""Reading a configuration file: relative paths, validation, consistency and `only`."""

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from composition.configuration.file import (
    LOCAL_CONFIG,
    Configuration,
    load_configuration,
    parse_configuration,
    read_configuration,
    select_models,
)
from composition.configuration.settings import LEGACY_MESSAGE
from services.errors import ConfigError

ARTIFACTS = {"url": "s3://bucket/reelgraph", "options": {"key": "me", "secret": "xyz"}}
WEIGHTS = {"weights": {"path": "w"}}
WAN, SVD, FLUX, INTERNVL = ({"kind": kind, **WEIGHTS} for kind in ("wan", "svd", "flux", "internvl"))


def models(name: str, **entries: Any) -> dict[str, Any]:
    """Return an application that hosts models; `_` in a keyword stands for `-` in an id."""
    return _application(name, "models", models={id_.replace("_", "-"): entry for id_, entry in entries.items()})


def graphs(name: str, **entries: Any) -> dict[str, Any]:
    return _application(name, "graphs", graphs={id_.replace("_", "-"): entry for id_, entry in entries.items()})


def front(**args: Any) -> dict[str, Any]:
    return {**_application("front", "front", **args), "route_prefix": "/"}


def _application(name: str, builder: str, **args: Any) -> dict[str, Any]:
    hosted = args.get("models") or args.get("graphs") or {}
    named = {"application": name} if len(hosted) > 1 else {}
    path = f"composition.app:{builder}"
    return {"name": name, "route_prefix": None, "import_path": path, "args": {**named, **args}}


def with_args(application: dict[str, Any], /, **args: Any) -> dict[str, Any]:
    return {**application, "args": {**application["args"], **args}}


def parse(*applications: dict[str, Any]) -> Configuration:
    return parse_configuration({"applications": list(applications)}, Path("/conf"))


def refusal(*applications: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(*applications)
    return caught.value.message


def write(folder: Path, *applications: dict[str, Any], **more: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"applications": list(applications), **more}))
    return folder / "config.yaml"


# --- paths ----------------------------------------------------------------------------------------------------------


def test_relative_paths_begin_at_the_folder_of_the_file(tmp_path, monkeypatch):
    elsewhere = {"path": str(tmp_path / "elsewhere")}
    flux = {**FLUX, "weights": elsewhere, "identity": {"weights": {"path": "../identity"}}, "lora_dir": "loras"}
    wan = {"kind": "wan", "weights": {"path": "checkpoints/wan"}, "loras": [{"file": "ink.safetensors"}]}
    state = {"artifacts": ARTIFACTS, "home": "state"}
    write(tmp_path / "conf", with_args(models("both", wan=wan, flux=flux), **state))
    monkeypatch.chdir(tmp_path)
    (application,) = read_configuration(Path("conf/config.yaml")).applications
    assert application.args == {
        "application": "both",
        "models": {
            "wan": {**wan, "weights": {"path": str(tmp_path / "conf" / "checkpoints" / "wan")}},
            "flux": {
                "kind": "flux",
                "weights": elsewhere,
                "identity": {"weights": {"path": f"{tmp_path}/conf/../identity"}},
                "lora_dir": str(tmp_path / "conf" / "loras"),
            },
        },
        "artifacts": ARTIFACTS,
        "home": str(tmp_path / "conf" / "state"),
    }


def test_a_home_of_the_user_s_stays():
    (block,) = parse(with_args(front(), home="~/films")).blocks
    assert block.raw["args"]["home"] == "~/films"


def test_the_local_file_names_folders_of_the_checkout():
    found = load_configuration().models
    folder = LOCAL_CONFIG.parent / "miniatures" / "checkpoints"
    assert found["wan"].settings.weights.path == folder / "wan"
    assert found["instantid"].settings.recogniser.path == folder / "recogniser"


# --- other projects' applications -----------------------------------------------------------------------------------


def test_host_and_port_are_taken_from_the_command_line(tmp_path):
    file = write(tmp_path, front(), http_options={"host": "0.0.0.0", "port": 7})
    assert read_configuration(file).http_options.port == 7
    http = read_configuration(file, "127.0.0.1", 9).http_options
    assert (http.host, http.port) == ("127.0.0.1", 9)


def test_another_application_passes_untouched(tmp_path):
    other = {"name": "theirs", "route_prefix": "/theirs", "import_path": "their.module:app", "args": {"path": "x"}}
    ours, theirs = read_configuration(write(tmp_path, front(), other)).applications
    assert (ours.name, theirs.name, theirs.args) == ("front", "theirs", {"path": "x"})


@pytest.mark.parametrize(
    ("place", "more"),
    [
        ("proxy_locations", {"proxy_locations": "HeadOnly"}),
        ("http_options.hots", {"http_options": {"hots": "127.0.0.1"}}),
    ],
)
def test_a_key_that_ray_would_pass_over_is_refused(place, more):
    with pytest.raises(ConfigError, match=f"{place}: there is no such field"):
        parse_configuration({"applications": [front()], **more}, Path("/"))


@pytest.mark.parametrize(
    ("place", "deployment"),
    [
        ("max_queued_request", {"max_queued_request": 5}),
        ("ray_actor_options.num_gpu", {"ray_actor_options": {"num_gpu": 1}}),
        ("autoscaling_config.max_replica", {"autoscaling_config": {"max_replica": 2}}),
    ],
)
def test_so_is_one_of_a_deployment(place, deployment):
    application = {**models("wan", wan=WAN), "deployments": [{"name": "wan", **deployment}]}
    assert refusal(application) == f"applications.wan.deployments.wan.{place}: there is no such field"


def test_all_that_ray_knows_passes():
    options = {
        "num_replicas": None,
        "autoscaling_config": {"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 1},
        "ray_actor_options": {"num_gpus": 1, "runtime_env": {"env_vars": {"A": "b"}}, "resources": {"tpu": 1}},
        "user_config": {"anything": 1},
        "logging_config": {"log_level": "DEBUG"},
        "backpressure_config": {"status_code": 429},
    }
    assert parse({**models("wan", wan=WAN), "deployments": [{"name": "wan", **options}]}).blocks


def test_a_policy_that_cannot_be_imported():
    scaling = {"max_replicas": 2, "policy": {"policy_function": "no.such:policy"}}
    application = {**models("wan", wan=WAN), "deployments": [{"name": "wan", "autoscaling_config": scaling}]}
    assert refusal(application) == "applications: No module named 'no'"


# --- invalid files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("applications: []", "applications: must have at least 1 application, got 0"),
        ("applications: {", "while parsing a flow"),
        ("7", "valid dictionary"),
        ("applications: [{name: a}]", "import_path: field required"),
        ("applications: [{name: a, import_path: 'composition.app:models'}]", "application a: args.models: field requ"),
    ],
)
def test_a_file_that_cannot_be_is_named(tmp_path, text, words):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        read_configuration(tmp_path / "config.yaml")
    assert str(tmp_path / "config.yaml") in caught.value.message


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: .*No such file"):
        read_configuration(tmp_path / "none.yaml")


@pytest.mark.parametrize("path", ["composition.app:build", "composition.app.build"])
def test_an_older_file_is_refused_with_the_way_out(tmp_path, path):
    old = {"name": "reelgraph", "import_path": path, "args": {"wan": WEIGHTS}}
    with pytest.raises(ConfigError) as caught:
        read_configuration(write(tmp_path, old))
    assert caught.value.message == f"{tmp_path / 'config.yaml'}: {LEGACY_MESSAGE}"
    assert "docs/configuration.md" in LEGACY_MESSAGE


@pytest.mark.parametrize(
    ("application", "message"),
    [
        (models("wan", wan={**WAN, "kind": "sora"}), "models.wan: kind: must be one of internvl, wan, "),
        (models("wan", wan={"kind": "wan", "weights": 7}), "models.wan.weights: input should be a valid dict"),
        (models("wan", wan={**WAN, "max_framez": 9}), "models.wan.max_framez: there is no such field"),
        (models("wan", wan={"kind": "wan", "weights": {"path": "w", "x": 1}}), "models.wan.weights.x: there is no"),
        (models("Wan", Wan=WAN), "models.Wan: string should match pattern"),
        (graphs("v2v", v2v={"roles": {"paint": "wan"}}), "graphs.v2v.roles.paint: input should be 'describe', 'face'"),
        (graphs("v2v", v2v=None), "graphs.v2v: input should be a valid dictionary"),
        (front(auth="maybe"), "auth: input should be 'keys' or 'none', got 'maybe'"),
        (front(queue=1), "queue: there is no such field"),
    ],
)
def test_a_field_that_cannot_be_is_named_with_its_application(application, message):
    assert f"application {application['name']}: args.{message}" in refusal(application)


def test_everything_that_is_wrong_with_a_block_is_said_at_once():
    told = refusal(models("both", wan={**WAN, "steps": 1}, svd={"kind": "svd"}))
    assert told.splitlines() == [
        "application both: args.models.wan.steps: there is no such field",
        "application both: args.models.svd.weights: field required",
    ]


# --- consistency ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("application", "message"),
    [
        ({**models("wan", wan=WAN), "name": "film"}, "application film: name: must be wan, the name of what it hosts"),
        (
            with_args(models("film", wan=WAN, svd=SVD), application="films"),
            "application film: name: must be films, the value of `application`",
        ),
        (
            with_args(models("film", wan=WAN, svd=SVD), application=None),
            "application: a name is required for an application that hosts several models or graphs, got wan, svd",
        ),
        ({**front(), "name": "door"}, "application door: name: must be front, the name of what it hosts"),
        (
            {**models("wan", wan=WAN), "deployments": [{"name": "internvl"}]},
            "application wan: deployments: the name must be wan, that of the application, got 'internvl'",
        ),
        (
            {**models("wan", wan=WAN), "route_prefix": "/wan"},
            "application wan: route_prefix: must be null, because only the front door serves HTTP, got '/wan'",
        ),
        (
            graphs("v3v", v3v={}),
            "application v3v: graphs: must be one of v2v, full-pipeline, rolling-edit, storyboard, single, got 'v3v'",
        ),
    ],
)
def test_names_are_what_they_must_be(application, message):
    assert refusal(application) == message


def test_state_is_the_same_everywhere():
    state = {"database": "postgresql://u:secret@db/x", "media": {"max_side": 4096}}
    told = refusal(with_args(front(), **state), models("wan", wan=WAN), with_args(models("svd", svd=SVD), **state))
    assert told.startswith("database: must be the same in all applications, but differs in front and wan;")
    assert "secret" not in told
    media = refusal(front(), with_args(models("svd", svd=SVD), media={"max_side": 4096}))
    assert media.startswith("media: must be the same in all applications, but differs in front and svd;")
    assert parse(with_args(front(), home="h"), with_args(models("svd", svd=SVD), home="/conf/h")).state.home


def test_a_name_is_one_thing():
    assert refusal(models("a", a=WAN, b=SVD), models("b", b=SVD)) == (
        "models.b: the name must be unique, but is used by the model of application a and the model of application b"
    )
    one, two = graphs("v2v", v2v={}), graphs("both", v2v={}, single={})
    assert "graph of application v2v and the graph of application both" in refusal(one, two)
    told = refusal(with_args(models("x", v2v=WAN, y=SVD), application="x"), one)
    assert (
        told
        == "graphs.v2v: the name must be unique, but is used by the model of application x and the graph of "
        + ("application v2v")
    )


def test_two_models_of_a_kind_are_two_models():
    found = parse(models("wan-a14b", wan_a14b=WAN), models("wan-5b", wan_5b=WAN), graphs("single", single={}))
    assert list(found.models) == ["wan-a14b", "wan-5b"]
    assert found.snapshot.list_names() == ["wan-a14b", "wan-5b"]


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ({"image-to-video": "wan-5b"}, None),
        ({"image-to-video": "sora"}, "must be a model that can take the role (wan, wan-5b), got sora"),
        ({"image-to-video": "svd"}, "must be a model that can take the role (wan, wan-5b), got svd"),
        ({"describe": "internvl"}, "must be a model that can take the role (none is served), got internvl"),
        ({"face": "instantid"}, "v2v has no such role; its roles are describe, image-to-video"),
    ],
)
def test_a_role_goes_to_a_model_that_can_take_it(roles, message):
    applications = [models("m", wan=WAN, wan_5b=WAN, svd=SVD), graphs("v2v", v2v={"roles": roles})]
    if message is None:
        assert parse(*applications).graphs["v2v"].roles == roles
        return
    assert refusal(*applications) == f"graphs.v2v.roles.{next(iter(roles))}: {message}"


def test_so_does_one_of_the_front_door():
    applications = [models("flux", flux=FLUX), front(roles={"text-to-image": "flux"})]
    assert parse(*applications).blocks
    assert refusal(models("svd", svd=SVD), front(roles={"text-to-image": "svd"})) == (
        "application front: roles.text-to-image: must be a model that can take the role (none is served), got svd"
    )


@pytest.mark.parametrize(
    ("application", "place"),
    [
        (models("wan", wan={**WAN, "defaults": {"step": 8}}), "models.wan"),
        (graphs("v2v", v2v={"defaults": {"step": 8}}), "graphs.v2v"),
        (graphs("single", single={"defaults": {"steps": 8}}), "graphs.single"),
    ],
)
def test_a_default_of_no_field_is_refused(application, place):
    assert refusal(application).startswith(f"{place}.defaults: requests have no field 'step")


def test_a_storyboard_s_defaults_are_those_of_its_form():
    film = {"defaults": {"num_frames": 16}, "scenes_by": "text-to-video"}
    assert "have no field 'num_frames'" in refusal(graphs("storyboard", storyboard=film))
    assert parse(graphs("storyboard", storyboard={"defaults": {"crossfade_s": 1.0}})).graphs


# --- only -----------------------------------------------------------------------------------------------------------

SERVED = (
    front(roles={"text-to-image": "flux"}),
    models("film", wan=WAN, wan_5b=WAN, svd=SVD),
    models("internvl", internvl=INTERNVL),
    models("flux", flux=FLUX),
    graphs("v2v", v2v={"roles": {"image-to-video": "wan-5b"}}),
    graphs("full-pipeline", full_pipeline={}),
    graphs("single", single={}),
)


@pytest.mark.parametrize(
    ("only", "blocks", "left", "names"),
    [
        (
            ["v2v"],
            ["front", "film", "internvl", "v2v", "single"],
            ["wan", "wan-5b", "internvl"],
            ["v2v", "wan", "wan-5b"],
        ),
        (["wan-i2v"], ["front", "film", "single"], ["wan"], ["wan"]),
        (["wan-5b", "internvl"], ["front", "film", "internvl", "v2v", "single"], ["wan-5b", "internvl"], None),
        (["internvl"], ["front", "internvl", "single"], ["internvl"], []),
        (["full-pipeline"], ["front", "film", "flux", "full-pipeline", "single"], ["svd", "flux"], None),
    ],
)
def test_what_is_not_needed_is_left_out(only, blocks, left, names):
    before = deepcopy(SERVED)
    found = select_models(parse(*SERVED), only)
    assert [block.name for block in found.blocks] == blocks
    assert list(found.models) == left
    assert names is None or found.snapshot.list_names() == names
    assert before == SERVED
    again = [dict(block.raw) for block in found.blocks]
    assert list(parse(*again).models) == left


def test_roles_of_what_is_left_out_are_no_longer_given():
    found = select_models(parse(*SERVED), ["wan", "internvl"])
    assert found.graphs["v2v"].roles == {}
    assert found.blocks[0].raw["args"] == {"roles": {}}
    assert select_models(parse(*SERVED), ["v2v"]).graphs["v2v"].roles == {"image-to-video": "wan-5b"}


@pytest.mark.parametrize("name", ["upscale", "single", "storyboard"])
def test_an_unknown_name_lists_what_there_is_once_each(name):
    with pytest.raises(ConfigError) as caught:
        select_models(parse(*SERVED), ["v2v", name])
    assert caught.value.message == (
        f"only: must be one of v2v, full-pipeline, wan, wan-5b, svd, flux, internvl, got '{name}'"
    )


def test_what_is_left_of_a_narrowed_file_begins_at_its_folder_too(tmp_path):
    config = read_configuration(write(tmp_path, front(), models("m", wan=WAN, svd=SVD)), only=["svd"])
    assert config.applications[1].args["models"] == {"svd": {"kind": "svd", "weights": {"path": str(tmp_path / "w")}}}


@pytest.mark.parametrize("only", [["full-pipeline"], ["wan"], ["storyboard", "realesrgan"]])
def test_the_local_file_can_be_narrowed(only):
    assert read_configuration(LOCAL_CONFIG, only=only).applications


# --- documentation --------------------------------------------------------------------------------------------------

PAGE = LOCAL_CONFIG.parent / "docs" / "configuration.md"
EXAMPLES = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(applications:.*?)```", PAGE.read_text(), re.S)]


def test_the_page_says_how_to_move():
    first, before, after = EXAMPLES
    assert parse_configuration(first, Path("/")).snapshot.list_names() == ["wan-a14b"]
    with pytest.raises(ConfigError, match=r"before 0\.2"):
        parse_configuration(before, Path("/"))
    moved = parse_configuration(after, Path("/"))
    assert moved.snapshot.list_names() == ["v2v", "wan"]
    assert moved.snapshot.assign_models("v2v", {}).complete_fields({}) == {"steps": 20}
    assert moved.snapshot.assign_models("wan-i2v", {}).complete_fields({}) == {"steps": 30}
    assert moved.state.database == before["applications"][0]["args"]["database"]
