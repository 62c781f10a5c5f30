"""The registry: caching, failures of the database or of Serve, and frame rates that only a loaded model knows."""

import asyncio
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from composition.configuration.registry import Registry, Timeouts
from composition.records.store import Store
from composition.records.tables import Deployed, Job
from services.errors import LimitExceeded, ModelFailed, ServiceBusy
from services.worker import ServiceInfo
from tests.composition.deployed import TRANSPORT, Cluster, Hosted
from tests.composition.ordering import Counter
from tests.composition.rolling import Full, Gone


class Away(Store):
    """A database that can be unavailable."""

    away = False

    def list_deployed(self) -> list[Deployed]:
        if self.away:
            raise OperationalError("SELECT", {}, Exception("no answer"))
        return super().list_deployed()


class Controller:
    """A stand-in for Serve: the states of the applications, or no answer."""

    def __init__(self, states: Mapping[str, str]) -> None:
        self.states = states
        self.away = False

    def ask(self) -> Mapping[str, str]:
        if self.away:
            raise Gone
        return self.states


# Caching.


def test_what_was_read_a_moment_ago_is_not_read_again(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, Timeouts(cache_s=3600)).host_models({"wan": Hosted("wan")})
    first = cluster.served.read_snapshot()
    cluster.host_models({"svd": Hosted("svd")})
    assert cluster.served.read_snapshot() is first
    assert cluster.asked == 1


def test_what_is_deployed_anew_is_seen(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path).host_models({"wan": Hosted("wan")})
    assert list(cluster.served.read_snapshot().models) == ["wan"]
    cluster.host_models({"svd": Hosted("svd"), "wan": Hosted("wan")})
    assert list(cluster.served.read_snapshot().models) == ["svd", "wan"]
    cluster.states["models"] = "UNHEALTHY"
    assert cluster.served.read_snapshot().models["svd"].state == "UNHEALTHY"


# Failures.


@pytest.mark.parametrize("what", ["database", "controller"])
def test_what_was_read_last_holds_while_the_other_side_is_away(tmp_path: Path, what: str) -> None:
    cluster = Cluster(tmp_path).host_models({"wan": Hosted("wan")})
    store, controller = Away(cluster.url), Controller(cluster.states)
    served = Registry(store, controller.ask, cluster.open_handle, TRANSPORT, Timeouts(cache_s=0))
    there = store if what == "database" else controller
    there.away = True
    with pytest.raises(ServiceBusy, match="not available yet; try again later"):
        served.read_snapshot()
    there.away = False
    known = served.read_snapshot()
    there.away = True
    cluster.host_models({"svd": Hosted("svd")})
    assert served.read_snapshot() is known
    assert served.read_snapshot() is known
    there.away = False
    assert list(served.read_snapshot().models) == ["svd"]


# Rates.


class Measuring:
    """A model whose rate is known only when it is loaded.

    Args:
        rate: frames per second.
        error: raised instead of an answer.
        silent: whether it never answers.
    """

    def __init__(self, rate: Fraction | None, error: Exception | None = None, *, silent: bool = False) -> None:
        self.rate, self.error, self.silent = rate, error, silent
        self.asked = 0

    async def info(self) -> ServiceInfo:
        self.asked += 1
        if self.silent:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        return ServiceInfo("wan", "nowhere", "", "wan#1", busy=False, rate=self.rate)


def wans(counter: Counter, **models: Hosted) -> Counter:
    """Deploy these models instead of the one Wan."""
    counter.cluster.host_models(
        {"internvl": Hosted("internvl"), **{name.replace("_", "-"): hosted for name, hosted in models.items()}}
    )
    return counter


async def test_seconds_count_at_the_rate_of_the_model_that_is_chosen(counter: Counter) -> None:
    wans(counter, wan_a14b=Hosted("wan", rate=16), wan_5b=Hosted("wan", rate=24))
    job = await counter.video(seconds=2)
    assert (job.params["num_frames"], job.params["models"]["image-to-video"]) == (33, "wan-a14b")
    for chosen in ({"image-to-video": "wan-5b"}, '{"image-to-video": "wan-5b"}'):
        job = await counter.video(seconds=2, models=chosen)
        assert (job.params["num_frames"], job.params["models"]["image-to-video"]) == (49, "wan-5b")
    alone = await counter.ordered("wan-5b", image=counter.first.id, seconds=2)
    assert (alone.params["num_frames"], alone.params["models"]) == (49, {"image-to-video": "wan-5b"})
    older = await counter.ordered("wan-i2v", image=counter.first.id, seconds=2)
    assert (older.model, older.params["num_frames"]) == ("wan-i2v", 33)


async def test_the_limits_are_those_of_the_model_that_is_chosen(counter: Counter) -> None:
    wans(counter, wan_a14b=Hosted("wan", limits={"num_frames": 121}), wan_5b=Hosted("wan", limits={"num_frames": 17}))
    assert (await counter.video()).params["num_frames"] == 121
    with pytest.raises(LimitExceeded, match="num_frames: 121 is more than the limit of 17"):
        await counter.video(models={"image-to-video": "wan-5b"})


async def test_a_rate_that_only_the_model_knows_is_asked_for_once(counter: Counter) -> None:
    model = Measuring(Fraction(12))
    wans(counter, wan=Hosted("wan", model))
    for _ in range(3):
        assert (await counter.video(seconds=2)).params["num_frames"] == 25
    assert model.asked == 1
    await counter.video(num_frames=13, seconds=2)
    assert model.asked == 1
    counter.cluster.states["models"], model.rate = "UPDATING", Fraction(24)
    assert (await counter.video(seconds=2)).params["num_frames"] == 49
    counter.cluster.states["models"] = "HEALTHY"
    assert (await counter.video(seconds=2)).params["num_frames"] == 49
    assert model.asked == 2
    model.rate = Fraction(8)
    wans(counter, wan=Hosted("wan", model))
    assert (await counter.video(seconds=2)).params["num_frames"] == 17, "it was deployed anew"
    assert model.asked == 3


async def test_nobody_is_asked_for_a_rate_where_no_seconds_are(counter: Counter) -> None:
    model = Measuring(Fraction(12))
    wans(counter, wan=Hosted("wan", model))
    assert (await counter.video(num_frames=13)).params["num_frames"] == 13
    assert model.asked == 0


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Measuring(None, Full()), "the frame rate of wan is not known yet, its state is HEALTHY; give num_frames"),
        (Measuring(None, Gone()), "the frame rate of wan is not known yet, its state is HEALTHY; give num_frames"),
        (Measuring(None, silent=True), "the frame rate of wan is not known yet, its state is HEALTHY; give num_frames"),
        (Measuring(None), "wan has no frame rate; give num_frames"),
    ],
)
async def test_a_model_that_does_not_say_its_rate_is_busy(tmp_path: Path, model: Measuring, words: str) -> None:
    cluster = Cluster(tmp_path, Timeouts(cache_s=0, answer_s=0.01))
    cluster.host_models({"wan": Hosted("wan", model)}).host_graphs("single")
    with pytest.raises(ServiceBusy, match=f"seconds: {words}") as caught:
        await cluster.served.find_rate(cluster.served.read_snapshot().assign_models("wan", {}))
    assert (caught.value.param, caught.value.retryable) == ("seconds", True)
    model.error, model.rate, model.silent = None, Fraction(16), False
    assert await cluster.served.find_rate(cluster.served.read_snapshot().assign_models("wan", {})) == 16


async def test_what_has_no_rate_of_its_own_has_none(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path).host_models({"svd": Hosted("svd"), "flux": Hosted("flux")})
    cluster.host_graphs("single", "full-pipeline")
    for name in ("svd", "full-pipeline"):
        assert await cluster.served.find_rate(cluster.served.read_snapshot().assign_models(name, {})) == 0


# Stored jobs.


def job(model: str, **models: str) -> Job:
    chosen = {role.replace("_", "-"): name for role, name in models.items()}
    return Job(id="video_1", owner="", model=model, params={"models": chosen} if models else {}, media={}, created_at=1)


def test_a_stored_job_finds_what_runs_it(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path).host_models({"eyes": Hosted("internvl"), "wan-5b": Hosted("wan")})
    cluster.host_graphs("v2v", "single")
    served = cluster.served
    for stored in (job("v2v"), job("v2v", describe="eyes"), job("wan-5b"), job("wan-i2v", image_to_video="wan-5b")):
        _, request = served.find_graph(stored)
        assert request is served.read_snapshot().assign_models(stored.model, {}).request


@pytest.mark.parametrize(
    ("stored", "message", "param"),
    [
        (job("rolling-edit"), "model: must be one of v2v, wan-5b, got 'rolling-edit'", "model"),
        (
            job("v2v", image_to_video="wan-a14b"),
            "models.image-to-video: must be one of wan-5b, got 'wan-a14b'",
            "models.image-to-video",
        ),
        (job("wan-a14b"), "model: must be one of v2v, wan-5b, got 'wan-a14b'", "model"),
        (
            job("wan-i2v", image_to_video="wan-a14b"),
            "models.image-to-video: must be wan-5b, the model of the job, got 'wan-a14b'",
            "models.image-to-video",
        ),
    ],
)
def test_a_stored_job_of_what_is_no_longer_served(tmp_path: Path, stored: Job, message: str, param: str) -> None:
    cluster = Cluster(tmp_path).host_models({"eyes": Hosted("internvl"), "wan-5b": Hosted("wan")})
    cluster.host_graphs("v2v", "single")
    with pytest.raises(ModelFailed) as caught:
        cluster.served.find_graph(stored)
    assert (caught.value.message, caught.value.param) == (f"the job can no longer be run: {message}", param)
    assert not caught.value.retryable
