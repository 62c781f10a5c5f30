"""The two shipped configurations, as they are and with their commented-out lines."""

import re
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from ray.serve._private.build_app import build_app

from composition import app
from composition.configuration.blocks import Block
from composition.configuration.file import Configuration, parse_configuration
from composition.configuration.settings import FrontSettings
from composition.records.store import Store
from services.catalogue import KINDS
from services.errors import ConfigError
from services.weights.terms import find_terms

ROOT = Path(__file__).parents[3]
PRODUCTION, LOCAL = "serve_config.yaml", "serve_config.local.yaml"
GRAPHS = {"v2v", "full-pipeline", "rolling-edit", "storyboard", "single"}
MODELS = ("internvl", "wan", "qwen-edit", "flux", "svd", "realesrgan")
"""The models of the production file that are not commented out."""
COMMENT = re.compile(r"^( +)# ( *(?:- |<<:|[a-z_-]+:))", re.M)
"""A commented-out line of a configuration; lines of prose do not begin with a key."""


def raw_of(name: str, *, comments: bool = False) -> dict[str, Any]:
    text = (ROOT / name).read_text()
    return yaml.safe_load(COMMENT.sub(r"\1\2", text) if comments else text)


def read(name: str, **options: bool) -> Configuration:
    return parse_configuration(raw_of(name, **options), ROOT)


def without_models(models: set[str], home: Path, **front: Any) -> dict[str, Any]:
    """The production file with only these models, and with its state in `home`."""
    raw = raw_of(PRODUCTION)
    dropped = set(MODELS) - models
    raw["applications"] = [each for each in raw["applications"] if each["name"] not in dropped]
    for application in raw["applications"]:
        application["args"] |= {"home": str(home), **(front if application["name"] == "front" else {})}
    return raw


@pytest.mark.parametrize("name", [PRODUCTION, LOCAL])
@pytest.mark.parametrize("comments", [False, True])
def test_both_pass_rays_own_schema_and_ours(name: str, comments: bool) -> None:
    found = read(name, comments=comments)
    assert set(found.graphs) == GRAPHS
    assert set(found.models) >= set(MODELS)
    assert found.models["wan"].settings.max_frames >= 121
    for block in found.blocks:
        assert [deployment["name"] for deployment in block.raw["deployments"]] == [block.name]
    if comments:
        assert set(found.models) == set(KINDS), "both know every model"
    assert all(id_ == entry.kind for id_, entry in found.models.items()), "requests of older clients name kinds"


def test_production_is_an_application_for_each_thing() -> None:
    for comments in (False, True):
        found = read(PRODUCTION, comments=comments)
        assert {block.name for block in found.blocks} == {"front", "jobs", *found.models, *found.graphs}


def test_locally_there_is_one_process_for_models_and_one_for_graphs() -> None:
    assert [block.name for block in read(LOCAL).blocks] == ["front", "jobs", "models", "graphs"]


def test_production_reserves_scales_drains_and_refuses() -> None:
    of = {block.name: block.raw["deployments"][0] for block in read(PRODUCTION).blocks}
    for model in MODELS:
        assert of[model]["ray_actor_options"]["num_gpus"] == 1
        assert of[model]["autoscaling_config"]["max_replicas"] > 1
        assert of[model]["max_queued_requests"] > 0
    assert of["wan"]["graceful_shutdown_timeout_s"] >= 3600
    assert of["single"]["graceful_shutdown_timeout_s"] >= 3600, "it runs the jobs of wan alone"
    assert of["front"]["backpressure_config"]["status_code"] == 429


def test_production_pins_and_knows_the_licence_of_all_that_it_fetches() -> None:
    for name, entry in read(PRODUCTION, comments=True).models.items():
        weights = getattr(entry.settings, "weights", None)
        if weights is not None and weights.repository:
            assert re.fullmatch(r"[0-9a-f]{40}", weights.revision), name
            assert find_terms(weights).commercial != "unknown", name


def test_the_front_door_is_open_locally_and_shut_in_production() -> None:
    assert [_front(read(name)).auth for name in (LOCAL, PRODUCTION)] == ["none", "keys"]


def _front(found: Configuration) -> FrontSettings:
    return next(block.settings for block in found.blocks if isinstance(block.settings, FrontSettings))


@pytest.mark.parametrize(
    ("models", "names"),
    [
        ({"wan"}, {"wan"}),
        ({"qwen-edit"}, {"qwen-edit", "rolling-edit"}),
        ({"internvl", "wan"}, {"wan", "v2v"}),
        ({"svd"}, {"svd"}),
        ({"realesrgan"}, {"realesrgan"}),
        ({"flux"}, {"flux", "full-pipeline"}),
        ({"flux", "svd"}, {"flux", "svd", "full-pipeline", "storyboard"}),
        ({"internvl"}, set()),
    ],
)
def test_a_graph_is_there_when_its_models_are(tmp_path: Path, models: set[str], names: set[str]) -> None:
    found = parse_configuration(without_models(models, tmp_path), ROOT)
    assert set(found.models) == models
    assert set(found.snapshot.list_names()) == names


def test_text_to_video_can_make_the_scenes() -> None:
    raw = raw_of(PRODUCTION, comments=True)
    kept = ("text-to-video", "storyboard", "single")
    raw["applications"] = [each for each in raw["applications"] if each["name"] in kept]
    assert parse_configuration(raw, ROOT).snapshot.list_names() == ["text-to-video"]
    (board,) = [each for each in raw["applications"] if each["name"] == "storyboard"]
    board["args"]["graphs"]["storyboard"] = {"scenes_by": "text-to-video"}
    assert parse_configuration(raw, ROOT).snapshot.list_names() == ["storyboard", "text-to-video"]


# --- building -------------------------------------------------------------------------------------------------------


def build(block: Block) -> list[Any]:
    """Return the deployments that Serve would start for a block."""
    builder = getattr(app, str(block.raw["import_path"]).partition(":")[2])
    return cast("Any", build_app(builder(block.settings), name=block.name)).deployments


def built(block: Block) -> list[str]:
    return [deployment.name for deployment in build(block)]


@pytest.fixture(params=[PRODUCTION, LOCAL])
def blocks(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Block, ...]:
    raw = raw_of(request.param)
    for application in raw["applications"]:
        application["args"] |= {"home": str(tmp_path)}
    return parse_configuration(raw, ROOT).blocks


def test_each_block_is_one_deployment_of_its_name(blocks: tuple[Block, ...], tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'reelgraph.db'}")
    store.add_key("ann")
    for block in blocks:
        assert built(block) == [block.name]
    rows = {(row.application, row.name): row.kind for row in store.list_deployed()}
    store.close()
    hosted = {(block.name, name): "graph" for block in blocks for name in block.graphs}
    hosted |= {(block.name, name): entry.kind for block in blocks for name, entry in block.models.items()}
    assert rows == hosted


def test_production_does_not_open_without_a_key(tmp_path: Path) -> None:
    (door,) = [
        block for block in parse_configuration(without_models(set(), tmp_path), ROOT).blocks if block.name == "front"
    ]
    with pytest.raises(ConfigError, match="reel keys create"):
        built(door)
    opened = parse_configuration(without_models(set(), tmp_path, auth="none"), ROOT).blocks[0]
    assert built(opened) == ["front"]


def test_an_older_file_is_refused_by_serve_deploy_too() -> None:
    with pytest.raises(ConfigError, match=r"docs/configuration\.md"):
        app.build({"wan": {}})


def test_offline_reaches_the_weights_of_every_model(tmp_path: Path) -> None:
    (given,) = [block for block in read(LOCAL).blocks if block.models]
    block = given.replace_args({**given.raw["args"], "home": str(tmp_path), "offline": True})
    (deployment,) = build(block)
    hosted = deployment.init_args[0]
    named = [hosted[name].settings.weights for name in ("internvl", "wan", "qwen-edit", "flux", "hunyuan-dit", "svd")]
    named += [hosted["flux"].settings.identity.weights, hosted["instantid"].settings.recogniser]
    assert all(weights.offline for weights in named)
    assert not block.models["wan"].settings.weights.offline
