"""The host of graphs: each run gets the chosen models and their defaults."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from composition.graphs.full_pipeline.request import FullPipelineRequest
from composition.graphs.request import GraphRequest
from composition.graphs.run import NOTHING_KNOWN, Known
from composition.graphs.single import SINGLES
from composition.media.encode import encode_png
from services.errors import InvalidParameter, ModelFailed, ServiceBusy, ServiceLost
from services.frames import Fact, Frames, Item, Progress, Result, StageDone
from services.wan.request import WanRequest
from tests.composition.deployed import Cluster, Hosted
from tests.composition.rolling import Gone, facts, of
from tests.composition.serving import Handle, noise
from tests.composition.studio import MODELS, Studio

PICTURE: dict[str, Any] = {"prompt": "a fox", "seed": 7, "animate": False}


class WanService:
    """A stand-in for Wan that records its requests and yields grey frames."""

    def __init__(self) -> None:
        self.asked: list[tuple[WanRequest, Frames, Frames | None, int, str]] = []

    async def animate(
        self, request: WanRequest, image: Frames, last_image: Frames | None = None, start: int = 0, key: str = ""
    ) -> AsyncGenerator[Item]:
        self.asked.append((request, image, last_image, start, key))
        yield Fact("seed", request.seed)
        for number in range(start, request.num_frames):
            yield Frames(np.full((1, 16, 16, 3), number, np.uint8), number, Fraction(16))
        yield StageDone("denoise", "wan", "nowhere", "", "wan#0", 0.5)

    async def stop(self, key: str) -> None:
        """Do nothing."""


class Stage:
    """A cluster with one host for all models of the full pipeline."""

    def __init__(self, folder: Path, studio: Studio | None = None, **defaults: dict[str, Any]) -> None:
        self.folder = folder
        self.studio = studio or Studio()
        self.handle = Handle(self.studio)
        self.cluster = Cluster(folder)
        self.cluster.host_models(
            {kind: Hosted(kind, self.handle, defaults=defaults.get(kind.replace("-", "_"), {})) for kind in MODELS}
        )
        self.cluster.host_graphs("full-pipeline", "single")

    def run(self, name: str, request: GraphRequest, known: Known = NOTHING_KNOWN) -> AsyncGenerator[Item]:
        return self.cluster.graphs.stream(name, "run", request, known)

    async def items(self, name: str, request: GraphRequest, known: Known = NOTHING_KNOWN) -> list[Item]:
        async with aclosing(self.run(name, request, known)) as items:
            return [item async for item in items]

    def picture(self) -> str:
        path = self.folder / "first.png"
        path.write_bytes(encode_png(noise(0, 32, 16)))
        return str(path)


def request(**fields: Any) -> FullPipelineRequest:
    return FullPipelineRequest.model_validate({**PICTURE, **fields})


async def test_a_graph_is_run_with_the_models_that_take_its_roles(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    items = await stage.items("full-pipeline", request(animate={"num_frames": 4}, upscale={"scale": 2}, restyle="ink"))
    assert sorted(done.model for done in of(StageDone, items)) == ["flux", "hunyuan-dit", "realesrgan", "svd"]
    assert facts(items)["seed"] == 7
    assert {result.name for result in of(Result, items)} == {"painted", "image", "hd"}


async def test_the_model_that_a_request_chooses_is_asked_and_no_other(tmp_path: Path) -> None:
    schnell, dev = Studio(), Studio()
    cluster = Cluster(tmp_path).host_graphs("full-pipeline")
    cluster.host_models({"schnell": Hosted("flux", schnell), "dev": Hosted("flux", dev)})
    for chosen, counts in (({}, (1, 0)), ({"text-to-image": "dev"}, (1, 1)), ({"text-to-image": "schnell"}, (2, 1))):
        async with aclosing(cluster.graphs.stream("full-pipeline", "run", request(models=chosen))) as items:
            assert [item.name async for item in items if isinstance(item, Result)] == ["image"]
        assert (schnell.count("flux"), dev.count("flux")) == counts


async def test_a_model_alone_is_run_by_its_id(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    asked = SINGLES["svd"].request.model_validate({"image": stage.picture(), "num_frames": 5, "seed": 3})
    items = await stage.items("svd", asked)
    assert [run.first for run in of(Frames, items)] == [0, 3]
    assert (facts(items)["frames_total"], stage.studio.asked[0][0]) == (5, "svd")


@pytest.mark.parametrize("name", ["wan-5b", "wan-i2v"])
async def test_wan_alone_is_asked_for_by_its_id_or_as_it_was_once(tmp_path: Path, name: str) -> None:
    service = WanService()
    stage = Stage(tmp_path)
    stage.cluster.host_models({"wan-5b": Hosted("wan", service, defaults={"num_frames": 9, "steps": 2})})
    fields = {"image": stage.picture(), "last_image": stage.picture(), "steps": 3, "prompt": "a fox"}
    items = await stage.items(name, SINGLES["wan"].request.model_validate(fields), Known("job", frames=4))
    assert [run.first for run in of(Frames, items)] == [4, 5, 6, 7, 8]
    assert facts(items)["frames_total"] == 9
    ((asked, image, last, start, key),) = service.asked
    assert (type(asked), asked.num_frames, asked.steps, asked.prompt) == (WanRequest, 9, 3, "a fox")
    assert (start, key) == (4, "job")
    assert last is not None
    assert np.array_equal(image.pixels, last.pixels)


async def test_defaults_fill_what_a_request_leaves_out(tmp_path: Path) -> None:
    """A request through a handle has no defaults yet."""
    stage = Stage(tmp_path, flux={"steps": 3}, svd={"num_frames": 4, "fps": 12}, hunyuan_dit={"strength": 0.25})
    await stage.items("full-pipeline", FullPipelineRequest(prompt="a fox", seed=7))
    (flux,), (svd,) = stage.studio.of("flux"), stage.studio.of("svd")
    assert (flux.steps, svd.num_frames, svd.fps) == (3, 4, 12)
    assert stage.studio.of("hunyuan-dit") == [], "the default of a stage does not turn it on"
    await stage.items("full-pipeline", request(restyle="ink"))
    (restyle,) = stage.studio.of("hunyuan-dit")
    assert (restyle.prompt, restyle.strength) == ("ink", 0.25)


async def test_what_is_not_served_is_left_out_or_refused(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.cluster.host_models({"flux": Hosted("flux", stage.handle)})
    items = await stage.items("full-pipeline", FullPipelineRequest(prompt="a fox", seed=7))
    assert [result.name for result in of(Result, items)] == ["image"]
    for asked, message in (
        (request(restyle="ink"), "restyle: no model for restyle is served here"),
        (
            request(models={"upscale": "realesrgan"}),
            "models.upscale: must be omitted, because no model for upscale is served here, got 'realesrgan'",
        ),
    ):
        with pytest.raises(InvalidParameter) as caught:
            await stage.items("full-pipeline", asked)
        assert caught.value.message == message
    for name in ("svd", "v2v", "single"):
        with pytest.raises(InvalidParameter, match=f"must be one of full-pipeline, flux, got '{name}'"):
            await stage.items(name, request())


async def test_a_graph_has_one_method(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    with pytest.raises(ModelFailed, match="method: must be run, got __init__"):
        async for _ in stage.cluster.graphs.stream("full-pipeline", "__init__", request()):
            pass
    assert stage.studio.asked == []


async def test_closing_ends_the_calls(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    async with aclosing(stage.run("full-pipeline", request(animate={"num_frames": 30}))) as items:
        async for item in items:
            if isinstance(item, Progress) and item.stage == "animate":
                break
    assert [call.cancelled for call in await stage.handle.rested()] == [True, True]
    assert stage.studio.working == 0


async def test_a_model_that_is_still_being_started_is_waited_for(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    del stage.cluster.handles["models"]
    with pytest.raises(ServiceBusy):
        await stage.items("full-pipeline", request())


async def test_an_error_of_a_model_is_the_graph_s(tmp_path: Path) -> None:
    stage = Stage(tmp_path, Studio({"flux:0": Gone()}))
    with pytest.raises(ServiceLost):
        await stage.items("full-pipeline", request())


async def test_before_a_second_run_each_model_is_told_to_stop(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    await stage.items("full-pipeline", request(), Known("job", again=True))
    assert stage.studio.stopped == ["job"] * len(MODELS)
