"""The limit of cost: requests that cost more than a deployment allows are refused with the arithmetic."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from miniatures.random import written
from services.catalogue import KINDS
from services.cost import Cost, Job, Phase, check_cost, make_jobs
from services.errors import LimitExceeded
from services.flux.request import FluxRequest
from services.footprint import GPU_RUNTIME, HOST_RUNTIME, measure_footprint
from services.frames import Frames
from services.weights.folder import describe_folder
from services.weights.weights import Weights


def make_cost(flop: float, passes: int) -> Cost:
    return Cost((Phase("text", 1, 2e15, 0), Phase("net", passes, flop, 0)), "net", "64x64 pixels")


def test_a_cost_is_compared_with_its_limit():
    check_cost(make_cost(1e15, 8), 10)
    with pytest.raises(LimitExceeded) as caught:
        check_cost(make_cost(1e15, 9), 10)
    assert caught.value.param == "steps"
    assert caught.value.status == 422
    assert caught.value.message == (
        "steps: a request may cost at most 10 PFLOP, and this one costs 11.0: 9 forward passes of 1.000 PFLOP for "
        "64x64 pixels, and 2.0 before and after them; ask for fewer steps or frames, or a smaller size"
    )


async def collect(stream: Any) -> list[Any]:
    return [item async for item in stream]


def load(kind: str, form: str, home: Path, **settings: Any) -> Any:
    model, weights = KINDS[kind], written(kind, form, home)
    fields: Mapping[str, Any] = {"weights": Weights(path=weights.path), "device": "cpu", "dtype": "float32", **settings}
    return model.load(model.settings(**fields), home, lambda: "test cpu")


def test_a_service_refuses_what_costs_too_much(tmp_path):
    flux = load("flux", "tiny", tmp_path, max_pflop=1e-9)
    request = FluxRequest(prompt="a cat", size="64x64", steps=2, seed=1)
    with pytest.raises(LimitExceeded, match=r"at most 1e-09 PFLOP, and this one costs .*: 2 forward passes of"):
        flux.generate_image(request)
    free = load("flux", "tiny", tmp_path, max_pflop=1.0)
    assert asyncio.run(collect(free.generate_image(request)))


def test_wan_refuses_by_its_frames(tmp_path):
    wan = load("wan", "a14b", tmp_path, vae_dtype="float32", max_pflop=1.0)
    request, kind = KINDS["wan"].offers[0].request, KINDS["wan"]
    assert request is not None
    assert kind.costs is not None
    folder = written("wan", "a14b", tmp_path).path
    assert folder is not None
    settings = kind.settings(weights=Weights(path=folder), dtype="float32")
    few, many = (
        kind.costs.estimate(describe_folder(folder), settings, Job(request(num_frames=n, steps=2), 64 * 64)).flop
        for n in (5, 41)
    )
    limit = (few + many) / 2 / 1e15
    wan = load("wan", "a14b", tmp_path, vae_dtype="float32", max_pflop=limit)
    picture = Frames(np.zeros((1, 64, 64, 3), np.uint8))
    wan.animate(request(num_frames=5, steps=2, size="64x64"), picture)
    with pytest.raises(LimitExceeded, match="4,096 pixels and 41 frames"):
        wan.animate(request(num_frames=41, steps=2, size="64x64"), picture)


def test_two_jobs_enclose_all_requests():
    jobs = make_jobs(FluxRequest, {"steps": 50, "n": 4, "max_area": 2_000_000}, {"steps": 4, "other": 1})
    assert (jobs.default.request.steps, jobs.default.area) == (4, 1024 * 1024)
    assert (jobs.largest.request.steps, jobs.largest.request.n, jobs.largest.area) == (50, 4, 2_000_000)


@pytest.mark.parametrize("offload", ["none", "model", "group"])
def test_offloading_moves_weights_to_the_host(tmp_path, offload):
    folder = written("flux", "tiny", tmp_path).path
    assert folder is not None
    checkpoint = describe_folder(folder)
    costs, settings = KINDS["flux"].costs, KINDS["flux"].settings(weights=Weights(path=folder), dtype="float32")
    assert costs is not None
    cost = costs.estimate(checkpoint, settings, Job(FluxRequest(prompt="a cat"), 64 * 64))
    found = measure_footprint(checkpoint, cost, offload)
    every = sum(part.parameters for part in checkpoint.components) * 4
    assert found.host_bytes == every + HOST_RUNTIME
    assert found.gpu["runtime"] == GPU_RUNTIME
    assert (found.gpu["weights"] == every) == (offload == "none")
    assert found.gpu["weights"] <= every
