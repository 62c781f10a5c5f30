"""Measures the cost of the call that stores a job, against a plain FastAPI call on the same Ray Serve."""

import time
from collections.abc import Callable
from typing import Any, cast

import httpx
from fastapi import FastAPI, Request
from ray import serve

from benchmarks.report import Goal, Report, Row, find_spread, measure_alternately
from benchmarks.serving import CLIP, create_job, serve_application, upload

CALLS = 60
ROUNDS = 7
OURS, PLAIN = "create a job", "plain FastAPI"

METHOD = f"""\
`POST /v1/videos` with a file id, which validates the request and stores the job durably before it responds, against a
plain FastAPI route that reads the same JSON and returns an object of the same size. Same Ray, same proxy, one client,
sequential calls over one connection, and no job runner. Each measurement is the median of {CALLS} calls; {ROUNDS}
rounds with alternating order after a warm-up round."""

plain = FastAPI()


@plain.post("/v1/videos")
async def echo(request: Request) -> dict[str, Any]:
    """Read the body and return a response as long as that of a job."""
    asked = await request.json()
    return {"id": "video_0", "params": asked, "filler": "x" * 800}


def measure() -> Report:
    """Compare both calls."""
    with serve_application({"max_queued_jobs": 100_000}, run_jobs=False) as client:
        ingress = cast("Any", serve.deployment(cast("Any", serve.ingress(plain))(type("Plain", (), {}))))
        options = {"ray_actor_options": {"num_cpus": 0.1}, "max_ongoing_requests": 256}
        serve.run(ingress.options(**options).bind(), name="plain", route_prefix="/plain")
        fields = {"input_video": upload(client, CLIP), "prompt": "a meadow", "seed": 1}
        answer = client.post("/plain/v1/videos", json={"model": "v2v", **fields})
        answer.raise_for_status()

        def ours() -> float:
            return _median_ms(lambda: create_job(client, **fields))

        def theirs() -> float:
            return _median_ms(lambda: _plain(client, fields))

        samples = measure_alternately({OURS: ours, PLAIN: theirs}, ROUNDS)
    added = [a - b for a, b in zip(samples[OURS], samples[PLAIN], strict=True)]
    rows: list[Row] = [{"call": name, "ms": str(find_spread(samples[name]))} for name in (OURS, PLAIN)]
    rows.append({"call": "added", "ms": str(find_spread(added))})
    goal = Goal("added milliseconds at the median", find_spread(added).median, 10.0, at_most=True)
    return Report("The cost of taking a job", METHOD, rows, [goal], samples, ("ray", "fastapi", "sqlalchemy"))


def _plain(client: httpx.Client, fields: dict[str, Any]) -> None:
    client.post("/plain/v1/videos", json={"model": "v2v", **fields}).raise_for_status()


def _median_ms(call: Callable[[], object]) -> float:
    took: list[float] = []
    for _ in range(CALLS):
        begun = time.perf_counter()
        call()
        took.append((time.perf_counter() - begun) * 1000)
    return find_spread(took).median
