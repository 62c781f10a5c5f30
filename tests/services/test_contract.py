"""The contract of every service, for all models; a new model is included by its entry in MODELS."""

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from services.catalogue import KINDS
from services.errors import Cancelled, DeviceFailed, InvalidParameter, LimitExceeded, ModelFailed
from services.frames import Fact, Frames, Item, StageDone
from services.limits import UNITS
from services.model import Role
from services.worker import ServiceInfo
from tests.services.contract import Subject, compare, count_forwards, fail_forwards

ROLES: Mapping[str, Role] = {
    (f"{kind}/{offer.role}" if index else kind): offer.role
    for kind, model in KINDS.items()
    for index, offer in enumerate(model.offers)
}
"""Model kind, with the role if it is not the first that the kind offers → the role."""
SAMPLED = [name for name, role in ROLES.items() if role not in ("describe", "face", "upscale")]
"""Those whose requests have a seed."""
VIDEOS = [name for name, role in ROLES.items() if role in ("image-to-video", "text-to-video")]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module", params=list(ROLES))
def subject(request: pytest.FixtureRequest, home: Path) -> Subject:
    return Subject(request.param, home)


sampled = pytest.mark.parametrize("subject", SAMPLED, indirect=True)
videos = pytest.mark.parametrize("subject", VIDEOS, indirect=True)


@pytest.fixture(scope="module")
def undisturbed(subject: Subject) -> list[Item]:
    """Items of the short request's stream."""
    return asyncio.run(subject.make())


def find_facts(items: list[Item]) -> dict[str, Any]:
    return {item.name: item.value for item in items if isinstance(item, Fact)}


# --- the stream ---------------------------------------------------------------------------------------------------


async def test_the_same_request_has_the_same_result(subject: Subject, undisturbed: list[Item]) -> None:
    assert compare(await subject.make()) == compare(undisturbed)


def test_a_stream_ends_with_who_did_it(subject: Subject, undisturbed: list[Item]) -> None:
    assert [index for index, item in enumerate(undisturbed, 1) if isinstance(item, StageDone)] == [len(undisturbed)]
    done = undisturbed[-1]
    assert isinstance(done, StageDone)
    source = subject.settings.source
    assert (done.model, done.source, done.revision) == (subject.model.kind, source, subject.settings.revision)
    assert (done.replica, done.seconds > 0) == (f"{subject.model.kind}#test cpu", True)


def test_frames_follow_each_other(undisturbed: list[Item]) -> None:
    runs = [item for item in undisturbed if isinstance(item, Frames)]
    assert all(after.first == before.stop for before, after in pairwise(runs))


@sampled
async def test_another_seed_has_another_result(subject: Subject, undisturbed: list[Item]) -> None:
    other = await subject.make({**subject.short, "seed": subject.short["seed"] + 10})
    pixels, others = ([item for item in items if isinstance(item, Frames)] for items in (undisturbed, other))
    assert not np.array_equal(pixels[0].pixels, others[0].pixels)


@sampled
async def test_a_seed_is_drawn_and_is_good_for_the_same_result(subject: Subject) -> None:
    drawn = await subject.make({**subject.short, "seed": -1})
    facts = find_facts(drawn)
    assert find_facts(await subject.make({**subject.short, "seed": -1}))["seed"] != facts["seed"]
    assert compare(await subject.make({**subject.short, "seed": facts["seed"]})) == compare(drawn)


@videos
@pytest.mark.parametrize("start", [1, 3, 100])
async def test_frames_before_the_start_are_kept_back(subject: Subject, undisturbed: list[Item], start: int) -> None:
    length = subject.short["num_frames"]
    start = min(start, length)
    whole = np.concatenate([item.pixels for item in undisturbed if isinstance(item, Frames)])
    runs = [item for item in await subject.make(start=start) if isinstance(item, Frames)]
    assert [index for run in runs for index in range(run.first, run.stop)] == list(range(start, length))
    for run in runs:
        assert np.array_equal(run.pixels, whole[run.first : run.stop])


# --- rejected requests --------------------------------------------------------------------------------------------


SETTINGS = {
    "max_area": "max_area",
    "max_new_tokens": "max_new_tokens",
    "n": "max_n",
    "num_frames": "max_frames",
    "steps": "max_steps",
}
"""Setting that limits a request's field, by field."""


def test_limits_are_those_of_the_settings(subject: Subject) -> None:
    request = subject.offer.request
    fields = set() if request is None else request.model_fields.keys()
    asked = fields | ({"max_area"} if "size" in fields else set())
    assert subject.settings.limits == {
        field: getattr(subject.settings, setting) for field, setting in SETTINGS.items() if field in asked
    }


async def test_a_field_beyond_its_limit_is_named(subject: Subject) -> None:
    limits = subject.settings.limits
    for field, unit in UNITS.items():
        if field in limits:
            request = subject.make_request(subject.short).model_copy(update={field: limits[field] + 1})
            with pytest.raises(LimitExceeded) as caught:
                await anext(subject.ask_with(request))
            message = f"{field}: at most {limits[field]} {unit}, got {limits[field] + 1}"
            assert (caught.value.param, caught.value.message) == (field, message)


@sampled
async def test_more_pixels_than_allowed_are_refused(subject: Subject) -> None:
    most = subject.settings.limits["max_area"]
    request = subject.make_request(subject.short)
    field, value = ("max_area", most + 1) if hasattr(request, "max_area") else ("size", "9984x9984")
    with pytest.raises(LimitExceeded) as caught:
        await anext(subject.ask_with(request.model_copy(update={field: value})))
    assert caught.value.param == field
    assert caught.value.message.startswith(f"{field}: at most {most} pixels, got ")


@videos
@pytest.mark.parametrize("beyond", [-1, 1])
async def test_a_start_that_is_not_in_the_video_is_refused(subject: Subject, beyond: int) -> None:
    length = subject.short["num_frames"]
    start = beyond if beyond < 0 else length + beyond
    with pytest.raises(InvalidParameter, match=f"start: must be 0 to {length}, got {start}") as caught:
        await anext(subject.ask(subject.short, start=start))
    assert caught.value.param == "start"


# --- cancellation -------------------------------------------------------------------------------------------------


async def drain(stream: Any) -> None:
    async with aclosing(stream):
        async for _ in stream:
            pass


async def test_closing_the_stream_stops_the_work_within_a_step(subject: Subject, undisturbed: list[Item]) -> None:
    with count_forwards() as short:
        await subject.make()
    with count_forwards(held=True) as long:
        reading = asyncio.create_task(drain(subject.ask(subject.long, large=True)))
        await long.begun.wait()
        before = long.count
        reading.cancel()
        await long.resume()
        with pytest.raises(asyncio.CancelledError):
            await reading
        # The running step and at most one more: a short request has at least as many.
        assert long.count - before <= 2 * short.count
        assert not (await subject.service.info()).busy
    assert compare(await subject.make()) == compare(undisturbed)


async def test_stop_ends_the_stream_of_that_key(subject: Subject) -> None:
    with count_forwards(held=True) as forwards:
        reading = asyncio.create_task(drain(subject.ask(subject.long, large=True, key="job")))
        await forwards.begun.wait()
        await subject.service.stop("another")
        assert (await subject.service.info()).busy
        await subject.service.stop("job")
        await forwards.resume()
        with pytest.raises(Cancelled):
            await reading


async def test_a_second_call_with_the_key_stops_the_first(subject: Subject, undisturbed: list[Item]) -> None:
    with count_forwards(held=True) as forwards:
        older = asyncio.create_task(drain(subject.ask(subject.long, large=True, key="job")))
        await forwards.begun.wait()
        newer = asyncio.create_task(subject.make(key="job"))
        await forwards.resume()
        with pytest.raises(Cancelled):
            await older
        assert compare(await newer) == compare(undisturbed)


async def test_requests_take_turns(subject: Subject, undisturbed: list[Item]) -> None:
    first, second = await asyncio.gather(subject.make(), subject.make())
    assert compare(first) == compare(second) == compare(undisturbed)


# --- reported information -----------------------------------------------------------------------------------------


async def test_info_says_what_is_loaded(subject: Subject) -> None:
    kind, settings = subject.model.kind, subject.settings
    info = await subject.service.info()
    assert info == ServiceInfo(
        kind, settings.source, settings.revision, f"{kind}#test cpu", busy=False, rate=subject.service.rate
    )
    subject.service.check_health()


async def test_too_little_memory_fails_the_request_alone(subject: Subject, undisturbed: list[Item]) -> None:
    with fail_forwards(torch.OutOfMemoryError("CUDA out of memory.")), pytest.raises(ModelFailed) as caught:
        await subject.make()
    assert caught.value.message.startswith("the GPU has too little memory for ")
    subject.service.check_health()
    assert compare(await subject.make()) == compare(undisturbed)


@pytest.mark.parametrize("kind", list(ROLES))
async def test_a_device_that_is_lost_is_told_by_the_health_check(kind: str, home: Path) -> None:
    lost = Subject(kind, home)
    error = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    with fail_forwards(error), pytest.raises(DeviceFailed):
        await lost.make()
    with pytest.raises(DeviceFailed, match="the GPU has failed; the replica will be replaced"):
        lost.service.check_health()
